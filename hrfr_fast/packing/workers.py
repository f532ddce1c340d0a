"""Decoding on all cores: chunks of candidates go out to worker processes and come back in order."""

import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self

from hrfr_fast.packing.bcolz_arrays import BcolzPairs
from hrfr_fast.packing.decode import Chunk, Target, decode_chunk
from hrfr_fast.packing.sources import Candidates
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.processes import worker_pool

CHUNK_BYTES = 1 << 20  # decoded pixels in a chunk: some chunks wait in memory for each worker


def chunk_length(size: int) -> int:
    """How many pictures of ``size`` px make a chunk; even, so that pairs stay together."""
    return max(2, min(256, CHUNK_BYTES // (3 * size * size)) // 2 * 2)


def _decode_in_one_thread() -> None:
    """There is a worker for each core, so OpenCV's own threads would only get in each other's way."""
    import cv2

    cv2.setNumThreads(1)


class Decoders:
    """A pool of ``workers`` processes, or this process alone for one worker. A context manager."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def chunks(self, candidates: Candidates, first: int) -> Iterator[tuple[int, int, Chunk]]:
        """Decode the candidates from ``first`` on: (first, last, chunk), in order.

        Raises HrfrError when a worker dies (killed for memory, most likely).
        """
        target = Target(candidates.size, candidates.resize, candidates.encoding)
        step = chunk_length(candidates.size)
        spans = ((start, min(start + step, candidates.count)) for start in range(first, candidates.count, step))
        if isinstance(candidates, BcolzPairs):
            for start, stop in spans:
                yield start, stop, candidates.chunk(start, stop, target)
        elif self.workers == 1:
            for start, stop in spans:
                paths = candidates.paths(start, stop)
                yield start, stop, decode_chunk(str(candidates.root), paths, target, candidates.paired)
        else:
            yield from self._parallel(candidates, spans, target)

    def start(self) -> None:
        """Start the processes now, in the background: they take 0.3 s to import what decodes."""
        if self.workers > 1:
            for _ in range(self.workers):
                self._executor().submit(os.getpid)

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = worker_pool(self.workers, _decode_in_one_thread)
        return self._pool

    def _parallel(
        self, candidates: Candidates, spans: Iterator[tuple[int, int]], target: Target
    ) -> Iterator[tuple[int, int, Chunk]]:
        pool, root = self._executor(), str(candidates.root)
        waiting: deque[tuple[int, int, Future[Chunk]]] = deque()

        def submit(span: tuple[int, int]) -> None:
            paths = candidates.paths(*span)
            waiting.append((*span, pool.submit(decode_chunk, root, paths, target, candidates.paired)))

        try:
            for span in itertools.islice(spans, 2 * self.workers + 2):
                submit(span)
            while waiting:
                start, stop, future = waiting.popleft()
                chunk = future.result()
                for span in itertools.islice(spans, 1):
                    submit(span)
                yield start, stop, chunk
        except BrokenProcessPool as error:
            self._pool = None
            raise HrfrError(
                "a worker process of the packer died (out of memory?); what is finished is kept: run the same command"
                " again to continue, with fewer --workers if it happens again. (A Python script that calls pack()"
                ' needs an `if __name__ == "__main__":` around it.)'
            ) from error
