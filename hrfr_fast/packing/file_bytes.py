"""Bytes of a large file by their place: read in blocks in the order of the file, or one picture at a time.

Files are read and not mapped: the memory of a process stays the same however large a file is, and a failing disk or a
file that was cut meanwhile is an error with a message, where a memory map would end the process (SIGBUS). The price is
about 5 microseconds a picture, against 200 and more to decode it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.picture_files import MAX_FILE_BYTES, Rejected, Unreadable
from hrfr_fast.runtime.errors import HrfrError

BLOCK = 1 << 20  # no more than the CPU's caches hold, and memory that is used again
AT_ONCE = 1 << 16  # structures taken out of a block in one step


def ignore(_done: int) -> None:
    """Where nobody asks how far it is."""


@contextmanager
def listing_bar(name: str, size: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar of the megabytes listed of ``size`` bytes; what it gives is called with the bytes done."""
    from hrfr_fast.runtime.progress import progress_bar  # Worker processes read pictures and show no bars.

    with progress_bar(show) as progress:
        task = progress.add_task(name, total=size >> 20, note="MB listed")
        yield lambda done: progress.update(task, completed=done >> 20)


class LargeFile:
    """Context manager of an open file of which one block is in memory.

    ``advance`` is called with the place in the file that has been read up to. Raises HrfrError where the file cannot be
    opened or read.
    """

    def __init__(self, path: str | os.PathLike[str], advance: Callable[[int], None] = ignore) -> None:
        self.path, self.advance = os.fspath(path), advance
        self.block, self.start = b"", 0

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise HrfrError(f"{self.path}: cannot be read: {error.strerror}") from error
        self.size, self.modified = status.st_size, status.st_mtime_ns
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def load(self, start: int, needed: int = 1) -> None:
        """Have the ``needed`` bytes at ``start`` in ``block``, as far as the file goes."""
        if self.start <= start and start + needed <= self.start + len(self.block):
            return
        self.block, self.start = self.at(start, max(needed, BLOCK)), start
        self.advance(start + len(self.block))

    def at(self, start: int, length: int) -> bytes:
        """``length`` bytes at ``start``, fewer where the file ends."""
        try:
            return _read(self._descriptor, start, min(length, max(0, self.size - start)))
        except OSError as error:
            raise HrfrError(f"{self.path}: cannot be read at byte {start:,}: {error.strerror}") from error

    def structures(self, starts: NDArray[np.int64], dtype: np.dtype[Any]) -> Iterator[tuple[slice, NDArray[np.void]]]:
        """Structures of ``dtype`` at ``starts`` [N], ascending, in blocks: which of them, and their array.

        A structure that the file's end cuts is filled up with zeros.
        """
        step, first = np.arange(dtype.itemsize), 0
        while first < len(starts):
            base = int(starts[first])
            self.load(base, dtype.itemsize)
            block = np.frombuffer(self.block, np.uint8)[base - self.start :]
            if base + len(block) >= self.size:
                block = np.concatenate([block, np.zeros(dtype.itemsize, np.uint8)])
            last = int(np.searchsorted(starts, base + len(block) - dtype.itemsize, side="right"))
            last = min(last, first + AT_ONCE)
            places = (starts[first:last] - base)[:, None] + step
            yield slice(first, last), block[places].view(dtype)[:, 0]
            first = last


def _read(descriptor: int, start: int, length: int) -> bytes:
    data = os.pread(descriptor, length, start)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), start + len(data))):
        data += more
    return data


def read_range(path: str, start: int, length: int, descriptor: int | None = None) -> bytes:
    """``length`` bytes of the file at ``path`` from byte ``start`` on. ``descriptor``: of the file, where it is open.

    Raises:
        Unreadable: the system does not let them be read.
        Rejected: they are too many for a picture, or the file has become shorter.
    """
    if length > MAX_FILE_BYTES:
        raise Rejected(f"it has {length} bytes, more than {MAX_FILE_BYTES}")
    try:
        if descriptor is not None:
            data = _read(descriptor, start, length)
        else:
            with opened(path) as descriptor:
                data = _read(descriptor, start, length)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    if len(data) < length:
        raise Unreadable("the file has become shorter while it was packed")
    return data


@contextmanager
def opened(path: str) -> Iterator[int]:
    """The descriptor of a file that is open for reading meanwhile. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def reject(reason: str) -> bytes:
    """The reader of a picture that is known to be none. Raises Rejected."""
    raise Rejected(reason)


class PlaceReaders(Sequence[Reader]):
    """Readers of pictures at known places of large files.

    They travel to a worker process as lists of numbers, which takes a tenth of the time that one function a picture
    takes.

    Args:
        paths: the files.
        files, starts, lengths: of each picture the number of its file, its first byte and its bytes.
        problems: why a picture cannot be used, by its position, where that is known.
        read: called with path, first byte and bytes, and with the open file's descriptor where there is one; a function
            of a module.
    """

    def __init__(
        self,
        paths: list[str],
        files: list[int],
        starts: list[int],
        lengths: list[int],
        problems: dict[int, str],
        read: Callable[..., bytes] = read_range,
    ) -> None:
        self.paths, self.files, self.starts, self.lengths = paths, files, starts, lengths
        self.problems, self.read = problems, read

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if index in self.problems:
            return partial(reject, self.problems[index])
        return partial(self.read, self.paths[self.files[index]], self.starts[index], self.lengths[index])

    def __iter__(self) -> Iterator[Reader]:
        """One reader after the other; each file is opened once for all of them, which takes a third of reading one."""
        with ExitStack() as stack:
            descriptors = [_open_or_none(stack, path) for path in self.paths]
            for index, (file, start, length) in enumerate(zip(self.files, self.starts, self.lengths, strict=True)):
                if index in self.problems:
                    yield partial(reject, self.problems[index])
                else:
                    yield partial(self.read, self.paths[file], start, length, descriptors[file])


def _open_or_none(stack: ExitStack, path: str) -> int | None:
    """The file's descriptor until ``stack`` ends; None where it cannot be opened, as each of its readers will say."""
    try:
        return stack.enter_context(opened(path))
    except OSError:
        return None
