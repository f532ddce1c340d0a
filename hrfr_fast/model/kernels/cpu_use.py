"""Networks whose layers kernels of our own compute, and the use of those on a CPU."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hrfr_fast.runtime.progress import console

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone


def networks_for_kernels(parts: "Iterable[nn.Module]") -> "list[ImprovedResNetBackbone]":
    """Those in ``parts`` whose layers the kernels know: improved residual networks with one BatchNorm for all rows."""
    from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone
    from hrfr_fast.model.domain_norm import domains_of

    modules = [module for part in parts for module in part.modules()]
    return [one for one in modules if isinstance(one, ImprovedResNetBackbone) and domains_of(one) is None]


def use_on_cpu(network: "nn.Module") -> None:
    """Have the CPU's kernels compute what they can of ``network``, and say so where they have to be compiled first.

    In evaluation in bfloat16 a face takes 0.48 to 0.98 of the time, the least in narrow networks, and in float32 as
    long (``benchmarks/results/cpu_steps.md``): there they are used so that a run's own verification and a later
    evaluation have the same bits.
    """
    networks = networks_for_kernels([network])
    for one in networks:
        one.cpu_kernels = True
    if networks and not compiled_before():
        console.print("the CPU's kernels are compiled when they are first used, once: about 20 seconds of CPU time")


def compiled_before() -> bool:
    """Whether numba's cache holds the kernels, of any version."""
    from hrfr_fast.model.kernels.norm_numba import moments  # numba: 0.5 s to import

    folder = moments.stats.cache_path
    return folder is not None and any(Path(folder).glob("norm_numba.moments-*.nbi"))
