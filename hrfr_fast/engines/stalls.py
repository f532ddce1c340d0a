"""Word of a disk that stalls: batches that do not come are said to be waited for, with the files that do not answer.

A read from a network mount whose server is gone, or from a failing drive, may wait for hours without an error. A memory
map shows nothing of it: the process merely stands still.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hrfr_fast.engines.base import Batch
from hrfr_fast.runtime.patience import Watch, ends_within
from hrfr_fast.sampling.stream import BatchSpec, BatchStream

PATIENCE = 30.0  # seconds for a batch, which takes a tenth of one
ANSWER = 2.0  # seconds for a byte of a file


def told_when_stalled(
    batches: Iterator[Batch], stream: BatchStream, start: int, say: Callable[[str], None], patience: float = PATIENCE
) -> Iterator[Batch]:
    """``batches``, which begin at sample ``start`` of ``stream``; ``say`` is told of one that takes ``patience``
    seconds, and of the files that do not answer, from another thread.

    Of the first batch it is only told where a file does not answer: kernels are compiled for it.
    """

    def tell(sample: int, seconds: float) -> None:
        silent = [path for path, place in _places(stream, sample) if not answers(path, place)]
        if watch.is_at(sample) and (silent or sample != start):
            say(_words(sample, seconds, silent))

    watch = Watch(tell, patience, "hrfr-stalls")
    sample = start
    try:
        while True:
            watch.begin(sample)
            batch = next(batches, None)
            watch.pause()
            if batch is None:
                return
            sample = batch.start + stream.batch_size
            yield batch
    finally:
        watch.end()


def _words(sample: int, seconds: float, silent: list[Path]) -> str:
    began = f"warning: the batch at sample {sample:,} has been waited for for {seconds:.0f} s"
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
