"""What a CUDA graph's capture changes in torch, kept on a machine without CUDA.

``torch.cuda.graph`` itself is torch's own; streams, the allocator, the random generator and the graph are stand-ins
that remember what they were told. Nothing is recorded: what is captured runs at once on the CPU, so that a step whose
effects are not undone shows.
"""

from collections import Counter
from types import SimpleNamespace

import torch

DEFAULT, POOL = "the default stream", (0, 1)
INVALID = "CUDA error: operation failed due to a previous error during capture\nCompile with ..."


class FakeCuda:
    """Installed by ``FakeCuda(monkeypatch)``. ``fails_at_the_end``: CUDA refuses the capture when it is ended; "late":
    torch does, by when its allocator knows of the end."""

    def __init__(self, monkeypatch):
        self.stream = SimpleNamespace(name=DEFAULT, device=torch.device("cuda", 0), wait_stream=lambda other: None)
        self.underway, self.pools = [], Counter()
        self.capturing = self.draws_refused = self.broken = self.fails_at_the_end = False
        self.made = 0
        for name, value in {
            "Stream": lambda: SimpleNamespace(
                name="another", device=torch.device("cuda", 0), wait_stream=lambda other: None
            ),
            "current_stream": lambda device=None: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "stream": lambda stream: FakeStreamContext(self, stream),
            "synchronize": self._synchronize,
            "empty_cache": lambda: None,
            "graph_pool_handle": lambda: POOL,
            "CUDAGraph": lambda: FakeGraph(self),
            "default_generators": (self,),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", None)
        monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self._end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self._release, raising=False)

    @property
    def clean(self):
        """Whether everything is as without a capture."""
        kept = any(self.pools.values())
        return self.stream.name == DEFAULT and not (self.underway or kept or self.capturing or self.draws_refused)

    def _synchronize(self, device=None):
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def _end(self, device, pool):
        assert device == 0
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def _release(self, device, pool):
        if not self.pools[pool]:
            raise RuntimeError("INTERNAL ASSERT FAILED: no such pool")
        self.pools[pool] -= 1

    # The generator: a capture marks its state, and only another state is free of the mark.
    def clone_state(self):
        return "another state"

    def graphsafe_set_state(self, state):
        self.draws_refused = False


class FakeStreamContext:
    def __init__(self, cuda, stream):
        self.cuda, self.new, self.old = cuda, stream, None

    def __enter__(self):
        self.old, self.cuda.stream = self.cuda.stream, self.new

    def __exit__(self, *_):
        self.cuda.stream = self.old


class FakeGraph:
    def __init__(self, cuda):
        self.cuda, self.ended = cuda, False

    def capture_begin(self, pool, **_):
        self.cuda.underway.append(pool)
        self.cuda.pools[pool] += 1
        self.cuda.capturing = self.cuda.draws_refused = True

    def capture_end(self):
        self.cuda.capturing = False  # CUDA's part, whatever comes of it
        if self.cuda.fails_at_the_end == "late":
            self.cuda._end(0, POOL)
        if self.cuda.fails_at_the_end:
            raise RuntimeError(INVALID)
        self.cuda._end(0, POOL)
        self.cuda.draws_refused, self.ended = False, True

    def pool(self):
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return POOL

    def __del__(self):
        if self.ended:
            self.cuda._release(0, POOL)
