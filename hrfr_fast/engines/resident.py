"""The resident engine: pixels stay where they are read from, one kernel makes the batch.

On a CPU the shard's memory map is the residence (the page cache holds it) and the numba kernel gathers, resamples
and augments on all cores. On CUDA all raw pixels are copied to the device once, as uint8.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np

from hrfr_fast.engines.base import Batch, Feed, Work, refuse_damaged
from hrfr_fast.engines.pixels import render, to_model_input

if TYPE_CHECKING:
    import torch


class ResidentCPU:
    """Batches made on the CPU, by the numba kernel, from the memory maps.

    Args:
        stream: what to feed.
        dtype: of the images, see Batch.
        verify: compare every record with its checksum before use (DamageFound on a mismatch).
    """

    name = "resident"

    def __init__(self, stream: Feed, dtype: "torch.dtype", *, verify: bool = False) -> None:
        self.stream, self.dtype, self.verify = stream, dtype, verify

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for at in range(start, stop, self.stream.batch_size):
            yield self._make(self.stream.work(at))

    def _make(self, work: Work) -> Batch:
        import torch

        size = self.stream.size
        pixels = np.empty((len(work.labels), size, size, 3), np.uint8)
        for part in work.parts:
            if self.verify:
                refuse_damaged(part.split, part.records)
            render(part.split, part.records, part.plan, pixels, part.rows)
        images = to_model_input(torch.from_numpy(pixels), self.dtype)
        return Batch(images, torch.from_numpy(work.labels), work.start)

    def close(self) -> None:
        """Nothing is held but the memory maps, which go with the splits."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
