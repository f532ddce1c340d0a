"""The resident engine: pixels stay where they are read from, one kernel makes the batch.

On a CPU the shard's memory map is the residence (the page cache holds it) and the numba kernel gathers, resamples
and augments on all cores. On CUDA all raw pixels are copied to the device once, as uint8.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.base import Batch, Feed, FirstUse, Work
from hrfr_fast.engines.pixels import render, to_model_input

if TYPE_CHECKING:
    import torch

BUFFERS = 3  # batches whose memory is used again: the one in use, the next, and one to spare


class ResidentCPU:
    """Batches made on the CPU, by the numba kernel, from the memory maps.

    Args:
        stream: what to feed.
        dtype: of the images, see Batch.
        verify: compare each record with its checksum when it is first used (DamageFound on a mismatch).
    """

    name = "resident"

    def __init__(self, stream: Feed, dtype: "torch.dtype", *, verify: bool = True) -> None:
        self.stream, self.dtype = stream, dtype
        self.checksums = FirstUse(stream.splits, verify)
        self._buffers: list[NDArray[np.uint8]] = []

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for at in range(start, stop, self.stream.batch_size):
            yield self._make(self.stream.work(at))

    def _make(self, work: Work) -> Batch:
        import torch

        pixels = self._buffer(len(work.labels))
        for part in work.parts:
            self.checksums.check(part.split, part.records)
            render(part.split, part.records, part.plan, pixels, part.rows)
        images = to_model_input(torch.from_numpy(pixels), self.dtype)
        return Batch(images, torch.from_numpy(work.labels), work.start)

    def _buffer(self, count: int) -> NDArray[np.uint8]:
        """uint8 [count, S, S, 3] that nobody else uses: fresh memory costs the kernel a quarter more at 144 px.

        The system clears it before the first touch (7 us a picture). A batch handed out keeps its buffer alive through
        torch's storage, so a buffer that only this list refers to is free again.
        """
        for number in range(len(self._buffers)):
            if sys.getrefcount(self._buffers[number]) == 2:  # the list, and the call's own argument
                return self._buffers[number]
        pixels = np.empty((count, self.stream.size, self.stream.size, 3), np.uint8)
        if len(self._buffers) < BUFFERS:
            self._buffers.append(pixels)
        return pixels

    def close(self) -> None:
        """Give the buffers up. The memory maps go with the splits."""
        self._buffers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
