"""Checksums inside safetensors files: what was damaged is refused before a tensor of it is used.

The header's metadata hold CRC-32s under :data:`KEY`, eight hexadecimal digits each: first that of the header itself,
with zeros in this place, then one for every :data:`BLOCK` bytes of the tensors. So whoever needs some rows reads and
compares no more than the blocks they lie in. Files of earlier versions, and of others, have none and are read as they
are.
"""

import json
import os
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hrfr_fast.runtime.errors import DamageFound, HrfrError
from hrfr_fast.runtime.untrusted import parsed_json

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

KEY = "crc32"
BLOCK = 16 << 20
MOST_HEADER = 100_000_000  # bytes; the limit of the format's own readers
_PLACE = re.compile(rb'"' + KEY.encode() + rb'": ?"([0-9a-f]*)"')  # inside another value, quotes are escaped


class SealedWriter:
    """Writer of one safetensors file.

    Args:
        file: open for writing, at its begin.
        entries: name -> dtype, shape and data_offsets, as the format has them.
        metadata: of the file.
        size: bytes of all tensors.
    """

    def __init__(self, file: BinaryIO, entries: Mapping[str, Any], metadata: Mapping[str, str], size: int) -> None:
        self._file = file
        self._checksums = [0] * -(-size // BLOCK)
        self._written = 0
        unsealed = "0" * 8 * (1 + len(self._checksums))
        text = json.dumps({"__metadata__": {**metadata, KEY: unsealed}, **entries}).encode()
        self._header = text + b" " * (-len(text) % 8)
        file.write(struct.pack("<Q", len(self._header)) + self._header)

    def write(self, content: "Buffer") -> None:
        """Write the next bytes of the tensors."""
        view = memoryview(content).cast("B")
        self._file.write(view)
        while len(view):
            block, used = divmod(self._written, BLOCK)
            part = view[: BLOCK - used]
            self._checksums[block] = zlib.crc32(part, self._checksums[block])
            self._written += len(part)
            view = view[len(part) :]

    def finish(self) -> None:
        """Enter the checksums into the header."""
        place = _PLACE.search(self._header)
        assert place is not None, "written by __init__"
        found = [zlib.crc32(self._header), *self._checksums]
        self._file.seek(8 + place.start(1))
        self._file.write("".join(f"{checksum:08x}" for checksum in found).encode())
        self._file.seek(0, os.SEEK_END)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file, checked against the file's size and its own checksum."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]
    begin: int
    """Where in the file the tensors begin."""
    size: int
    """Bytes of the tensors."""
    checksums: tuple[int, ...] | None
    """Of the blocks of the tensors; None in a file without."""

    def check(self, content: "Buffer", first: int = 0) -> None:
        """Raise DamageFound where ``content``, the bytes from block ``first`` on, is not what was written."""
        if self.checksums is None:
            return
        view = memoryview(content).cast("B")
        for block, at in enumerate(range(0, len(view), BLOCK), first):
            if zlib.crc32(view[at : at + BLOCK]) != self.checksums[block]:
                begin = self.begin + block * BLOCK
                end = min(begin + BLOCK, self.begin + self.size)
                raise DamageFound(
                    f"{self.path}: bytes {begin:,} to {end:,} do not match their checksum: the file is damaged."
                    f" {what_helps(self.path)}"
                )

    def read(self, file: BinaryIO, begin: int, end: int) -> memoryview:
        """Bytes ``begin`` to ``end`` of the tensors, compared with their checksums. Raises DamageFound, OSError."""
        first = begin // BLOCK * BLOCK if self.checksums else begin
        last = min(-(-end // BLOCK) * BLOCK, self.size) if self.checksums else end
        content = bytearray(last - first)
        file.seek(self.begin + first)
        if file.readinto(content) < len(content):  # type: ignore[attr-defined]
            raise DamageFound(f"{self.path}: it was cut short. {what_helps(self.path)}")
        if self.checksums:
            self.check(content, first // BLOCK)
        return memoryview(content)[begin - first : end - first]


def read_header(file: BinaryIO, path: Path) -> Header:
    """The header of the safetensors file ``path``, open as ``file``.

    Raises:
        HrfrError: it is no safetensors file.
        DamageFound: it is one whose header is damaged, or which was cut short.
    """
    whole = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if whole < 8 or length > min(whole - 8, MOST_HEADER):
        raise HrfrError(f"{path}: not a readable safetensors file: a header of {length:,} bytes in {whole:,}")
    text = file.read(length)
    try:
        entries = parsed_json(text)
        metadata = dict(entries.pop("__metadata__", {}))
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not all texts")
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        checksums = _checksums(text, metadata)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise HrfrError(f"{path}: not a readable safetensors file: {error}") from None
    size = whole - 8 - length
    blocks = -(-end // BLOCK)
    if checksums is not None and (len(checksums) != 1 + blocks or checksums[0] != _checksum_without(text)):
        raise DamageFound(f"{path}: its header does not match its checksum: the file is damaged. {what_helps(path)}")
    if size != end:
        raise DamageFound(f"{path}: {size:,} bytes of tensors, its header says {end:,}. {what_helps(path)}")
    return Header(path, metadata, entries, 8 + length, size, None if checksums is None else checksums[1:])


def _checksums(text: bytes, metadata: Mapping[str, str]) -> tuple[int, ...] | None:
    if KEY not in metadata:
        return None
    digits = metadata[KEY]
    return tuple(int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))


def _checksum_without(text: bytes) -> int:
    """CRC-32 of a header with zeros for its checksums; -1 where these stand elsewhere than they were written."""
    place = _PLACE.search(text)
    if place is None:
        return -1
    return zlib.crc32(text[: place.start(1)] + b"0" * len(place[1]) + text[place.end(1) :])


def what_helps(path: Path) -> str:
    """Advice on a damaged checkpoint."""
    if path.name == "last.safetensors" and (path.parent / "last.state.pt").exists():
        return "Remove it, and `hrfr-fast train --resume` writes it anew from last.state.pt"
    return "Take a copy of it, or another checkpoint"
