"""Which runs compute with fused kernels of our own."""

import pytest
import torch

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.fused import FusedSettings
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import SPEED_ONLY, TrainSettings
from hrfr_fast.training import fused_kernels
from hrfr_fast.training.compiling import compile_choice
from hrfr_fast.training.fused_kernels import Measurement, kernels_choice, with_kernels

CPU = Compute(torch.device("cpu"), None, scaled=False)
CUDA = Compute(torch.device("cuda"), torch.bfloat16, scaled=False)
SHAPE = BackboneSettings(32, 8, 4)


def test_on_a_cpu_auto_is_on_unless_the_step_is_compiled() -> None:
    assert TrainSettings().execution.fused_kernels == "auto" and "fused_kernels" in SPEED_ONLY
    assert kernels_choice("auto", CPU, SHAPE) and kernels_choice("on", CPU, SHAPE, "off")
    assert not kernels_choice("off", CPU, SHAPE) and not kernels_choice("auto", CPU, SHAPE, "on")
    assert not kernels_choice("auto", CPU, SHAPE, synchronised=True)


def test_on_a_gpu_auto_is_off_until_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    monkeypatch.setattr("hrfr_fast.runtime.device.find_spec", lambda name: object())
    assert not kernels_choice("auto", CUDA, SHAPE)
    rows = (Measurement("A card", "irse18", 32, 1.2), Measurement("A card", "irse18", 144, 0.9))
    monkeypatch.setattr(fused_kernels, "MEASUREMENTS", rows)
    assert kernels_choice("auto", CUDA, SHAPE) and not kernels_choice("off", CUDA, SHAPE)
    assert not kernels_choice("auto", CUDA, SHAPE, "on"), "the user asked for a compiled step"
    assert not kernels_choice("auto", CUDA, BackboneSettings(144)), "slower there"
    assert not kernels_choice("auto", CUDA, BackboneSettings(32, name="ir50")), "not measured"
    assert not kernels_choice("auto", CUDA, FusedSettings((BackboneSettings(144), SHAPE)))


def test_on_says_what_it_cannot_be_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for compute in (CPU, CUDA):
        with pytest.raises(UsageError, match="--fused-kernels on: .* leave --compile on out"):
            kernels_choice("on", compute, SHAPE, "on")
        with pytest.raises(UsageError, match="leave --sync-bn out"):
            kernels_choice("on", compute, SHAPE, synchronised=True)
    monkeypatch.setattr("hrfr_fast.runtime.device.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="`pip install triton`"):
        kernels_choice("on", CUDA, SHAPE)
    assert not kernels_choice("auto", CUDA, SHAPE)


def test_they_are_in_place_of_compiled_ones() -> None:
    assert compile_choice("auto", CUDA, 1e20, 1e15) == "auto"
    assert compile_choice("auto", CUDA, 1e20, 1e15, kernels=True) == "off"


@pytest.mark.parametrize("name", ["irse18", "mobilefacenet"])
def test_on_a_cpu_they_are_set_and_their_first_use_is_said(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, head = build_backbone(BackboneSettings(32, 8, 4, name=name)), build_head("arcface", 4, 5)
    assert with_kernels(network, head, CPU, wanted=False) == (network, head)
    assert not (network.cpu_kernels or head.fewer_passes)  # off: torch's layers
    for compiled_before in (True, False):
        monkeypatch.setattr(fused_kernels, "_compiled_before", lambda known=compiled_before: known)
        with_kernels(network, head, CPU, wanted=True)
        assert head.fewer_passes and network.cpu_kernels == (name == "irse18") and not network.gpu_kernels
        streams = capsys.readouterr()
        assert ("first step" in streams.out + streams.err) == (name == "irse18" and not compiled_before)


@pytest.mark.parametrize(
    "name,said", [("irse18", "convolutions and the head's softmax"), ("mobilefacenet", "compute the head's softmax")]
)
def test_on_a_gpu_what_they_compute_is_set_and_said(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    network, head = build_backbone(BackboneSettings(32, 8, 4, name=name)), build_head("arcface", 4, 5)
    keys = network.state_dict().keys()
    with_kernels(network, head, CUDA, wanted=True)
    assert head.gpu_kernels and network.gpu_kernels == (name == "irse18") and network.state_dict().keys() == keys
    streams = capsys.readouterr()
    assert said in " ".join((streams.out + streams.err).split())
