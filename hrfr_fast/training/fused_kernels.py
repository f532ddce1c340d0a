"""Whether a run computes with fused kernels what stands between convolutions, and the measurements of GPUs for it."""

from typing import TYPE_CHECKING, NamedTuple

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.progress import console

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.model.fused import FusedSettings
    from hrfr_fast.model.heads import MarginHead
    from hrfr_fast.runtime.device import Compute


class Measurement(NamedTuple):
    """Speed of the step with the kernels on one card, over the faster of torch's eager and compiled step."""

    card: str
    """As ``torch.cuda.get_device_name`` gives it."""
    backbone: str
    input_size: int
    ratio: float
    """Images/s with the kernels over images/s without."""


MEASUREMENTS: tuple[Measurement, ...] = (Measurement("NVIDIA H200", "irse18", 32, 0.89),)
"""One row a card, network and size (``benchmarks/RESULTS.md``, "On a GPU"). ``tools/gpu_check.py --part B --only
kernels`` measures irse18; ``ratio`` of its lines ``step at ... px`` goes here."""


def kernels_choice(
    choice: str, compute: "Compute", shape: "BackboneSettings | FusedSettings", compile: str = "auto", *,
    synchronised: bool = False,
) -> bool:  # fmt: skip
    """Whether to use the kernels, for ``auto | on | off``.

    auto: on every CPU, where the step was faster in every case that was measured, 1.1 to 1.7 times
    (``benchmarks/RESULTS.md``, "Steps on a CPU"); of GPUs on those that stand in ``MEASUREMENTS``.

    Args:
        compile: ``--compile`` as asked for; a compiled step has no use for them.
        synchronised: BatchNorm takes its statistics over several ranks, which the kernels cannot.

    Raises:
        UsageError: "on" where they cannot be.
    """
    obstacle = "" if choice == "off" else _obstacle(compute, shape, compile, synchronised)
    if choice == "on" and obstacle:
        raise UsageError(f"--fused-kernels on: {obstacle}, or use --fused-kernels auto")
    if obstacle and getattr(shape, "domain_norm", "shared") != "shared":
        console.print(f"fused kernels are off: {obstacle.partition(';')[0]}")
    if choice == "off" or obstacle:
        return False
    return choice == "on" or compute.device.type == "cpu" or _measured_faster(compute, shape)


def _obstacle(compute: "Compute", shape: "BackboneSettings | FusedSettings", compile: str, synchronised: bool) -> str:
    """Why the kernels cannot be used, and what would help; "" where they can."""
    from hrfr_fast.runtime.device import kernels_run_on

    if getattr(shape, "domain_norm", "shared") != "shared":
        return "they know one BatchNorm for all rows, and this network has one a resolution; leave domain_norm out"
    if compile == "on":
        return "they are in place of compiled ones; leave --compile on out"
    if synchronised:
        return "they know no statistics over several devices; leave --sync-bn out"
    if compute.device.type == "cuda" and not kernels_run_on(compute.device):
        return "they need Triton; `pip install triton`"
    return ""


def with_kernels(
    backbone: "nn.Module", head: "MarginHead", compute: "Compute", *, wanted: bool
) -> "tuple[nn.Module, MarginHead]":
    """Embedder and head, the kernels computing what they can of them where they are ``wanted``."""
    from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone

    networks = [part for part in backbone.modules() if isinstance(part, ImprovedResNetBackbone)] if wanted else []
    if wanted and compute.device.type == "cpu":
        for network in networks:
            network.cpu_kernels = True
        head.fewer_passes = True
        if networks and not _compiled_before():
            console.print("the CPU's kernels are compiled in the first step, once: about 15 seconds of CPU time")
        return backbone, head
    parts: list[str] = []
    for network in networks:
        network.gpu_kernels = True
        parts = ["what stands between the network's convolutions"]
    if wanted and head.shard is None and _head_fits(head):
        head.gpu_kernels = True
        parts.append("the head's softmax")
    if wanted:
        console.print(f"fused GPU kernels compute {' and '.join(parts) or 'nothing of this model'}")
    return backbone, head


def _compiled_before() -> bool:
    """Whether numba's cache holds the kernels, of any version."""
    from pathlib import Path

    from hrfr_fast.model.kernels.norm_numba import moments  # numba: 0.5 s to import

    folder = moments.stats.cache_path
    return folder is not None and any(Path(folder).glob("norm_numba.moments-*.nbi"))


def _head_fits(head: "MarginHead") -> bool:
    from hrfr_fast.model.kernels.head import computes  # it needs Triton

    return computes(head.weight.device, head.matmul_dtype, head.weight.shape[1])


def _measured_faster(compute: "Compute", shape: "BackboneSettings | FusedSettings") -> bool:
    import torch

    from hrfr_fast.model.fused import FusedSettings

    if isinstance(shape, FusedSettings):
        return False
    case = (torch.cuda.get_device_name(compute.device), shape.name, shape.input_size)
    return any(row[:3] == case and row.ratio > 1 for row in MEASUREMENTS)
