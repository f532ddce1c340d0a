"""Word of a picture that this process does not get done with: pack with one worker has nobody else to wait for it.

With several workers the parent waits, and ends the command (``workers.py``). Here a thread only says which picture it
is: nothing can stop a call into a decoder, or a read from a mount whose server is gone.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from hrfr_fast.packing.chunks import Chunk, Reader, decode_chunk, with_bytes
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.patience import Watch

PATIENCE = 60.0  # seconds for a picture, which takes a thousandth of one, or some on a slow network


def watched_chunks(
    candidates: Candidates,
    spans: Iterable[tuple[int, int]],
    target: Target,
    say: Callable[[str], None] | None = None,
    patience: float | None = None,
) -> Iterator[Chunk]:
    """The chunk of each of the ``spans`` (first, last), decoded here; its bytes are there until the next is asked for.

    ``say`` is told from another thread of a picture that takes ``patience`` seconds; the console and PATIENCE by
    default.
    """
    spans, say = list(spans), say or _warn
    pixels = 3 * target.size**2 * max((last - first for first, last in spans), default=0)
    area = memoryview(bytearray(pixels if target.encoding == "raw" else 0))

    def tell(pictures: tuple[int, int], seconds: float) -> None:
        say(_words(candidates, candidates.paths(*pictures), seconds))

    watch = Watch(tell, PATIENCE if patience is None else patience, "hrfr-slow-pictures")
    try:
        for first, last in spans:
            if candidates.in_workers:
                readers = _each(candidates, first, last, watch)
                yield with_bytes(decode_chunk(readers, target, candidates.paired, area), area)
            else:  # these read and decode many pictures at once
                watch.begin((first, last))
                chunk = candidates.chunk(first, last, target)
                watch.pause()
                yield chunk
    finally:
        watch.end()


def _each(candidates: Candidates, first: int, last: int, watch: Watch[tuple[int, int]]) -> Iterator[Reader]:
    """The readers of the candidates ``first`` to ``last``, each watched until the next is asked for."""
    for number, read in enumerate(candidates.readers(first, last), first):
        watch.begin((number, number + 1))
        yield read
    watch.pause()


def _warn(message: str) -> None:
    from hrfr_fast.runtime.progress import console  # a fifth of what a worker process needs to start

    console.print(message, markup=False, highlight=False)


def _words(candidates: Candidates, paths: Sequence[str], seconds: float) -> str:
    names = [one_line(f"{candidates.folder}/{path}") for path in (paths[0], paths[-1])]
    which = names[0] if len(paths) == 1 else f"one of {names[0]} to {names[1]}"
    return (
        f"warning: {which} has been in work for {seconds:.0f} s: the disk does not answer, or the picture hangs its"
        f" decoder. If it does not go on, end this process (kill -9 {os.getpid()}), take the picture away, and run"
        " the same command again: it continues"
    )
