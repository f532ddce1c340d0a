"""From records to pixels: fetch from the memory map, decode where stored as JPEG, execute the plan.

Shared by the resident engine on a CPU, by the FFCV engine after its decoding, and by evaluation.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.data.augment import Plan
from hrfr_fast.data.shards import Split

if TYPE_CHECKING:
    import torch

JPEG_CHUNK = 64  # pictures a decoding task: small enough to spread, large enough to hide the hand-over


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _decoders() -> ThreadPoolExecutor:
    """One pool of decoding threads for the process; simplejpeg releases the GIL."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="hrfr-jpeg")


def fetch(split: Split, records: NDArray[np.int64], *, pinned: bool = False) -> NDArray[np.uint8]:
    """Decoded pixels, uint8 [n, size, size, 3] RGB, on all cores where decoding is needed.

    ``pinned``: in page-locked memory, from which a copy to a GPU does not block; it lives as long as the array.
    """
    shape = (len(records), split.size, split.size, 3)
    out = pinned_empty(shape) if pinned else np.empty(shape, np.uint8)
    if split.encoding == "raw":
        from hrfr_fast.data.resampling import gather  # numba: 0.5 s to import

        gather(split.data, split.offsets[records], out)
    elif len(records) <= JPEG_CHUNK:
        out[:] = split.read(records)
    else:

        def decode(first: int) -> None:
            out[first : first + JPEG_CHUNK] = split.read(records[first : first + JPEG_CHUNK])

        list(_decoders().map(decode, range(0, len(records), JPEG_CHUNK)))
    return out


def pinned_empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An uninitialised uint8 array in page-locked memory."""
    import torch

    return np.asarray(torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy())


def render(
    split: Split,
    records: NDArray[np.int64],
    plan: Plan,
    out: NDArray[np.uint8],
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Execute ``plan`` on ``records`` into ``out`` (uint8 [N, S, S, 3]) at ``rows``; CPU.

    Raw records are read by the kernel straight from the memory map, without a copy.
    """
    from hrfr_fast.data.resampling import resample  # numba: 0.5 s to import

    if split.encoding == "raw":
        resample(split.data, split.offsets[records], split.size, plan, out, rows)
        return
    pixels = fetch(split, records)
    offsets = np.arange(len(records), dtype=np.int64) * (split.size * split.size * 3)
    resample(pixels.reshape(-1), offsets, split.size, plan, out, rows)


def to_model_input(pixels: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """uint8 [B, S, S, 3] to [B, 3, S, S] channels-last of ``dtype``: levels if uint8, else in [-1, 1]."""
    import torch

    images = pixels.permute(0, 3, 1, 2)  # the same memory, seen as channels-last NCHW
    if dtype == torch.uint8:
        return images
    return images.to(dtype).sub_(127.5).mul_(1 / 127.5)
