"""Whether a run computes with fused kernels what stands between convolutions."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hrfr_fast.model.kernels.cpu_use import networks_for_kernels, use_on_cpu
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.progress import console
from hrfr_fast.training.compiling import eager_seconds

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone
    from hrfr_fast.model.fused import FusedSettings
    from hrfr_fast.model.heads import MarginHead
    from hrfr_fast.runtime.device import Compute

PAY_AFTER = 60.0  # seconds of eager training: their first compilation takes up to 15 s, and a captured step with them
# took 0.43 times one without on an H200, at 32 and at 144 px
FASTER_THAN_COMPILED = {(9, 0)}
"""Compute capabilities of cards on which a captured step with them was measured to be faster than a compiled and
captured one: 1.34 times on an H200 at 32 px. There compiling, which takes a minute or more, is not tried."""


def kernels_choice(
    choice: str, compute: "Compute", shape: "BackboneSettings | FusedSettings", compile: str = "auto", *,
    synchronised: bool = False, tried: bool = True,
) -> str:  # fmt: skip
    """Whether to use the kernels, for ``auto | on | off``: on or off, or auto where a trial on a GPU is to tell.

    auto: on every CPU, where the step was faster in every case that was measured, 1.2 to 2 times
    (``benchmarks/results/cpu_steps.md``); on a GPU where the run's trial of ways finds it faster.

    Args:
        compile: ``--compile`` as asked for; a compiled step has no use for them.
        synchronised: BatchNorm takes its statistics over several ranks, which the kernels cannot.
        tried: whether the run tries on a GPU which way of executing a step is fastest; where not, auto is off there.

    Raises:
        UsageError: "on" where they cannot be.
    """
    obstacle = "" if choice == "off" else _obstacle(compute, shape, compile, synchronised)
    if choice == "on" and obstacle:
        raise UsageError(f"--fused-kernels on: {obstacle}, or use --fused-kernels auto")
    if obstacle and getattr(shape, "domain_norm", "shared") != "shared":
        console.print(f"fused kernels are off: {obstacle.partition(';')[0]}")
    if choice == "off" or obstacle:
        return "off"
    if choice == "on" or compute.device.type == "cpu":
        return "on"
    return "auto" if compute.device.type == "cuda" and tried else "off"


def worth_trying(backbone: "nn.Module", head: "nn.Module", training_flops: float, peak: float | None) -> bool:
    """Whether a run of so many operations, on a GPU of ``peak`` FLOP/s, is long enough to try the kernels in.

    They must compute something of this model.
    """
    long_enough = peak is not None and eager_seconds(training_flops, peak) > PAY_AFTER
    return long_enough and any(_users([backbone, head]))


def replace_compiled(compute: "Compute", backbone: "nn.Module", graphs: str) -> bool:
    """Whether a step of this network with kernels was measured on such a GPU to be faster than a compiled one.

    ``graphs``: ``auto | on | off``. Steps that are not captured were not compared: off leaves compiled ones open.
    """
    import torch

    if compute.device.type != "cuda" or graphs == "off" or not networks_for_kernels([backbone]):
        return False
    return torch.cuda.get_device_capability(compute.device) in FASTER_THAN_COMPILED


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
    if wanted and compute.device.type == "cpu":
        use_on_cpu(backbone)
        head.cpu_kernels = True
    elif wanted:
        networks, heads = switch_gpu_kernels([backbone, head], on=True)
        parts = ["what stands between the network's convolutions"] if networks else []
        parts += ["the head's softmax"] if heads else []
        console.print(f"fused GPU kernels compute {' and '.join(parts) or 'nothing of this model'}")
    return backbone, head


def switch_gpu_kernels(
    parts: "Iterable[nn.Module]", *, on: bool
) -> "tuple[list[ImprovedResNetBackbone], list[MarginHead]]":
    """Have the GPU's kernels compute what they can of ``parts``, or not. Returns the networks and heads in question."""
    networks, heads = _users(parts)
    for network in networks:
        network.gpu_kernels = on
    for head in heads:
        head.gpu_kernels = on
    return networks, heads


def _users(parts: "Iterable[nn.Module]") -> "tuple[list[ImprovedResNetBackbone], list[MarginHead]]":
    """The networks and heads in ``parts`` that kernels can compute."""
    from hrfr_fast.model.heads import MarginHead

    parts = list(parts)
    modules = [module for part in parts for module in part.modules()]
    heads = [one for one in modules if isinstance(one, MarginHead) and one.shard is None and _head_fits(one)]
    return networks_for_kernels(parts), heads


def _head_fits(head: "MarginHead") -> bool:
    from hrfr_fast.model.kernels.head import computes  # it needs Triton

    return computes(head.weight.device, head.matmul_dtype, head.weight.shape[1])
