"""An adopted run from end to end: evaluated, fine-tuned with adapters, and told apart from what is known."""

import pytest
import torch
from public_checkpoints import public_state_dict
from typer.testing import CliRunner

from hrfr_fast.cli import app
from hrfr_fast.deployment.run_thresholds import best_pairs, data_of
from hrfr_fast.evaluation.evaluate import evaluate
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.checkpoint import read_metadata
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.parents import Parent
from hrfr_fast.training.trainer import train

pytest.importorskip("safetensors")

CHILD = """
sources = ["highres"]
input_size = 32
parents = ["runs/public"]
batchnorm = "{batchnorm}"
"""


@pytest.fixture(scope="module")
def project(tiny_packed, tmp_path_factory):
    """A directory with a public checkpoint, adopted through the command line, and what that printed."""
    folder = tmp_path_factory.mktemp("adopted")
    torch.save(public_state_dict("adaface", "ir18", prefix="model."), folder / "weights.ckpt")
    arguments = ["adopt", folder / "weights.ckpt", "--out", folder / "run", "--check", tiny_packed, "--device", "cpu"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return folder, tiny_packed, " ".join(done.output.split())


def test_it_says_what_it_found_and_checked(project):
    folder, _, printed = project
    assert "ir18 of width 8, 16 dimensions, 32 px, as adaface has it; fed BGR" in printed
    assert "with red and blue exchanged" in printed and f"run: {folder / 'run'}" in printed


def test_it_is_evaluated_where_data_are_named(project):
    folder, packed, _ = project
    with pytest.raises(UsageError, match="a public checkpoint, which comes without data; say with --pairs"):
        evaluate(folder / "run", device="cpu")
    result = evaluate(folder / "run", pairs=packed, device="cpu")["hres"].to_json()
    assert sum("it stems from a public checkpoint" in note for note in result["notes"]) == 1


def test_training_goes_on_from_it(project, tmp_path):
    folder, packed, _ = project
    (tmp_path / "child.toml").write_text(CHILD.format(batchnorm="frozen"))
    settings = TrainSettings(
        regime=str(tmp_path / "child.toml"), data=str(packed), init=str(folder / "run"), out=str(tmp_path / "child"),
        steps=2, batch_size=8, device="cpu", eval_every=0, tune="lora", lora_rank=2, precision="fp32",
    )  # fmt: skip
    result = train(settings, show_progress=False)
    metadata = read_metadata(result.run / "checkpoints" / "last.safetensors")
    assert metadata["backbone"]["name"] == "ir18" and metadata["parents"][0]["trained_on"].keys() == {"adopted"}
    with pytest.raises(UsageError, match="holds a checkpoint already: choose another --out"):
        train(settings.replaced(out=str(folder / "run")), show_progress=False)
    again = evaluate(result.run, device="cpu", precision="fp32")["hres"]
    assert again.verification.accuracy == result.results["hres"].verification.accuracy
    assert sum("it stems from a public checkpoint" in note for note in again.to_json()["notes"]) == 1
    own = data_of(metadata, result.run / "checkpoints/last.safetensors")
    assert own and own.digest == open_packed(packed).digest, (
        "what it was fine-tuned on is known: exports are checked on it"
    )
    assert best_pairs(own, metadata).name == "hres"


def test_folded_statistics_cannot_move(project, tmp_path):
    folder, packed, _ = project
    from hrfr_fast.model import checkpoint
    from hrfr_fast.model.fused import build_model, model_settings

    metadata = read_metadata(folder / "run" / "checkpoints" / "last.safetensors")
    network = build_model(model_settings(metadata["backbone"]))
    metadata["adopted"]["folded"] = True
    checkpoint.save_weights(tmp_path / "folded.safetensors", network, torch.nn.Identity(), metadata)
    (tmp_path / "child.toml").write_text(CHILD.format(batchnorm="moving"))
    settings = TrainSettings(
        regime=str(tmp_path / "child.toml"), data=str(packed), init=str(tmp_path / "folded.safetensors"),
        out=str(tmp_path / "child"), steps=2, batch_size=8, device="cpu",
    )  # fmt: skip
    with pytest.raises(UsageError, match="--batchnorm frozen"):
        build(settings)
    child = metadata | {"adopted": {}, "parents": [Parent(tmp_path / "folded.safetensors", metadata).to_json(tmp_path)]}
    checkpoint.save_weights(tmp_path / "grandchild.safetensors", network, torch.nn.Identity(), child)
    with pytest.raises(UsageError, match="grandchild.safetensors: its BatchNorm was folded"):
        build(settings.replaced(init=str(tmp_path / "grandchild.safetensors")))
