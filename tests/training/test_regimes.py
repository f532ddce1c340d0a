"""Every regime trains, is verified and resumes; what is frozen stays, to the bit."""

import signal
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hrfr_fast.errors import Interrupted
from hrfr_fast.evaluation.evaluate import evaluate
from hrfr_fast.regimes import REGIMES
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.trainer import Trainer, train

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="session")
def settings(tiny_packed):
    return TrainSettings(
        regime="lowres32", data=str(tiny_packed), steps=5, batch_size=8, width=8, embedding_size=16,
        device="cpu", eval_every=0, log_every=2, learning_rate=0.05, highres_share=0.5, dropout=0.1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def parents(settings, tmp_path_factory):
    """A directory of runs with the three regimes that others start from."""
    runs = tmp_path_factory.mktemp("runs")
    for regime in ("lowres32", "lowres144", "highres144"):
        train(replace(settings, regime=regime, out=str(runs / regime)), show_progress=False)
    return runs


@pytest.fixture
def runs(parents, tmp_path):
    """The parents, and room for the runs of one test beside them."""
    for parent in parents.iterdir():
        (tmp_path / parent.name).symlink_to(parent)
    return tmp_path


def weights(run, prefix=""):
    tensors = load_file(Path(run) / "checkpoints" / "last.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def stop_after(settings, steps):
    """Train with a signal after so many steps."""

    class Flag:
        signal_number, looks = signal.SIGTERM, 0

        def __bool__(self):
            self.looks += 1
            return self.looks >= steps

    with Trainer(settings, show_progress=False) as trainer, pytest.raises(Interrupted):
        trainer.start()
        trainer.loop(Flag())


@pytest.mark.parametrize(
    "regime", [name for name in REGIMES if name not in ("lowres32", "lowres144", "fused-untrained")]
)
def test_every_regime_trains_resumes_to_the_bit_and_is_verified(settings, runs, regime):
    whole = replace(settings, regime=regime, out=str(runs / "whole"))
    parts = replace(whole, out=str(runs / "parts"))
    result = train(whole, show_progress=False)
    stop_after(parts, 1 if len(REGIMES[regime].phases) > 1 else 3)  # two phases: exactly between them
    train(TrainSettings(out=parts.out, device="cpu"), resume=True, show_progress=False)
    one, other = weights(whole.out), weights(parts.out)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert evaluate(whole.out, device="cpu")["hres"].to_json() == result.results["hres"].to_json()
    assert tomllib.loads((runs / "whole" / "regime.toml").read_text())["name"] == regime
