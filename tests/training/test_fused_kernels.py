"""Which runs compute with fused kernels of our own."""

import pytest
import torch

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.heads import build_head
from hrfr_fast.model.kernels import cpu_use
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import SPEED_ONLY, TrainSettings
from hrfr_fast.training.compiling import compile_choice
from hrfr_fast.training.fused_kernels import kernels_choice, replace_compiled, with_kernels, worth_trying

CPU = Compute(torch.device("cpu"), None, scaled=False)
CUDA = Compute(torch.device("cuda"), torch.bfloat16, scaled=False)
SHAPE = BackboneSettings(32, 8, 4)


def test_on_a_cpu_auto_is_on_unless_the_step_is_compiled() -> None:
    assert TrainSettings().execution.fused_kernels == "auto" and "fused_kernels" in SPEED_ONLY
    assert kernels_choice("auto", CPU, SHAPE) == kernels_choice("on", CPU, SHAPE, "off") == "on"
    assert kernels_choice("off", CPU, SHAPE) == kernels_choice("auto", CPU, SHAPE, "on") == "off"
    assert kernels_choice("auto", CPU, SHAPE, synchronised=True) == "off"


def test_on_a_gpu_auto_is_left_to_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrfr_fast.runtime.device.find_spec", lambda name: object())
    assert kernels_choice("auto", CUDA, SHAPE) == "auto" and kernels_choice("off", CUDA, SHAPE) == "off"
    assert kernels_choice("on", CUDA, SHAPE, tried=False) == "on"
    assert kernels_choice("auto", CUDA, SHAPE, tried=False) == "off", "several ranks take no trial"
    assert kernels_choice("auto", CUDA, SHAPE, "on") == "off", "the user asked for a compiled step"


def test_the_trial_is_for_runs_that_pay_for_it_and_models_that_they_compute() -> None:
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    network, head = build_backbone(SHAPE), build_head("arcface", 4, 5)
    assert worth_trying(network, head, 1e20, 1e15) and not worth_trying(network, head, 1e15, 1e15)
    assert not worth_trying(network, head, 1e20, None), "a device whose speed is not known"
    other, large = build_backbone(BackboneSettings(32, 8, 4, name="mobilefacenet")), build_head("arcface", 8192, 5)
    assert worth_trying(other, head, 1e20, 1e15) and not worth_trying(other, large, 1e20, 1e15)


def test_on_a_hopper_they_stand_in_for_compiled_steps_of_networks_that_they_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, other = build_backbone(SHAPE), build_backbone(BackboneSettings(32, 8, 4, name="mobilefacenet"))
    for capability, replaces in (((9, 0), True), ((8, 0), False)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device, found=capability: found)
        for graphs in ("auto", "on"):
            assert replace_compiled(CUDA, network, graphs) == replaces and not replace_compiled(CUDA, other, graphs)
        assert not replace_compiled(CUDA, network, "off"), "only captured steps were compared"
    assert not replace_compiled(CPU, network, "auto")


def test_on_says_what_it_cannot_be_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for compute in (CPU, CUDA):
        with pytest.raises(UsageError, match="--fused-kernels on: .* leave --compile on out"):
            kernels_choice("on", compute, SHAPE, "on")
        with pytest.raises(UsageError, match="leave --sync-bn out"):
            kernels_choice("on", compute, SHAPE, synchronised=True)
    monkeypatch.setattr("hrfr_fast.runtime.device.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="`pip install triton`"):
        kernels_choice("on", CUDA, SHAPE)
    assert kernels_choice("auto", CUDA, SHAPE) == "off"


def test_they_are_in_place_of_compiled_ones() -> None:
    assert compile_choice("auto", CUDA, 1e20, 1e15, kernels="auto") == "auto"
    assert compile_choice("auto", CUDA, 1e20, 1e15, kernels="on") == "off"


@pytest.mark.parametrize("name", ["irse18", "mobilefacenet"])
def test_on_a_cpu_they_are_set_and_their_first_use_is_said(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, head = build_backbone(BackboneSettings(32, 8, 4, name=name)), build_head("arcface", 4, 5)
    assert with_kernels(network, head, CPU, wanted=False) == (network, head)
    assert not (network.cpu_kernels or head.cpu_kernels)  # off: torch's layers
    for compiled_before in (True, False):
        monkeypatch.setattr(cpu_use, "compiled_before", lambda known=compiled_before: known)
        with_kernels(network, head, CPU, wanted=True)
        assert head.cpu_kernels and network.cpu_kernels == (name == "irse18") and not network.gpu_kernels
        streams = capsys.readouterr()
        assert ("first used" in streams.out + streams.err) == (name == "irse18" and not compiled_before)


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
