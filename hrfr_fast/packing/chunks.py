"""Consecutive pictures read and decoded into the bytes of their records, as packing's worker processes do it.

This imports numpy, and simplejpeg or OpenCV once a file needs it, so that workers start fast.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.decode import Target, record_of
from hrfr_fast.packing.picture_files import Rejected, Unreadable, read_file

Reader = Callable[[], "bytes | NDArray[np.uint8]"]
"""A function that reads one picture, picklable where worker processes are to call it, as ``functools.partial`` of a
module's function is.

It returns the encoded picture (the bytes of a JPEG, PNG, WebP or BMP file), or uint8 RGB pixels [H, W, 3] where a
format holds pixels. It raises Rejected with the reason for what is no picture, and Unreadable where the system does not
let it be read.
"""


class FileReaders(Sequence[Reader]):
    """Readers of the picture files ``paths`` below ``root``.

    They travel to a worker process as paths, which takes a twentieth of the time that one function a picture takes.
    """

    def __init__(
        self, root: str | os.PathLike[str], paths: list[str], read: Callable[[str], bytes] = read_file
    ) -> None:
        self.root, self.paths, self.read = os.fspath(root), paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return partial(self.read, os.path.join(self.root, self.paths[index]))

    def __iter__(self) -> Iterator[Reader]:
        before = os.path.join(self.root, "")  # what os.path.join puts before each path that is not absolute
        for path in self.paths:
            yield partial(self.read, path if path.startswith("/") else before + path)


@dataclass
class Chunk:
    """Consecutive candidates after decoding: joined payloads of the kept ones, reasons why others were rejected."""

    blob: bytes | memoryview = b""
    kept: list[int] = field(default_factory=list)  # position within the chunk
    lengths: list[int] = field(default_factory=list)
    crc32: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)  # position, reason
    unreadable: set[int] = field(default_factory=set)  # positions of the rejected that the next pack tries again


def decode_chunk(readers: Iterable[Reader], target: Target, paired: bool, area: memoryview | None = None) -> Chunk:
    """Read and decode pictures.

    Args:
        paired: a rejected picture takes the other of its pair along.
        area: where the bytes go if it has room for them; ``blob`` is empty then.
    """
    chunk, payloads = Chunk(), list[bytes | memoryview]()
    rooms = _rooms(area, 3 * target.size**2) if area is not None and target.encoding == "raw" and not paired else []
    for position, read in enumerate(readers):
        room = rooms[len(payloads)] if len(payloads) < len(rooms) else None
        try:
            payload, mode = record_of(read(), target, room)
        except Rejected as reason:
            chunk.rejected.append((position, str(reason)))
            if isinstance(reason, Unreadable):
                chunk.unreadable.add(position)
            continue
        if room is not None and payload is not room:
            room[:] = payload
        payloads.append(payload)
        chunk.kept.append(position)
        chunk.modes.append(mode)
    if paired and chunk.rejected:
        lost = {position // 2 for position, _ in chunk.rejected}
        whole = [number for number, position in enumerate(chunk.kept) if position // 2 not in lost]
        chunk.kept, chunk.modes = [chunk.kept[i] for i in whole], [chunk.modes[i] for i in whole]
        payloads = [payloads[i] for i in whole]
    chunk.lengths = list(map(len, payloads))
    chunk.crc32 = list(map(zlib.crc32, payloads))
    in_area = 0 < len(payloads) <= len(rooms)
    if not in_area and (area is None or not _put(payloads, area)):
        chunk.blob = b"".join(payloads)
    return chunk


def with_bytes(chunk: Chunk, area: memoryview) -> Chunk:
    """``chunk`` with its bytes, where they are at the start of ``area``."""
    length = sum(chunk.lengths)
    return chunk if len(chunk.blob) == length else replace(chunk, blob=area[:length])


def _rooms(area: memoryview, length: int) -> list[memoryview]:
    """The parts of ``area`` for raw records of ``length`` bytes, one after the other."""
    return [area[start : start + length] for start in range(0, len(area) - length + 1, length)]


def _put(payloads: list[bytes | memoryview], area: memoryview) -> bool:
    """Write ``payloads`` to the start of ``area``, one after the other; False where they do not fit."""
    if sum(map(len, payloads)) > len(area):
        return False
    start = 0
    for payload in payloads:
        end = start + len(payload)
        area[start:end] = payload
        start = end
    return True
