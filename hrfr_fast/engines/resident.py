"""The resident engine: pixels stay where they are read from, one kernel makes the batch.

On a CPU the shard's memory map is the residence (the page cache holds it) and the numba kernel gathers, resamples
and augments on all cores. On CUDA all raw pixels are copied to the device once, as uint8.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from hrfr_fast.engines.base import Batch, FirstUse
from hrfr_fast.engines.pixels import BatchMemory, resample_records
from hrfr_fast.sampling.stream import BatchSpec, BatchStream

if TYPE_CHECKING:
    import torch


class ResidentCPU:
    """Batches made on the CPU, by the numba kernel, from the memory maps.

    Args:
        stream: what to feed.
        dtype: of the images, see Batch.
        verify: compare each record with its checksum when it is first used (DamageFound on a mismatch).
    """

    name = "resident"

    def __init__(self, stream: BatchStream, dtype: "torch.dtype", *, verify: bool = True) -> None:
        self.stream = stream
        self.checksums = FirstUse(stream.splits, verify)
        self.memory = BatchMemory(dtype)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for at in range(start, stop, self.stream.batch_size):
            yield self._make(self.stream.batch_spec(at))

    def _make(self, work: BatchSpec) -> Batch:
        import torch

        pixels = self.memory.empty(len(work.labels), self.stream.size)
        for part in work.parts:
            self.checksums.check(part.split, part.records)
            resample_records(part.split, part.records, part.augmentation, pixels, part.rows)
        return Batch(self.memory.images(pixels), torch.from_numpy(work.labels), work.start)

    def close(self) -> None:
        """Give the batch memory up. The memory maps go with the splits."""
        self.memory.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
