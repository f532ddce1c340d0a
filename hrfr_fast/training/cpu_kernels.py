"""Whether a run on a CPU computes with kernels of our own what stands between convolutions."""

from typing import TYPE_CHECKING

from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.model.heads import MarginHead
    from hrfr_fast.runtime.device import Compute


def cpu_kernels_choice(choice: str, compute: "Compute", compile: str, *, synchronised: bool = False) -> bool:
    """Whether to use the kernels, for ``auto | on | off``.

    auto: on every CPU, unless the step is to be compiled. The step was faster in every case that was measured, 1.1 to
    1.7 times (``benchmarks/RESULTS.md``, "Steps on a CPU").

    Args:
        compile: ``--compile`` as asked for; torch.compile cannot follow these kernels.
        synchronised: BatchNorm takes its statistics over several ranks, which the kernels cannot.

    Raises:
        UsageError: "on" elsewhere than on a CPU, with ``--compile on``, or where statistics are ``synchronised``.
    """
    if choice == "on" and compute.device.type != "cpu":
        raise UsageError("--cpu-kernels on: the run is on a GPU; use --cpu-kernels auto, or --device cpu")
    if choice == "on" and compile == "on":
        raise UsageError("--cpu-kernels on cannot be compiled; leave it or --compile on out")
    if choice == "on" and synchronised:
        raise UsageError("--cpu-kernels on: the kernels know no statistics over several ranks; leave --sync-bn out")
    return choice != "off" and not synchronised and compute.device.type == "cpu" and compile != "on"


def use_cpu_kernels(backbone: "nn.Module", head: "MarginHead") -> None:
    """Have the kernels compute what they can of ``backbone`` in training, and the head pass over its classes less."""
    head.fewer_passes = True
    from hrfr_fast.model.backbone import Backbone

    for part in backbone.modules():
        if isinstance(part, Backbone):
            part.cpu_kernels = True
