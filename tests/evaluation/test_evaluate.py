"""From checkpoints and pictures to results: the embedding rule, unseen pairs, and what a wrong request is told."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from hrfr_fast.evaluation.embedding import distinct_pictures, embed, pair_scores
from hrfr_fast.evaluation.evaluate import evaluate, verifiable
from hrfr_fast.evaluation.views import parse_view, view_name, view_notes
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.trainer import train


@pytest.fixture(scope="module")
def run(tiny_packed, tmp_path_factory):
    """A model hardly trained."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(
        TrainSettings(regime="lowres32", data=str(tiny_packed), out=str(out), steps=2, batch_size=16, width=8,
                      embedding_size=16, device="cpu"),
        show_progress=False,
    )  # fmt: skip
    return out


def test_an_embedding_is_the_normalised_sum_of_both_sides(tiny_packed):
    split = open_packed(tiny_packed).splits["highres_eval"]
    compute = choose_compute("cpu", "fp32")
    torch.manual_seed(0)
    backbone = compute.place(build_backbone(BackboneSettings(input_size=144, width=8, embedding_size=16))).eval()
    records = np.array([5, 0, 3])
    pixels = torch.from_numpy(split.read(records)).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    with torch.no_grad():
        both = backbone(pixels) + backbone(pixels.flip(3))
    expected = (both / both.norm(dim=1, keepdim=True)).numpy()
    backbone.train()
    found = embed(backbone, split, 144, compute, records=records, batch_size=2)
    assert np.abs(found - expected).max() < 1e-4
    assert backbone.training, "given back as it was"


def test_a_degraded_view_differs_and_a_repeated_picture_scores_one(tiny_packed):
    pairs = open_packed(tiny_packed).pairs["hres"]
    compute = choose_compute("cpu", "fp32")
    backbone = compute.place(build_backbone(BackboneSettings(input_size=32, width=8, embedding_size=16))).eval()
    sharp, dull = (pair_scores(backbone, pairs, 32, compute, degrade=side) for side in (0, 8))
    assert np.abs(sharp - dull).max() > 1e-3 and np.abs(sharp).max() <= 1 + 1e-6
    unique, place = distinct_pictures(pairs.split)
    pictures = pairs.split.read(np.arange(pairs.split.samples))
    assert (pictures == pictures[unique[place]]).all()
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(unique)


def test_a_pair_set_with_too_few_pairs_is_left_out_by_name(tiny_packed):
    pairs = open_packed(tiny_packed).pairs["hres"]
    few = replace(pairs, name="few")
    few.__dict__["same"] = np.arange(len(pairs)) < 4  # where the cached property keeps it
    said = []
    assert verifiable([few, pairs], said.append) == [pairs]
    assert len(said) == 1 and "few is left out: 4 genuine" in said[0]


def test_each_side_of_a_pair_can_have_a_view_of_its_own(tiny_packed):
    """HR-LR scores are the cosines of embeddings made one picture at a time."""
    pairs = open_packed(tiny_packed).pairs["hres"]
    compute = choose_compute("cpu", "fp32")
    backbone = compute.place(build_backbone(BackboneSettings(input_size=32, width=8, embedding_size=16))).eval()
    scores = pair_scores(backbone, pairs, 32, compute, degrade=(0, 12))
    for pair in (0, 7, len(pairs) - 1):
        sharp = embed(backbone, pairs.split, 32, compute, records=np.array([2 * pair]))
        dull = embed(backbone, pairs.split, 32, compute, records=np.array([2 * pair + 1]), degrade=12)
        assert scores[pair] == pytest.approx(float(sharp[0] @ dull[0]), abs=1e-5)


@pytest.mark.parametrize("name,degrade", [("hr", (0, 0)), ("lr36", (36, 36)), ("hr-lr32", (0, 32)), ("lr8-hr", (8, 0))])
def test_views_have_names(name, degrade):
    assert parse_view(name) == degrade and view_name(degrade) == name


@pytest.mark.parametrize("name", ["", "lr", "lr0", "hr-", "hr-lr36-hr", "36", "LR36"])
def test_other_views_are_refused(name):
    with pytest.raises(UsageError, match="--view"):
        parse_view(name)


def test_what_a_view_does_not_show_is_said(run):
    results = evaluate(run, device="cpu", degrade=parse_view("hr-lr36"))["hres"].to_json()
    assert results["view"] == "hr-lr36" and any("32-px model" in note for note in results["notes"])
    assert view_notes((0, 36), 144, 144) == () and "takes nothing away" in view_notes(36, 144, 36)[0]


def test_pairs_the_run_has_not_seen(run, tiny_tree, tmp_path):
    """A folder with a CSV list is packed on the fly; the same pictures give the same scores as packed ones."""
    folder = tmp_path / "others"
    shutil.copytree(tiny_tree / "highres_eval", folder / "faces")
    identities = sorted(path.name for path in (folder / "faces").iterdir())
    lines = []
    for first, second in zip(identities, identities[1:] + identities[:1], strict=True):
        one, two = sorted((folder / "faces" / first).iterdir())[:2]
        other = sorted((folder / "faces" / second).iterdir())[0]
        lines += [f"faces/{first}/{one.name},faces/{first}/{two.name},1", f"faces/{first}/{one.name},"
                  f"faces/{second}/{other.name},0"]  # fmt: skip
    (folder / "mine.csv").write_text("\n".join(lines))
    results = evaluate(run, pairs=folder, device="cpu")
    assert list(results) == ["mine"] and results["mine"].to_json()["pairs"] == len(lines)
    assert results["mine"].verification.interval_level in ("identity", "pair")


def test_the_command_prints_one_json_object(run):
    from typer.testing import CliRunner

    from hrfr_fast.cli import app

    done = CliRunner().invoke(app, ["evaluate", str(run), "--json", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert {"accuracy", "accuracy_ci", "auc", "eer", "tar_at_far", "pairs"} <= set(printed["hres"])
    low, high = printed["hres"]["accuracy_ci"]
    assert low <= printed["hres"]["accuracy"] <= high


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"run_or_checkpoint": "/nowhere"}, "no such checkpoint"),
        ({"names": ["none"]}, "no pair set is called 'none'; there are hres"),
        ({"pairs": "/nowhere"}, "no such directory of pairs"),
    ],
    ids=["run", "name", "pairs"],
)
def test_a_wrong_request_is_told_what_is_wrong(run, arguments, message):
    with pytest.raises(UsageError, match=message):
        evaluate(**{"run_or_checkpoint": run, "device": "cpu"} | arguments)


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="not a readable safetensors file"):
        evaluate(path, device="cpu")


def pairs_of_training_pictures(tree, folder):
    """A folder of pairs, all of them pictures of ``highres``."""
    shutil.copytree(tree / "highres", folder / "faces")
    faces = [sorted(one.iterdir()) for one in sorted((folder / "faces").iterdir())]
    people = [[path.relative_to(folder) for path in one] for one in faces]
    genuine = [f"{one[0]},{one[1]},1" for one in people]
    impostor = [f"{one[0]},{other[1]},0" for one, other in zip(people, people[1:] + people[:1], strict=True)]
    (folder / "mine.csv").write_text("\n".join([*genuine, *impostor]))
    return folder


def test_a_folder_of_training_pictures_is_told_beside_the_accuracy(run, tiny_tree, tmp_path):
    """The same as when it is packed; the identities are known, too."""
    from typer.testing import CliRunner

    from hrfr_fast.cli import app

    folder = pairs_of_training_pictures(tiny_tree, tmp_path / "others")
    (folder / "pairs.txt").write_text("10 300")
    command = ["evaluate", str(run), "--pairs", str(folder), "--device", "cpu"]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    told = "48 of its 48 pictures are also in the training split highres"
    assert told in printed.output and "others/pairs.txt was left out" in printed.output
    result = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["mine"]
    assert any(told in note for note in result["notes"]) and result["interval_level"] == "identity"
    assert result["overlap"] == {"highres": 48} and result["defects"]["identity_overlap"] == {"highres": 48}


def test_pairs_packed_elsewhere_are_compared_with_what_the_run_was_trained_on(run, tiny_tree, tmp_path):
    """There the training pictures of the run are test pictures, of which that pack can know nothing."""
    tree = tmp_path / "data"
    shutil.copytree(tiny_tree / "highres", tree / "highres_eval")
    pairs_of_training_pictures(tiny_tree, tree / "hres_eval_pairs")
    pack(tree, tmp_path / "packed", workers=1, show_progress=False)
    assert open_packed(tmp_path / "packed").pairs["mine"].overlap == {}
    result = evaluate(run, pairs=tmp_path / "packed", device="cpu")["mine"].to_json()
    assert result["overlap"] == {"highres": 48} and any("48 of its 48 pictures" in note for note in result["notes"])


def test_without_its_training_data_nobody_can_tell_what_a_run_has_seen(run, tiny_packed, tiny_tree, tmp_path):
    folder = pairs_of_training_pictures(tiny_tree, tmp_path / "others")
    hidden = tiny_packed.with_name("hidden")
    tiny_packed.rename(hidden)
    try:
        result = evaluate(run, pairs=folder, device="cpu")["mine"].to_json()
        moved = evaluate(run, pairs=hidden, names=["hres"], device="cpu")["hres"].to_json()
    finally:
        hidden.rename(tiny_packed)
    assert any("whether it has seen these people is unknown" in note for note in result["notes"])
    assert not any("unknown" in note for note in moved["notes"]), "these are its training data, at another place"


def test_channels_in_the_other_order_are_refused_in_a_folder_of_pairs_too(run, tiny_packed, tmp_path):
    known = open_packed(tiny_packed).pairs["hres"]
    values = known.split.read(np.arange(known.split.samples)).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    (tmp_path / "sets").mkdir()
    bcolz = pytest.importorskip("bcolz")
    bcolz.carray(values, rootdir=str(tmp_path / "sets/rgb"), mode="w").flush()
    np.save(tmp_path / "sets/rgb_list.npy", known.same)
    with pytest.raises(UsageError, match="--carray-channels rgb=rgb"):
        evaluate(run, pairs=tmp_path / "sets", device="cpu")
    found = evaluate(run, pairs=tmp_path / "sets", device="cpu", carray_channels="rgb")["rgb"]
    expected = evaluate(run, names=["hres"], device="cpu")["hres"]
    assert found.verification.scores == pytest.approx(expected.verification.scores)
    assert found.verification.accuracy_ci == expected.verification.accuracy_ci
