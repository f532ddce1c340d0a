"""Runs whose data were packed anew, and runs that were moved, with their data, without them, or away from a parent."""

import json
import os
import shlex
import shutil

import pytest
from typer.testing import CliRunner

from hrfr_fast.analysis.run import analyze
from hrfr_fast.cli import app
from hrfr_fast.evaluation.evaluate import evaluate
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.checkpoint import load_module, read_metadata, save_weights
from hrfr_fast.model.lineage import UNKNOWN, changed_training_splits
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import Interrupted, UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trainer import Trainer, train

CHILD = """
sources = ["lowres"]
input_size = 32
parents = ["parent"]
inherit_head = true
phases = [{train = ["output", "head"]}]
"""
SMALL = TrainSettings(
    regime="lowres32", data="packed", out="runs/parent", steps=4, batch_size=16, width=8, embedding_size=16,
    device="cpu", eval_every=0,
)  # fmt: skip


class Stop:
    """Stands in for StopFlag: stops after the second step."""

    signal_number = 15
    looks = 2

    def __bool__(self):
        self.looks -= 1
        return self.looks <= 0


def packed_at(tree, out, **how):
    return pack(tree, out, workers=1, show_progress=False, **({"dev_identities": 4} | how))


def stopped(settings):
    """What a run that is stopped after two steps says; its checkpoint is written."""
    with Trainer(build(settings), show_progress=False) as trainer, pytest.raises(Interrupted) as told:
        trainer.start()
        trainer.loop(Stop())
    return str(told.value)


@pytest.fixture(scope="module")
def made(tiny_tree, tmp_path_factory):
    """A finished parent and a child stopped in the middle, trained from a working directory by relative paths."""
    root = tmp_path_factory.mktemp("lineage") / "project"
    packed_at(tiny_tree, root / "packed")
    (root / "child.toml").write_text(CHILD)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(SMALL, show_progress=False)
        said = stopped(SMALL.replaced(regime="child.toml", out="runs/child run"))
    (root / "said.txt").write_text(said)
    return root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of it that lies elsewhere, while the first is not there; the working directory is neither."""
    hidden = made.with_name("hidden")
    made.rename(hidden)
    shutil.copytree(hidden, tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "moved"
    hidden.rename(made)


def run_cli(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def resume(run, **more):
    return train(TrainSettings(out=str(run), device="cpu").replaced(**more), resume=True, show_progress=False)


def test_the_printed_command_goes_on_from_any_directory(made, tmp_path, monkeypatch):
    command = shlex.split((made / "said.txt").read_text().splitlines()[-1])
    assert command[:2] == ["hrfr-fast", "train"] and made / "runs" / "child run" in map(type(made), command)
    shutil.copytree(made, tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    done = run_cli(*command[1:], "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert (made / "runs" / "child run" / "results.json").exists()
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made)


def test_a_moved_project_is_evaluated_analysed_and_resumed(project):
    run = project / "runs" / "child run"
    known = evaluate(project / "runs" / "parent", device="cpu")
    assert {result.pairs.kind for result in known.values()} == {"test", "development"}
    assert not any("trained on" in note for result in known.values() for note in result.to_json()["notes"])
    assert evaluate(run, names=["hres"], device="cpu")
    assert analyze([run], project / "analysis", device="cpu", questions=["kernels"], show_progress=False)
    assert resume(run).steps == 4
    assert str(project) in (run / "settings.toml").read_text(), "from now on it knows where things lie"


def test_data_and_parents_that_are_not_found_are_named_and_can_be_given(project, tmp_path):
    run, data, parent = project / "runs" / "child run", tmp_path / "a" / "faces", tmp_path / "b" / "older"
    data.parent.mkdir()
    parent.parent.mkdir()
    shutil.move(project / "packed", data)
    with pytest.raises(UsageError, match=r"lineage(.|\n)*/project/packed: no such dir(.|\n)*with --data"):
        resume(run)
    with pytest.raises(UsageError, match=r"no longer at .*/project/packed(.|\n)*with --pairs"):
        evaluate(run, device="cpu")
    assert evaluate(run, pairs=data, names=["dev-lowres"], device="cpu")["dev-lowres"].pairs.kind == "development"
    shutil.move(project / "runs" / "parent", parent)
    with pytest.raises(UsageError, match=r"runs/parent: no checkpoint there(.|\n)*with --init"):
        resume(run, data=str(data))
    with pytest.raises(UsageError, match="another checkpoint, by its digest"):
        resume(run, data=str(data), init=str(run))
    done = run_cli("train", "--out", run, "--resume", "--data", data, "--init", parent)
    assert done.exit_code == 0, done.output


def test_data_packed_anew_are_never_called_development(project, tiny_tree):
    """The people that are held out now may have been trained on; where they are told of, this is told too."""
    run, packed = project / "runs" / "parent", project / "packed"
    packed_at(tiny_tree, packed, dev_identities=6)
    printed = json.loads(run_cli("evaluate", run, "--json", "--device", "cpu").stdout)
    assert {name: one["kind"] for name, one in printed.items()} == {
        "dev-highres": UNKNOWN, "dev-lowres": UNKNOWN, "hres": "test",
    }  # fmt: skip
    assert all("it was trained on another lowres than" in one["notes"][0] for one in printed.values())
    assert "no development pairs of this model" in run_cli("evaluate", run, "--device", "cpu").stdout
    with pytest.raises(UsageError, match=r"other data \(lowres"):
        resume(project / "runs" / "child run")
    [finding] = analyze([run], project / "a", device="cpu", questions=["kernels"], show_progress=False)
    assert "Note on parent" in finding.answer and "trained on another lowres" in finding.answer
    assert "Note on parent" in json.loads((project / "a" / "kernels.json").read_text())["answer"]


def test_a_parent_of_other_data_leaves_its_mark_on_the_child(project, tiny_tree, capfd):
    packed_at(tiny_tree, project / "packed", dev_identities=6)
    settings = SMALL.replaced(
        data=str(project / "packed"), out=str(project / "runs" / "again"), init=str(project / "runs" / "parent")
    )
    with pytest.raises(UsageError, match="identities"):
        train(settings.replaced(regime=str(project / "child.toml")), show_progress=False)
    (project / "fresh.toml").write_text(CHILD.replace("inherit_head = true", ""))
    result = train(settings.replaced(regime=str(project / "fresh.toml")), show_progress=False)
    assert "note on" in capfd.readouterr().err
    assert {name: one.pairs.kind for name, one in result.results.items()}["dev-lowres"] == UNKNOWN
    assert "trained on another lowres" in result.report.read_text()
    assert read_metadata(result.run / "checkpoints" / "best.safetensors")["selected_on"] is None
    again = evaluate(result.run, device="cpu")["dev-lowres"]
    assert again.pairs.kind == UNKNOWN, "a checkpoint knows what its parents were trained on"


def test_a_pack_that_gained_a_pair_set_is_no_other_data(project, tiny_tree):
    tree, run = project / "tree", project / "runs" / "parent"
    shutil.copytree(tiny_tree, tree)
    pairs = tree / "hres_eval_pairs"
    identities = sorted(path for path in (tree / "highres_eval").iterdir())
    lines = []
    for one, two in zip(identities, identities[1:] + identities[:1], strict=True):
        first, second = (os.path.relpath(path, pairs) for path in sorted(one.iterdir())[:2])
        lines += [f"{first},{second},1", f"{first},{os.path.relpath(sorted(two.iterdir())[0], pairs)},0"]
    (pairs / "more.csv").write_text("\n".join(lines))
    before = open_packed(project / "packed").digest
    packed_at(tree, project / "packed")
    packed = open_packed(project / "packed")
    assert packed.digest != before and "more" in packed.pairs
    results = evaluate(run, device="cpu")
    assert results["dev-lowres"].pairs.kind == "development"
    assert not any("trained" in note for result in results.values() for note in result.to_json()["notes"])
    assert resume(project / "runs" / "child run").results.keys() == results.keys()


def test_a_checkpoint_of_an_older_version_has_only_the_digest_of_everything(project, tiny_tree):
    """It still loads; other data are told, though not which."""
    weights = project / "runs" / "parent" / "checkpoints" / "last.safetensors"
    metadata = read_metadata(weights)
    metadata["data"] = {name: metadata["data"][name] for name in ("path", "digest")}
    del metadata["head"]["people"]
    setup = build(SMALL.replaced(data=str(project / "packed"), out=str(project / "x")))
    with Trainer(setup, show_progress=False):
        load_module(weights, "backbone", setup.backbone)
        load_module(weights, "head", setup.head)
        save_weights(weights, setup.backbone, setup.head, metadata)
    manifest = open_packed(project / "packed").manifest
    assert changed_training_splits(metadata, manifest) == [] and changed_training_splits(
        metadata, manifest | {"digest": "other"}
    ) == ["data"]
    shutil.copytree(project / "packed", project / "runs" / "packed")
    assert evaluate(weights, pairs=project / "packed", device="cpu")["dev-lowres"].pairs.kind == "development"
    packed_at(tiny_tree, project / "packed", dev_identities=6)
    result = evaluate(weights, pairs=project / "packed", device="cpu")["dev-lowres"].to_json()
    assert result["kind"] == UNKNOWN and "trained on other data" in result["notes"][0]
