"""Same seed, same machine, same bits: per engine, whatever the number of workers that packed the data."""

import os
from importlib.util import find_spec

import pytest
import torch

from hrfr_fast.engines.dali import dali_is_installed
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.determinism import WORKSPACE, deterministic
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.trainer import train

ENGINES = [
    pytest.param("resident"),
    pytest.param("dali", marks=pytest.mark.skipif(not dali_is_installed(), reason="DALI is not installed")),
    pytest.param("ffcv", marks=pytest.mark.skipif(find_spec("ffcv") is None, reason="FFCV is not installed")),
]


def trained(packed, run, **changed):
    load_file = pytest.importorskip("safetensors.torch").load_file
    settings = TrainSettings(
        regime="lowres32", data=str(packed), out=str(run), steps=3, batch_size=16, width=8, embedding_size=16,
        dropout=0.2, device="cpu", precision="fp32", eval_every=0,
    )  # fmt: skip
    train(settings.replaced(**changed), show_progress=False)
    return load_file(run / "checkpoints" / "last.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def first(tiny_packed, tmp_path_factory):
    return trained(tiny_packed, tmp_path_factory.mktemp("first") / "run")


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_runs_have_equal_weights_with_every_engine(tiny_packed, tmp_path, engine):
    runs = [trained(tiny_packed, tmp_path / name, engine=engine) for name in ("one", "other")]
    assert equal(*runs)


def test_data_packed_by_several_workers_and_another_seed(tiny_tree, tmp_path, first):
    pack(tiny_tree, tmp_path / "packed", workers=2, show_progress=False)
    assert equal(trained(tmp_path / "packed", tmp_path / "run"), first)
    assert not equal(trained(tmp_path / "packed", tmp_path / "other", seed=1), first)


def test_deterministic_changes_nothing_on_a_cpu(tiny_packed, tmp_path, first):
    assert equal(trained(tiny_packed, tmp_path / "run", deterministic=True), first)


def test_the_context_asks_torch_and_puts_everything_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv(WORKSPACE, raising=False)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled() and os.environ[WORKSPACE] == ":4096:8"
    with pytest.raises(UsageError, match="--deterministic: some_backward does not have"), deterministic(True):
        raise RuntimeError("some_backward does not have a deterministic implementation, but you set it. More")
    assert not torch.are_deterministic_algorithms_enabled() and WORKSPACE not in os.environ


@pytest.mark.gpu
def test_equal_runs_have_equal_weights_on_a_gpu(tiny_packed, tmp_path):
    settings = {"device": "cuda", "precision": "auto", "deterministic": True}
    assert equal(trained(tiny_packed, tmp_path / "one", **settings), trained(tiny_packed, tmp_path / "two", **settings))
