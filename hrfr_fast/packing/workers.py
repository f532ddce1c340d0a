"""Worker processes that decode candidates, chunk by chunk, on all cores."""

import gc
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hrfr_fast.packing.chunks import Chunk, Reader, decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.shared_area import SharedArea, own_slot, shared_area, taken, use_area
from hrfr_fast.packing.slow_pictures import watched_chunks
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.patience import ends_within
from hrfr_fast.runtime.processes import in_order, one_opencv_thread, worker_pool

if TYPE_CHECKING:  # it imports a console, a fifth of what a worker needs to start
    from hrfr_fast.runtime.cluster import Cluster

PATIENCE = 300.0  # seconds for a chunk, which takes one of them, or some on a slow network
ANSWER = 5.0  # seconds for a picture's bytes, when it is sought which one does not come
CHUNK_BYTES = 2 << 20  # pixels in a chunk; some chunks wait in memory for each worker


def chunk_length(size: int, encoding: str = "raw") -> int:
    """How many pictures of ``size`` px make a chunk; even, so that pairs stay together. JPEG takes less memory."""
    room = CHUNK_BYTES if encoding == "raw" else 4 * CHUNK_BYTES
    return max(2, min(512, room // (3 * size * size)) // 2 * 2)


def spans_of(candidates: Candidates, first: int) -> list[tuple[int, int]]:
    """(first, last) of the chunks of the candidates from number ``first`` on."""
    step = chunk_length(candidates.size, candidates.encoding)
    return [(start, min(start + step, candidates.count)) for start in range(first, candidates.count, step)]


def _stuck_at(candidates: Candidates, first: int, last: int) -> str:
    """In words, which of the candidates first..last-1 a worker is stuck at."""
    paths = [f"{candidates.folder}/{path}" for path in candidates.paths(first, last)]
    for path, read in zip(paths, candidates.readers(first, last), strict=True):
        if not ends_within(read, ANSWER):
            return f"{one_line(path)} cannot be read, the disk or the network mount does not answer"
    return f"one of {one_line(paths[0])} to {one_line(paths[-1])} is not decoded; all of them can be read"


class Decoders:
    """Context manager of ``workers`` processes that decode, or of this process alone for one worker."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._area: SharedArea | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._area is not None:
            self._area.close()

    def chunks(self, candidates: Candidates, first: int) -> Iterator[tuple[int, int, Chunk]]:
        """(first, last, chunk) for the candidates from number ``first`` on. Raises HrfrError when a worker dies.

        The bytes of a chunk are there until the next one is asked for.
        """
        target = Target(candidates.size, candidates.resize, candidates.encoding)
        for span, chunk in zip(spans_of(candidates, first), self._decoded(candidates, first, target), strict=True):
            yield *span, chunk

    def _decoded(self, candidates: Candidates, first: int, target: Target) -> Iterator[Chunk]:
        """The chunks of ``spans_of(candidates, first)``, in order."""
        spans = spans_of(candidates, first)
        if self.workers == 1 or not candidates.in_workers:
            return watched_chunks(candidates, spans, target)
        return self._from_workers(candidates, spans, target)

    def _from_workers(self, candidates: Candidates, spans: list[tuple[int, int]], target: Target) -> Iterator[Chunk]:
        """Slots are used in turn: a chunk is asked for after the one that lay in its slot before was taken."""
        pool, ahead = self._executor(), 2 * self.workers + 1
        slots = [number % (ahead + 1) for number in range(len(spans))]
        calls = (
            (slot, candidates.readers(*span), target, candidates.paired)
            for slot, span in zip(slots, spans, strict=True)
        )
        chunks = in_order(
            pool, _decode_into, calls, ahead, " of the packer",
            patience=PATIENCE, describe=lambda number: _stuck_at(candidates, *spans[number]),
        )  # fmt: skip
        for slot, chunk in zip(slots, chunks, strict=True):
            yield taken(chunk, self._area, slot)

    def cluster(self) -> "Cluster | None":
        """The cluster that decodes in place of processes, see ``cluster_decoders.py``."""
        return None

    def start(self) -> None:
        """Start the processes now, in the background: they take 0.3 s to import what decodes."""
        if self.workers > 1:
            for _ in range(self.workers):
                self._executor().submit(os.getpid)

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._area = shared_area(2 * self.workers + 2, CHUNK_BYTES)
            self._pool = worker_pool(self.workers, partial(_prepare_worker, self._area))
        return self._pool


def _prepare_worker(area: SharedArea | None) -> None:
    one_opencv_thread()
    use_area(area)
    gc.freeze()  # what is imported by now is not looked through again


def _decode_into(slot: int, readers: Sequence[Reader], target: Target, paired: bool) -> Chunk:
    return decode_chunk(readers, target, paired, own_slot(slot))
