"""Consecutive pictures read and decoded into the bytes of their records, as packing's worker processes do it.

This imports numpy, and simplejpeg or OpenCV once a file needs it, so that workers start fast.
"""

import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.beton import RAW
from hrfr_fast.packing.decode import Target, record_of
from hrfr_fast.packing.picture_files import Rejected, Unreadable, read_file, read_named


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


def decode_chunk(root: str, paths: list[str], target: Target, paired: bool) -> Chunk:
    """Read and decode ``paths`` below ``root``. ``paired``: a rejected picture takes the other of its pair along."""
    read = read_named if paired else read_file
    return collect((partial(read, os.path.join(root, path)) for path in paths), target, paired)


def collect(readers: Iterable[Callable[[], bytes | NDArray[np.uint8]]], target: Target, paired: bool) -> Chunk:
    """A chunk of the pictures that ``readers`` return, each a file's bytes or uint8 RGB pixels [size, size, 3]."""
    chunk, records = Chunk(), []
    for position, read in enumerate(readers):
        try:
            content = read()
            record = record_of(content, target) if isinstance(content, bytes) else (content.tobytes(), RAW)
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
