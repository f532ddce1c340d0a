"""Pixels of records: fetched from the memory map, decoded where stored as JPEG, augmented and resampled.

Shared by the engines that work on the CPU and by evaluation.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrfr_fast.engines.turbojpeg import TurboJPEG, turbojpeg
from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.system import threads_per_rank
from hrfr_fast.sampling.augmentation import Augmentation

JPEG_CHUNK = 64  # images a task of simplejpeg: few enough to spread over cores, enough to hide the cost of a task


@cache
def _decoders() -> ThreadPoolExecutor:
    """One pool of decoding threads for the process; simplejpeg releases the GIL."""
    return ThreadPoolExecutor(threads_per_rank(), thread_name_prefix="hrfr-jpeg")


def fetch(split: Split, records: NDArray[np.int64], *, pinned: bool = False) -> NDArray[np.uint8]:
    """Decoded pixels, uint8 [n, size, size, 3] RGB; JPEG is decoded on all cores. Raises DamageFound as ``Split.read``.

    ``pinned``: in page-locked memory, from which a copy to a GPU does not block; it lives as long as the array.
    """
    split.refuse_shrunk()
    shape = (len(records), split.size, split.size, 3)
    out = pinned_empty(shape) if pinned else np.empty(shape, np.uint8)
    if split.encoding == "raw":
        from hrfr_fast.resampling.cpu import copy_records  # numba: 0.5 s to import

        copy_records(split.data, split.offsets[records], out)
    elif (library := turbojpeg()) is not None and _loops_may_run_here():
        _decode_compiled(split, records, library, out)
    else:
        _decode_in_python(split, records, out)
    return out


def _loops_may_run_here() -> bool:
    """Whether a parallel loop may run in this thread, while another may run one, too.

    numba's own threads, which it uses where there is neither TBB nor OpenMP, end the process when two callers meet.
    """
    import numba

    if threading.current_thread() is threading.main_thread():
        return True
    try:
        return bool(numba.threading_layer() != "workqueue")
    except ValueError:  # none has been started yet
        return False


def _decode_compiled(split: Split, records: NDArray[np.int64], library: TurboJPEG, out: NDArray[np.uint8]) -> None:
    """Decode by TurboJPEG. What it refuses goes to the reader, which raises DamageFound with file and record."""
    from hrfr_fast.engines.jpeg_loop import decode_records  # numba: 0.5 s to import

    places = split.offsets[records], split.lengths[records], split.modes[records]
    for position in decode_records(split.data, *places, library, out).tolist():
        out[position] = split.read(records[position])[0]


def _decode_in_python(split: Split, records: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Decode by simplejpeg, in threads where there are enough records."""

    def decode(first: int) -> None:
        out[first : first + JPEG_CHUNK] = split.read(records[first : first + JPEG_CHUNK])

    tasks = range(0, len(records), JPEG_CHUNK)
    list(_decoders().map(decode, tasks) if len(tasks) > 1 else map(decode, tasks))


def pinned_empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An uninitialised uint8 array in page-locked memory."""
    return np.asarray(torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy())


def resample_records(
    split: Split,
    records: NDArray[np.int64],
    augmentation: Augmentation,
    out: NDArray[Any],
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Write ``records``, augmented and resampled, to ``rows`` of ``out`` ([N, S, S, 3], of a type ``resample`` writes).

    The kernel reads raw records straight from the memory map, without a copy.
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
    """Buffer pool for the batches that an engine makes on a CPU, in the type that the kernel writes for ``dtype``.

    A buffer is used again once nothing else refers to it (neither a tensor made of it nor a view). A batch of 256
    at 144 px is 64 MB of float32: fresh pages for each cost as much as the kernel itself.
    """

    CAPACITY = 4

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        # bfloat16 as its bits, which NumPy can hold; other types are converted from uint8 afterwards.
        self._written = {torch.float32: np.float32, torch.bfloat16: np.uint16}.get(dtype, np.uint8)
        self._buffers: list[NDArray[Any]] = []

    def empty(self, count: int, size: int) -> NDArray[Any]:
        """An uninitialised buffer [count, size, size, 3] for the kernel to write."""
        shape = (count, size, size, 3)
        for buffer in self._buffers:
            if buffer.shape == shape and sys.getrefcount(buffer) == UNUSED_REFERENCES:
                return buffer
        buffer = np.empty(shape, self._written)
        self._buffers = [*self._buffers[-self.CAPACITY + 1 :], buffer]
        return buffer

    def clear(self) -> None:
        """Drop the buffers; one that is in use is freed with its last tensor."""
        self._buffers = []

    def images(self, array: NDArray[Any]) -> Tensor:
        """A written buffer as [B, 3, S, S] channels-last of ``dtype``."""
        if array.dtype == np.uint8:
            return to_model_input(torch.from_numpy(array), self.dtype)
        if array.dtype == np.uint16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).permute(0, 3, 1, 2)
        return torch.from_numpy(array).permute(0, 3, 1, 2)


UNUSED_REFERENCES = 3  # to a buffer that only BatchMemory holds: its list, the loop's variable, getrefcount's argument


def to_model_input(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [B, S, S, 3] to [B, 3, S, S] channels-last of ``dtype``: pixel values if uint8, else in [-1, 1]."""
    images = pixels.permute(0, 3, 1, 2)  # the same memory, seen as channels-last NCHW
    if dtype == torch.uint8:
        return images
    return images.to(dtype).sub_(127.5).mul_(1 / 127.5)
