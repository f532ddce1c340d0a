"""Whether a run computes with GPU kernels of our own, and the measurements that ``auto`` decides by."""

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
    """Speed of the whole step with the kernels on one card, over the faster of torch's eager and compiled step."""

    card: str
    """As ``torch.cuda.get_device_name`` gives it."""
    backbone: str
    input_size: int
    ratio: float
    """Images/s with the kernels over images/s without, both with CUDA graphs, medians of rounds in turns."""


MEASUREMENTS: tuple[Measurement, ...] = ()
"""One row a card, network and size. None yet: no card has run the kernels, so ``auto`` leaves them off everywhere.
``tools/gpu_check.py --part B`` measures them, and prints rows for this table."""


def kernels_choice(
    choice: str, compute: "Compute", shape: "BackboneSettings | FusedSettings", *, synchronised: bool = False
) -> bool:
    """Whether to use the kernels, for ``auto | on | off``.

    Args:
        synchronised: BatchNorm takes its statistics over several ranks, which the kernels cannot.

    Raises:
        UsageError: "on" where there is no CUDA device or no Triton, or where statistics are ``synchronised``.
    """
    from hrfr_fast.runtime.device import kernels_run_on

    if synchronised and choice != "off":
        if choice == "on":
            raise UsageError("--gpu-kernels on: the kernels know no statistics over several GPUs; leave --sync-bn out")
        return False
    if choice == "on":
        if not kernels_run_on(compute.device):
            lacking = "Triton (pip install triton)" if compute.device.type == "cuda" else "an NVIDIA GPU"
            raise UsageError(f"--gpu-kernels on: the kernels need {lacking}; use --gpu-kernels auto or off")
        return True
    return choice == "auto" and compute.device.type == "cuda" and _measured_faster(compute, shape)


def with_kernels(backbone: "nn.Module", head: "nn.Module", *, wanted: bool) -> "tuple[nn.Module, nn.Module]":
    """Embedder and head, the kernels computing what they can of them where they are ``wanted``."""
    from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone
    from hrfr_fast.model.heads import MarginHead

    networks = [part for part in backbone.modules() if isinstance(part, ImprovedResNetBackbone)] if wanted else []
    parts: list[str] = []
    for network in networks:
        network.gpu_kernels = True
        parts = ["what stands between the network's convolutions"]
    if wanted and isinstance(head, MarginHead) and head.shard is None and _head_fits(head):
        head.gpu_kernels = True
        parts.append("the head's softmax")
    if wanted:
        console.print(f"GPU kernels of our own compute {' and '.join(parts) or 'nothing of this model'}")
    return backbone, head


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
