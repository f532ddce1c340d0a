"""What the device can reach at most, and the device memory that training steps take."""

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from hrfr_fast.training.timed_steps import wait

if TYPE_CHECKING:
    from hrfr_fast.runtime.device import Compute


@dataclass(frozen=True)
class Ceilings:
    """The measured peak rates of the device."""

    flops_per_second: float
    bytes_per_second: float


def measure_ceilings(compute: "Compute") -> Ceilings:
    """The rates of a matrix product and of a copy (bytes read plus written), in the run's number format."""
    import torch

    from hrfr_fast.training.speed import matrix_rate

    on_cuda = compute.device.type == "cuda"
    product = matrix_rate(compute) if on_cuda else matrix_rate(compute, size=1536, repeats=5)
    source = torch.ones(2**30 if on_cuda else 2**26, dtype=torch.float32, device=compute.device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(10):
        wait(compute)
        began = time.perf_counter()
        target.copy_(source)
        wait(compute)
        rates.append(2 * source.nbytes / (time.perf_counter() - began))
    return Ceilings(product, median(rates[2:]))


def free_memory(compute: "Compute") -> int:
    """Free unused device memory and reset its peak; returns the bytes in use."""
    import gc

    import torch

    gc.collect()
    if compute.device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_bytes(compute: "Compute", before: int) -> int:
    """Peak of the device bytes since ``free_memory`` returned ``before``, above it; 0 on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() - before if compute.device.type == "cuda" else 0
