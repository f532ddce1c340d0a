"""From records to pixels: fetch from the memory map, decode where stored as JPEG, execute the augmentation.

Shared by the resident engine on a CPU, by the FFCV engine after its decoding, and by evaluation.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.system import cores
from hrfr_fast.sampling.augmentation import Augmentation

if TYPE_CHECKING:
    import torch

JPEG_CHUNK = 64  # pictures a decoding task: small enough to spread, large enough to hide the hand-over


@cache
def _decoders() -> ThreadPoolExecutor:
    """One pool of decoding threads for the process; simplejpeg releases the GIL."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="hrfr-jpeg")


def fetch(split: Split, records: NDArray[np.int64], *, pinned: bool = False) -> NDArray[np.uint8]:
    """Decoded pixels, uint8 [n, size, size, 3] RGB, on all cores where decoding is needed.

    ``pinned``: in page-locked memory, from which a copy to a GPU does not block; it lives as long as the array.
    """
    split.refuse_shrunk()
    shape = (len(records), split.size, split.size, 3)
    out = pinned_empty(shape) if pinned else np.empty(shape, np.uint8)
    if split.encoding == "raw":
        from hrfr_fast.resampling.cpu import copy_records  # numba: 0.5 s to import

        copy_records(split.data, split.offsets[records], out)
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


def resample_records(
    split: Split,
    records: NDArray[np.int64],
    augmentation: Augmentation,
    out: NDArray[Any],
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Apply ``augmentation`` to ``records``, into ``out`` ([N, S, S, 3], of a type ``resample`` writes) at ``rows``.

    Raw records are read by the kernel straight from the memory map, without a copy.
    """
    from hrfr_fast.resampling.cpu import resample  # numba: 0.5 s to import

    if split.encoding == "raw":
        split.refuse_shrunk()
        resample(split.data, split.offsets[records], split.size, augmentation, out, rows)
        return
    pixels = fetch(split, records)
    offsets = np.arange(len(records), dtype=np.int64) * (split.size * split.size * 3)
    resample(pixels.reshape(-1), offsets, split.size, augmentation, out, rows)


class BatchMemory:
    """Memory for the batches an engine makes on a CPU, in the type the kernel writes for ``dtype``.

    An array is handed out again once nobody else holds it (neither a tensor made of it nor a view). A batch of 256
    at 144 px is 64 MB of float32: fresh pages for each cost as much as the kernel itself.
    """

    MOST = 4

    def __init__(self, dtype: "torch.dtype") -> None:
        import torch

        self.dtype = dtype
        # bfloat16 as its bits, which NumPy can hold; other types are converted from levels afterwards.
        self._written = {torch.float32: np.float32, torch.bfloat16: np.uint16}.get(dtype, np.uint8)
        self._arrays: list[NDArray[Any]] = []

    def empty(self, count: int, size: int) -> NDArray[Any]:
        """[count, size, size, 3] for the kernel to write."""
        shape = (count, size, size, 3)
        for array in self._arrays:
            if array.shape == shape and sys.getrefcount(array) == FREE:
                return array
        array = np.empty(shape, self._written)
        self._arrays = [*self._arrays[-self.MOST + 1 :], array]
        return array

    def clear(self) -> None:
        """Forget the arrays; those in use go with their last tensor."""
        self._arrays = []

    def images(self, array: NDArray[Any]) -> "torch.Tensor":
        """What the kernel wrote, as [B, 3, S, S] channels-last of ``dtype``."""
        import torch

        if array.dtype == np.uint8:
            return to_model_input(torch.from_numpy(array), self.dtype)
        if array.dtype == np.uint16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).permute(0, 3, 1, 2)
        return torch.from_numpy(array).permute(0, 3, 1, 2)


FREE = 3  # references to an array that only BatchMemory holds: its list, the loop's name, getrefcount's argument


def to_model_input(pixels: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """uint8 [B, S, S, 3] to [B, 3, S, S] channels-last of ``dtype``: levels if uint8, else in [-1, 1]."""
    import torch

    images = pixels.permute(0, 3, 1, 2)  # the same memory, seen as channels-last NCHW
    if dtype == torch.uint8:
        return images
    return images.to(dtype).sub_(127.5).mul_(1 / 127.5)
