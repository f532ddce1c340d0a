"""The batch size of a run that was given none."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.runtime.system import gib
from hrfr_fast.training.data_parallel import DataParallel

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

LARGEST = 1024
"""Up to which the recipes' learning rates are meant."""
LARGEST_SMALL, SMALL_SIZE = 4096, 64
"""Of pictures up to 64 px, whose steps with 1,024 do not fill a large GPU."""
LEAST_STEPS = 100
"""An epoch has at least so many where the batch is above 1,024: with fewer a run would learn too little."""
# What cuDNN and cuBLAS say where no workspace or handle fits.
NO_MEMORY = (
    "out of memory", "unable to find an engine", "cudnn_status_alloc_failed", "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
)  # fmt: skip
SLACK = 2 << 30  # bytes for momenta, what a captured graph keeps, and verification beside it


def largest_batch(
    backbone: "nn.Module", head: "nn.Module", size: int, compute: "Compute", accumulate: int, resident: int,
    ranks: Ranks = ALONE, most: int = LARGEST, beside: Sequence["nn.Module"] = (),
) -> int:  # fmt: skip
    """128 (32 px) or 64 (144 px) on a CPU; on CUDA the largest power of two up to ``most`` whose step fits.

    On CUDA it is tried, which moves BatchNorm's statistics: the modules have to be built anew.

    Args:
        size: pixels a side of the input.
        accumulate: micro-batches a step.
        resident: bytes of pixels that will lie in device memory too.
        ranks: that share a batch; what is found fits all of them.
        most: see ``most_samples``.
        beside: networks without gradient, on the device, that embed the pictures of a step too: all of them here,
            which is the most that they may embed.

    Raises:
        HrfrError: not even two pictures a micro-batch fit, or a try failed for another reason than memory.
    """
    import torch

    parts = accumulate * ranks.count
    if compute.device.type == "cpu":
        batch_size = 128 if size <= 64 else 64
        return batch_size // parts * parts if ranks.distributed else batch_size
    batch_size = most // parts * parts if ranks.distributed else most
    with torch.cuda.device(compute.device):
        free, _ = torch.cuda.mem_get_info()
        taken = torch.empty(min(resident + SLACK, free // 2), dtype=torch.uint8, device=compute.device)
        while not _fits(backbone, head, batch_size // parts, size, compute, beside):
            torch.cuda.empty_cache()  # here, where what the failed try held is gone
            batch_size //= 2
            if batch_size < 2 * parts:
                raise HrfrError(
                    f"not even {batch_size * 2} pictures a step fit into the GPU's {gib(free)} of free memory beside"
                    f" {gib(resident)} of pixels; try --engine dali, which keeps pixels on the host, or"
                    " --activation-checkpointing"
                )
        del taken
        torch.cuda.empty_cache()
    return -DataParallel(ranks).largest([-batch_size])[0] // parts * parts if ranks.distributed else batch_size


def most_samples(size: int, samples: int) -> int:
    """The largest batch that is tried: up to 4,096 for small pictures, of which ``samples`` make an epoch."""
    most = LARGEST
    while size <= SMALL_SIZE and most < LARGEST_SMALL and samples >= 2 * most * LEAST_STEPS:
        most *= 2
    return most


def found_in_words(batch_size: int) -> str:
    """What a run says of the batch that was found, and what it means where it is above that of the recipes."""
    told = f"batch size {batch_size}: the largest that fits"
    if batch_size <= LARGEST:
        return told
    return (
        f"{told}. That changes the recipe: learning rates are meant for up to {LARGEST:,} pictures a step, and an epoch"
        f" now has {batch_size / LARGEST:.2g} times fewer steps; --batch-size {LARGEST} trains as before"
    )


def says_out_of_memory(error: RuntimeError) -> bool:
    """Whether it was for want of device memory: CUDA's libraries say so in words of their own."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error).lower() for words in NO_MEMORY)


def _fits(
    backbone: "nn.Module", head: "nn.Module", count: int, size: int, compute: "Compute", beside: Sequence["nn.Module"]
) -> bool:
    """Whether forward and backward of ``count`` pictures fit. What a failed try held goes with these local names."""
    import torch

    from hrfr_fast.model.domain_norm import LOW, in_domain

    try:
        images = torch.zeros(count, 3, size, size, dtype=compute.image_dtype, device=compute.device)
        images = images.to(memory_format=torch.channels_last)
        with compute.autocast(), in_domain(backbone, LOW):
            embeddings = backbone(images)
        for network in beside:  # while the activations for the backward pass are held, as in a step
            with torch.no_grad(), compute.autocast(), in_domain(network, LOW):
                network(images)
        head(embeddings, torch.zeros(count, dtype=torch.int64, device=compute.device)).backward()
        fits = True
    except RuntimeError as error:
        if not says_out_of_memory(error):
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise HrfrError(f"the largest batch cannot be found: {first}; give one with --batch-size") from error
        fits = False
    for parameter in (*backbone.parameters(), *head.parameters()):
        parameter.grad = None
    return fits
