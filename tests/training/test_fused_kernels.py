"""Which runs compute with GPU kernels of our own."""

import pytest
import torch

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.fused import FusedSettings
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import SPEED_ONLY, TrainSettings
from hrfr_fast.training import gpu_kernels
from hrfr_fast.training.compiling import compile_choice
from hrfr_fast.training.gpu_kernels import Measurement, kernels_choice, with_kernels

CPU = Compute(torch.device("cpu"), None, scaled=False)
CUDA = Compute(torch.device("cuda"), torch.bfloat16, scaled=False)
SHAPE = BackboneSettings(32, 8, 4)


def test_auto_is_off_until_a_card_was_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    assert TrainSettings().execution.gpu_kernels == "auto" and "gpu_kernels" in SPEED_ONLY
    assert gpu_kernels.MEASUREMENTS == () and not kernels_choice("auto", CUDA, SHAPE)
    rows = (Measurement("A card", "irse18", 32, 1.2), Measurement("A card", "irse18", 144, 0.9))
    monkeypatch.setattr(gpu_kernels, "MEASUREMENTS", rows)
    assert kernels_choice("auto", CUDA, SHAPE) and not kernels_choice("off", CUDA, SHAPE)
    assert not kernels_choice("auto", CUDA, BackboneSettings(144)), "slower there"
    assert not kernels_choice("auto", CUDA, BackboneSettings(32, name="ir50")), "not measured"
    assert not kernels_choice("auto", CUDA, FusedSettings((BackboneSettings(144), SHAPE)))
    assert not kernels_choice("auto", CPU, SHAPE)


def test_asked_for_where_they_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UsageError, match="need an NVIDIA GPU; use --gpu-kernels auto or off"):
        kernels_choice("on", CPU, SHAPE)
    monkeypatch.setattr("hrfr_fast.runtime.device.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"need Triton \(pip install triton\)"):
        kernels_choice("on", CUDA, SHAPE)


def test_they_are_in_place_of_compiled_ones():
    assert compile_choice("auto", CUDA, 1e20, 1e15) == "auto"
    assert compile_choice("auto", CUDA, 1e20, 1e15, kernels=True) == "off"
    with pytest.raises(UsageError, match="leave --compile on or --gpu-kernels on out"):
        compile_choice("on", CUDA, 1e20, 1e15, kernels=True)


@pytest.mark.parametrize(
    "name,said", [("irse18", "convolutions and the head's softmax"), ("mobilefacenet", "compute the head's softmax")]
)
def test_what_they_compute_is_set_and_said(name, said, capsys):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    network, head = build_backbone(BackboneSettings(32, 8, 4, name=name)), build_head("arcface", 4, 5)
    keys = network.state_dict().keys()
    assert with_kernels(network, head, wanted=False) == (network, head)
    assert not (network.gpu_kernels or head.gpu_kernels or capsys.readouterr().err)
    with_kernels(network, head, wanted=True)
    assert head.gpu_kernels and network.gpu_kernels == (name == "irse18") and network.state_dict().keys() == keys
    streams = capsys.readouterr()
    assert said in " ".join((streams.out + streams.err).split())


def test_statistics_over_several_gpus_are_refused():
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build_backbone(SHAPE))
    with pytest.raises(UsageError, match="statistics over several GPUs"):
        with_kernels(network, build_head("arcface", 4, 5), wanted=True)
