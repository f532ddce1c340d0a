"""Which runs compute with the CPU's kernels."""

import pytest
import torch

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.training.cpu_kernels import cpu_kernels_choice, use_cpu_kernels

GPU = Compute(torch.device("cuda"), torch.bfloat16, scaled=False)


def test_auto_is_on_on_a_cpu_unless_the_step_is_compiled() -> None:
    cpu = choose_compute("cpu", "fp32")
    assert cpu_kernels_choice("auto", cpu, "auto") and cpu_kernels_choice("on", cpu, "off")
    assert not cpu_kernels_choice("off", cpu, "auto") and not cpu_kernels_choice("auto", cpu, "on")
    assert not cpu_kernels_choice("auto", GPU, "auto")
    assert not cpu_kernels_choice("auto", cpu, "auto", synchronised=True)


def test_on_says_what_it_cannot_be_on_with() -> None:
    with pytest.raises(UsageError, match="on a GPU"):
        cpu_kernels_choice("on", GPU, "off")
    with pytest.raises(UsageError, match="cannot be compiled"):
        cpu_kernels_choice("on", choose_compute("cpu", "fp32"), "on")
    with pytest.raises(UsageError, match="leave --sync-bn out"):
        cpu_kernels_choice("on", choose_compute("cpu", "fp32"), "off", synchronised=True)


def test_a_run_with_them_uses_them_in_backbone_and_head() -> None:
    backbone, head = build_backbone(BackboneSettings(32, 8, 16)), build_head("arcface", 16, 3)
    assert not backbone.cpu_kernels and not head.fewer_passes  # off: today's operations
    use_cpu_kernels(backbone, head)
    assert backbone.cpu_kernels and head.fewer_passes
