"""The batch size of a run that was given none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.training.device import Compute

LARGEST = 1024


def largest_batch(backbone: "nn.Module", head: "nn.Module", size: int, compute: "Compute", accumulate: int) -> int:
    """128 (32 px) or 64 (144 px) on a CPU; on CUDA the largest power of two up to 1024 whose step fits.

    On CUDA it is tried, which moves BatchNorm's statistics: the modules have to be built anew.

    Args:
        size: pixels a side of the input.
        accumulate: micro-batches a step.
    """
    import torch

    if compute.device.type == "cpu":
        return 128 if size <= 64 else 64
    batch_size = LARGEST
    while batch_size > accumulate:
        try:
            images = torch.zeros(
                batch_size // accumulate, 3, size, size, dtype=compute.image_dtype, device=compute.device
            ).to(memory_format=torch.channels_last)
            with compute.autocast():
                embeddings = backbone(images)
            head(embeddings, torch.zeros(len(images), dtype=torch.int64, device=images.device)).backward()
            break
        except torch.cuda.OutOfMemoryError:
            batch_size //= 2
    for parameter in (*backbone.parameters(), *head.parameters()):
        parameter.grad = None
    torch.cuda.empty_cache()
    return batch_size
