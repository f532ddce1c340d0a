"""What version 0.1.0 wrote still loads: settings, regimes, checkpoints, runs of a study (files in version_0_1_0)."""

import json
from pathlib import Path

import pytest
import torch

from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.writer import ROW
from hrfr_fast.packing.journal import Journal
from hrfr_fast.regimes import REGIMES, load_regime
from hrfr_fast.settings import TrainSettings, load_settings
from hrfr_fast.study.run import planned
from hrfr_fast.study.states import SAME, status
from hrfr_fast.training.build import build
from hrfr_fast.training.state import STATE_FILE
from hrfr_fast.training.trainer import Trainer

FILES = Path(__file__).parent / "version_0_1_0"


def test_settings_that_spelt_not_set_as_0_or_less():
    settings = load_settings(FILES / "settings.toml")
    asked = {"regime": "crossres144", "out": "r/crossres144", "steps": 3, "batch_size": 16, "width": 8}
    asked |= {"embedding_size": 16, "device": "cpu", "engine": "resident", "precision": "fp32"}
    asked |= {
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
    }  # every value was in the file, and these are now the optimiser's
    assert settings == TrainSettings(**asked)
    assert settings.loss.margin is settings.budget.plateau is settings.init is None


def test_a_regime():
    assert load_regime(FILES / "regime.toml") == REGIMES["crossres144"]


@pytest.mark.parametrize("label", ["crossres144", "lowres144-finetuned"])
def test_a_run_of_a_study_is_known_again(tiny_packed, tmp_path, label):
    plan = planned([label], tiny_packed, tmp_path, preset="cpu-small", seeds=1)
    [run] = plan.of(label)
    known = json.loads((FILES / "study-jobs.json").read_text(encoding="utf-8"))[label]
    known["data_digest"] = plan.packed.digest
    known["settings"]["eval_every"] = run.settings.logging.eval_every  # it follows from the number of faces
    run.directory.mkdir(parents=True)
    (run.directory / SAME).write_text(json.dumps(known), encoding="utf-8")
    (run.directory / "settings.toml").write_bytes((FILES / "settings.toml").read_bytes())
    assert status(run, plan.packed) == "begun"


def test_what_an_interrupted_pack_was_writing_is_begun_anew(tmp_path):
    """The journal of 0.1.0 had no checksums of the other two files."""
    key = {"format": 1, "size": 36}
    (tmp_path / "lowres.journal").write_text(f"{json.dumps(key)}\n[2, 2, 0]\n", encoding="utf-8")
    (tmp_path / "lowres.rows").write_bytes(bytes(2 * ROW.itemsize))
    (tmp_path / "lowres.rejected").touch()
    journal = Journal(tmp_path, "lowres", key)
    journal.close()
    assert not journal.continued and journal.candidates == 0 and len(journal.rows()) == 0


def test_a_checkpoint(tiny_packed, tmp_path):
    """Weights for others load strictly, and a run goes on from the state beside them."""
    safetensors = pytest.importorskip("safetensors.torch")
    from hrfr_fast.evaluation.evaluate import load_backbone
    from hrfr_fast.runtime.device import choose_compute

    kept = json.loads((FILES / "checkpoint.json").read_text(encoding="utf-8"))
    tensors = {name: torch.zeros(shape, dtype=getattr(torch, kind)) for name, (kind, shape) in kept["tensors"].items()}
    metadata = {"format": kept["format"], "hrfr": json.dumps(kept["metadata"])}
    safetensors.save_file(tensors, str(tmp_path / "last.safetensors"), metadata=metadata)
    backbone, read = load_backbone(tmp_path / "last.safetensors", choose_compute("cpu", "fp32"))
    assert read == kept["metadata"] and sum(one.abs().sum() for one in backbone.parameters()) == 0

    settings = TrainSettings(
        regime="lowres32", data=str(tiny_packed), out=str(tmp_path / "run"), width=8, embedding_size=16, batch_size=16,
        steps=3, device="cpu",
    )  # fmt: skip
    with Trainer(build(settings), False) as trainer:
        trainer.start()
        trainer.step(next(iter(trainer.setup.engine.batches(0, 16))))
        trainer.state.save()
    path = tmp_path / "run" / "checkpoints" / STATE_FILE
    state = torch.load(path, weights_only=True)
    torch.save({name: state[name] for name in kept["state_keys"]} | {"plateau": kept["plateau"]}, path)
    with Trainer(build(settings), False) as trainer:
        trainer.state.restore()
        assert trainer.state.step == 1 and open_packed(tiny_packed).digest == state["data_digest"]
