"""Word of a disk that stalls: batches that do not come are said to be waited for, with the files that do not answer.

A read from a network mount whose server is gone, or from a failing drive, may wait for hours without an error. A memory
map shows nothing of it: the process merely stands still.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hrfr_fast.engines.base import Batch
from hrfr_fast.runtime.patience import ends_within
from hrfr_fast.sampling.stream import BatchSpec, BatchStream

PATIENCE = 30.0  # seconds for a batch, which takes a tenth of one
ANSWER = 2.0  # seconds for a byte of a file
REPEAT = 10.0  # times longer until it is said again


def told_when_stalled(
    batches: Iterator[Batch], stream: BatchStream, start: int, say: Callable[[str], None], patience: float = PATIENCE
) -> Iterator[Batch]:
    """``batches``, which begin at sample ``start`` of ``stream``; ``say`` is told of one that takes ``patience``
    seconds, and of the files that do not answer, from another thread.

    Of the first batch it is only told where a file does not answer: kernels are compiled for it.
    """
    watch = _Watch(stream, start, say, patience)
    try:
        while True:
            watch.since = time.monotonic()
            batch = next(batches, None)
            watch.since = None
            if batch is None:
                return
            watch.next_sample = batch.start + stream.batch_size
            yield batch
    finally:
        watch.end()


class _Watch:
    """A thread that looks now and then how long a batch has been waited for."""

    def __init__(self, stream: BatchStream, start: int, say: Callable[[str], None], patience: float) -> None:
        self.stream, self.first, self.next_sample, self.say, self.patience = stream, start, start, say, patience
        self.since: float | None = None
        """When somebody began to wait; None while nobody does."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hrfr-stalls", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        told, wait = None, self.patience
        while not self._ended.wait(min(1.0, self.patience / 4)):
            since = self.since
            if since != told:
                wait = self.patience
            if since is None or time.monotonic() - since < wait:
                continue
            told, wait = since, wait * REPEAT
            silent = [path for path, place in _places(self.stream, self.next_sample) if not answers(path, place)]
            if since == self.since and (silent or self.next_sample != self.first):
                self.say(self._words(time.monotonic() - since, silent))

    def _words(self, seconds: float, silent: list[Path]) -> str:
        began = f"warning: the batch at sample {self.next_sample:,} has been waited for for {seconds:.0f} s"
        if not silent:
            return f"{began}; its files can be read, so the machine is busy or short of memory (see `top`)"
        named = ", ".join(map(str, silent[:3])) + (f" and {len(silent) - 3} more" if len(silent) > 3 else "")
        return f"{began}: no answer from {named}. The disk or the network mount stalls (see `dmesg`, `mount`)"


def _places(stream: BatchStream, start: int) -> list[tuple[Path, int]]:
    """The files of the batch at ``start``, each with a byte of it that the batch needs."""
    found: dict[Path, int] = {}
    spec: BatchSpec = stream.batch_spec(start)
    for part in spec.parts:
        for record in part.records.tolist():
            path, place = part.split.place(record)
            found.setdefault(path, place)
    return list(found.items())


def answers(path: Path, place: int, seconds: float = ANSWER) -> bool:
    """Whether a byte of ``path`` at ``place`` can be read within ``seconds``; an error is an answer, too."""

    def read() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.pread(descriptor, 1, place)
        finally:
            os.close(descriptor)

    return ends_within(read, seconds)
