"""Consecutive pictures read and decoded into the bytes of their records, as packing's worker processes do it.

This imports numpy, and simplejpeg or OpenCV once a file needs it, so that workers start fast.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Chunk:
    """Consecutive candidates after decoding: joined payloads of the kept ones, reasons why others were rejected."""

    blob: bytes = b""
    kept: list[int] = field(default_factory=list)  # position within the chunk
    lengths: list[int] = field(default_factory=list)
    crc32: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)  # position, reason
    unreadable: set[int] = field(default_factory=set)  # positions of the rejected that the next pack tries again


def decode_chunk(readers: Iterable[Reader], target: Target, paired: bool) -> Chunk:
    """Read and decode pictures. ``paired``: a rejected picture takes the other of its pair along."""
    chunk, records = Chunk(), []
    for position, read in enumerate(readers):
        try:
            record = record_of(read(), target)
        except Rejected as reason:
            chunk.rejected.append((position, str(reason)))
            if isinstance(reason, Unreadable):
                chunk.unreadable.add(position)
            continue
        records.append((position, *record))
    if paired and chunk.rejected:
        lost = {position // 2 for position, _ in chunk.rejected}
        records = [record for record in records if record[0] // 2 not in lost]
    for position, payload, mode in records:
        chunk.kept.append(position)
        chunk.lengths.append(len(payload))
        chunk.crc32.append(zlib.crc32(payload))
        chunk.modes.append(mode)
    chunk.blob = b"".join([record[1] for record in records])
    return chunk
