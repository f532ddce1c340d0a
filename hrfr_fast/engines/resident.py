"""The resident engine on a CPU: the numba kernel reads records from the memory map and writes batches.

The page cache holds the shard's pages; the kernel augments and resamples on all cores.
"""

from collections.abc import Iterator

import torch

from hrfr_fast.engines.base import Batch, Engine, FirstUseChecksums
from hrfr_fast.engines.pixels import BatchMemory, resample_records
from hrfr_fast.sampling.stream import BatchSpec, BatchStream


class ResidentCPU(Engine):
    """Batches made on the CPU, by the numba kernel, from the memory maps.

    Args:
        stream: the batch specifications.
        dtype: of the images, see Batch.
        verify: compare each record with its checksum when it is first used (DamageFound on a mismatch).
    """

    name = "resident"

    def __init__(self, stream: BatchStream, dtype: torch.dtype, *, verify: bool = True) -> None:
        self.stream = stream
        self.checksums = FirstUseChecksums(stream.splits, verify)
        self.memory = BatchMemory(dtype)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for batch_start in range(start, stop, self.stream.batch_size):
            yield self._make(self.stream.batch_spec(batch_start))

    def _make(self, batch_spec: BatchSpec) -> Batch:
        pixels = self.memory.empty(len(batch_spec.labels), self.stream.size)
        for part in batch_spec.parts:
            self.checksums.check(part.split, part.records)
            resample_records(part.split, part.records, part.augmentation, pixels, part.rows)
        return Batch(self.memory.images(pixels), torch.from_numpy(batch_spec.labels), batch_spec.start)

    def close(self) -> None:
        """Give up the batch memory. The memory maps are closed with the splits."""
        self.memory.clear()
