"""The batch size of a run that was given none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.training.device import Compute

LARGEST = 1024
SLACK = 2 << 30  # bytes for momenta, what a captured graph keeps, and verification beside it


def largest_batch(
    backbone: "nn.Module", head: "nn.Module", size: int, compute: "Compute", accumulate: int, resident: int
) -> int:
    """128 (32 px) or 64 (144 px) on a CPU; on CUDA the largest power of two up to 1024 whose step fits.

    On CUDA it is tried, which moves BatchNorm's statistics: the modules have to be built anew.

    Args:
        size: pixels a side of the input.
        accumulate: micro-batches a step.
        resident: bytes of pixels that will lie in device memory too.
    """
    import torch

    if compute.device.type == "cpu":
        return 128 if size <= 64 else 64
    batch_size = LARGEST
    with torch.cuda.device(compute.device):
        free, _ = torch.cuda.mem_get_info()
        taken = torch.empty(min(resident + SLACK, free // 2), dtype=torch.uint8, device=compute.device)
        while batch_size > 2 * accumulate and not _fits(backbone, head, batch_size // accumulate, size, compute):
            batch_size //= 2
        del taken
        torch.cuda.empty_cache()
    return batch_size


def _fits(backbone: "nn.Module", head: "nn.Module", count: int, size: int, compute: "Compute") -> bool:
    """Whether forward and backward of ``count`` pictures fit. What a failed try held goes with these local names."""
    import torch

    try:
        images = torch.zeros(count, 3, size, size, dtype=compute.image_dtype, device=compute.device)
        with compute.autocast():
            embeddings = backbone(images.to(memory_format=torch.channels_last))
        head(embeddings, torch.zeros(count, dtype=torch.int64, device=compute.device)).backward()
        fits = True
    except torch.cuda.OutOfMemoryError:
        fits = False
    except RuntimeError as error:  # cuDNN says so where no algorithm's workspace fits
        if "unable to find an engine" not in str(error).lower():
            raise
        fits = False
    for parameter in (*backbone.parameters(), *head.parameters()):
        parameter.grad = None
    if not fits:
        torch.cuda.empty_cache()
    return fits
