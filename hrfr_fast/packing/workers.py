"""Worker processes that decode candidates, chunk by chunk, on all cores."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Self

from hrfr_fast.packing.chunks import Chunk, decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.runtime.processes import in_order, one_opencv_thread, worker_pool

CHUNK_BYTES = 1 << 20  # pixels in a chunk; some chunks wait in memory for each worker


def chunk_length(size: int) -> int:
    """How many pictures of ``size`` px make a chunk; even, so that pairs stay together."""
    return max(2, min(256, CHUNK_BYTES // (3 * size * size)) // 2 * 2)


class Decoders:
    """Context manager of ``workers`` processes that decode, or of this process alone for one worker."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def chunks(self, candidates: Candidates, first: int) -> Iterator[tuple[int, int, Chunk]]:
        """(first, last, chunk) for the candidates from number ``first`` on. Raises HrfrError when a worker dies."""
        target = Target(candidates.size, candidates.resize, candidates.encoding)
        step = chunk_length(candidates.size)
        spans = [(start, min(start + step, candidates.count)) for start in range(first, candidates.count, step)]
        chunks: Iterator[Chunk]
        if self.workers == 1 or not candidates.in_workers:
            chunks = (candidates.chunk(*span, target) for span in spans)
        else:
            calls = ((candidates.readers(*span), target, candidates.paired) for span in spans)
            chunks = in_order(self._executor(), decode_chunk, calls, 2 * self.workers + 1, " of the packer")
        for span, chunk in zip(spans, chunks, strict=True):
            yield *span, chunk

    def start(self) -> None:
        """Start the processes now, in the background: they take 0.3 s to import what decodes."""
        if self.workers > 1:
            for _ in range(self.workers):
                self._executor().submit(os.getpid)

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = worker_pool(self.workers, one_opencv_thread)
        return self._pool
