"""Decoding on the machines of a cluster instead of in processes of this one.

The pictures of a shard in one file are decoded there and travel to this process, which writes them: the bytes cannot
differ from those of a local pack. The files of a divided split are written there, see ``cluster_parts.py``.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType

from hrfr_fast.packing.chunks import Chunk, decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.packing.workers import Decoders, spans_of
from hrfr_fast.runtime.cluster import Call, Cluster, connect

AHEAD = 2  # chunks a core that wait for this process to write them; each is about 1 MB of pixels


class ClusterDecoders(Decoders):
    """Decoders on all cores of the cluster ``on``, to which it connects when there is something to decode.

    Args:
        on, cpus: as of ``cluster.connect``, whose errors the first use raises.
    """

    def __init__(self, on: str, cpus: int) -> None:
        super().__init__(cpus)
        self._on, self._connection = on, ExitStack()
        self._cluster: Cluster | None = None

    def cluster(self) -> Cluster:
        """The cluster, connected until the end of the context."""
        if self._cluster is None:
            self._cluster = self._connection.enter_context(connect(self._on, self.workers))
        return self._cluster

    def start(self) -> None:
        """Connect now: it takes seconds, and hours of listing should not come before an error."""
        self.cluster()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.__exit__(kind, error, traceback)

    def _decoded(self, candidates: Candidates, first: int, target: Target) -> Iterator[Chunk]:
        if not candidates.in_workers:
            yield from super()._decoded(candidates, first, target)
            return
        cluster = self.cluster()
        waiting: deque[Call] = deque()
        try:
            for span in spans_of(candidates, first):
                readers = candidates.readers(*span)
                waiting.append(cluster.submit(decode_chunk, readers, target, candidates.paired))
                if len(waiting) > AHEAD * cluster.cpus:
                    yield cluster.result(waiting.popleft())
            while waiting:
                yield cluster.result(waiting.popleft())
        finally:
            cluster.cancel(waiting)
