"""Decoding on the machines of a cluster instead of in processes of this one.

The pictures of a shard in one file are decoded there and travel to this process, which writes them: the bytes cannot
differ from those of a local pack. The files of a divided split are written there, see ``cluster_parts.py``.
"""

from collections import deque
from collections.abc import Iterator

from hrfr_fast.packing.chunks import Chunk, decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.packing.workers import Decoders, spans_of
from hrfr_fast.runtime.cluster import Call, Cluster

AHEAD = 2  # chunks a core that wait for this process to write them; each is about 1 MB of pixels


class ClusterDecoders(Decoders):
    """Decoders on all cores of ``cluster``; it stays connected."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.cpus)
        self.cluster = cluster

    def start(self) -> None:
        """Nothing to start: Ray keeps its workers."""

    def _decoded(self, candidates: Candidates, first: int, target: Target) -> Iterator[Chunk]:
        cluster = self.cluster
        if cluster is None or not candidates.in_workers:
            yield from super()._decoded(candidates, first, target)
            return
        waiting: deque[Call] = deque()
        try:
            for span in spans_of(candidates, first):
                readers = candidates.readers(*span)
                waiting.append(cluster.submit(decode_chunk, readers, target, candidates.paired))
                if len(waiting) > AHEAD * self.workers:
                    yield cluster.result(waiting.popleft())
            while waiting:
                yield cluster.result(waiting.popleft())
        finally:
            cluster.cancel(waiting)
