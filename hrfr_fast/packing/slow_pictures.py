"""Word of a picture that this process does not get done with: pack with one worker has nobody else to wait for it.

With several workers the parent waits, and ends the command (``workers.py``). Here a thread only says which picture it
is: nothing can stop a call into a decoder, or a read from a mount whose server is gone.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from hrfr_fast.packing.chunks import Chunk, Reader, decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.progress import console

PATIENCE = 60.0  # seconds for a picture, which takes a thousandth of one, or some on a slow network
REPEAT = 10.0  # times longer until it is said again


def watched_chunks(
    candidates: Candidates,
    spans: Iterable[tuple[int, int]],
    target: Target,
    say: Callable[[str], None] | None = None,
    patience: float | None = None,
) -> Iterator[Chunk]:
    """The chunk of each of the ``spans`` (first, last), decoded here. ``say`` is told from another thread of a picture
    that takes ``patience`` seconds; the console and PATIENCE by default."""
    watch = _Watch(candidates, say or _warn, PATIENCE if patience is None else patience)
    try:
        for first, last in spans:
            yield watch.chunk(first, last, target)
    finally:
        watch.end()


def _warn(message: str) -> None:
    console.print(message, markup=False, highlight=False)


class _Watch:
    """A thread that looks now and then how long this process has been at a picture."""

    def __init__(self, candidates: Candidates, say: Callable[[str], None], patience: float) -> None:
        self.candidates, self.say, self.patience = candidates, say, patience
        self.at: tuple[int, int, float] | None = None
        """First and last of the candidates in work, and since when; None between chunks."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hrfr-slow-pictures", daemon=True)
        self._thread.start()

    def chunk(self, first: int, last: int, target: Target) -> Chunk:
        try:
            if self.candidates.in_workers:
                return decode_chunk(self._each(first, last), target, self.candidates.paired)
            self.at = first, last, time.monotonic()  # these read and decode many pictures at once
            return self.candidates.chunk(first, last, target)
        finally:
            self.at = None

    def _each(self, first: int, last: int) -> Iterator[Reader]:
        for number, read in enumerate(self.candidates.readers(first, last), first):
            self.at = number, number + 1, time.monotonic()
            yield read

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        told, wait = None, self.patience
        while not self._ended.wait(min(1.0, self.patience / 4)):
            at = self.at
            if at != told:
                wait = self.patience
            if at is None or time.monotonic() - at[2] < wait:
                continue
            told, wait = at, wait * REPEAT
            self.say(self._words(self.candidates.paths(*at[:2]), time.monotonic() - at[2]))

    def _words(self, paths: Sequence[str], seconds: float) -> str:
        names = [one_line(f"{self.candidates.folder}/{path}") for path in (paths[0], paths[-1])]
        which = names[0] if len(paths) == 1 else f"one of {names[0]} to {names[1]}"
        return (
            f"warning: {which} has been in work for {seconds:.0f} s: the disk does not answer, or the picture hangs its"
            f" decoder. If it does not go on, end this process (kill -9 {os.getpid()}), take the picture away, and run"
            " the same command again: it continues"
        )
