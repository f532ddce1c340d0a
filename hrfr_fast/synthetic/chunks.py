"""Pictures of synthetic people, rendered chunk by chunk on all cores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import numpy as np

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.processes import in_order, one_opencv_thread, worker_pool
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import cores
from hrfr_fast.synthetic.faces import render
from hrfr_fast.synthetic.scales import HIGH, LOW, SplitSpec
from hrfr_fast.synthetic.traits import Strengths

CHUNK_PICTURES = {LOW: 400, HIGH: 60}  # a fraction of a second
INLINE_PICTURES = 1500  # below this, starting processes costs more than it saves
T = TypeVar("T")


@dataclass(frozen=True)
class IdentityChunk:
    """Consecutive identities of one split, as a worker gets them."""

    seed: int
    split: str
    spec: SplitSpec
    identities: tuple[int, ...]
    strengths: Strengths


def identity_chunks(
    seed: int, split: str, spec: SplitSpec, identities: Sequence[int], strengths: Strengths
) -> Iterator[IdentityChunk]:
    """``identities`` of one split in chunks."""
    step = max(1, CHUNK_PICTURES[spec.size] // spec.pictures)
    for start in range(0, len(identities), step):
        yield IdentityChunk(seed, split, spec, tuple(identities[start : start + step]), strengths)


def jpegs(chunk: IdentityChunk, identity: int) -> list[bytes]:
    """The JPEG files of one person."""
    import simplejpeg

    spec = chunk.spec
    images, qualities = render(chunk.seed, spec.number, identity, np.arange(spec.pictures), spec.size, chunk.strengths)
    return [
        simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="420")
        for image, quality in zip(images, qualities.tolist(), strict=True)
    ]


def map_chunks(
    function: Callable[[IdentityChunk], T], chunks: Iterator[IdentityChunk], workers: int, stop: StopFlag
) -> Iterator[T]:
    """Results of ``function`` for each chunk, in order, by ``workers`` processes (1: this one); ``stop`` ends them."""
    chunks = takewhile(lambda _: not stop, chunks)
    if workers == 1:
        yield from map(function, chunks)
        return
    pool = worker_pool(workers, one_opencv_thread)
    try:
        for result in in_order(pool, function, zip(chunks), 3 * workers):
            yield result
            if stop:
                return
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def worker_count(workers: int, pictures: int) -> int:
    """How many processes make ``pictures``: ``workers``, for 0 all cores, or this process alone for little work.

    Raises UsageError for a negative number.
    """
    if workers < 0:
        raise UsageError(f"workers is {workers}; it must be at least 0 (0: as many as there are cores)")
    return workers or (1 if pictures <= INLINE_PICTURES else cores())
