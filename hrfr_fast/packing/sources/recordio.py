"""RecordIO, the container of MXNet's ``.rec`` files, and the ``.idx`` beside it that says where each record begins.

Source: ``include/dmlc/recordio.h`` and ``src/recordio.cc`` of dmlc-core. A record is one or more parts, each::

    magic u4 0xced7230a | cflag << 29 | length, u4 | length bytes | zeros up to a multiple of 4

cflag 0 is a whole record; 1, 2 and 3 are the first, a middle and the last part of a record that held the magic at a
multiple of 4: the writer cut it out there, and a reader puts it back between the parts. So the magic at a multiple of 4
is the beginning of a part wherever it is found, and a reader can go on behind damage.

A line of the ``.idx`` is ``key<tab>byte``, one a record.
"""

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.file_bytes import LargeFile, read_range
from hrfr_fast.packing.picture_files import MAX_FILE_BYTES, Rejected
from hrfr_fast.runtime.errors import HrfrError, UsageError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
PART = struct.Struct("<II")
LENGTH_BITS, LENGTH = 29, (1 << 29) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)
NO_MAGIC = "no record begins at its place: the bytes there are not RecordIO's magic number"
MOST_DAMAGED = 100  # places at which a scan may lose and find the records again
INDEX_BLOCK = 8 << 20


def padded(length: int) -> int:
    """``length`` rounded up to a multiple of 4."""
    return (length + 3) & ~3


def read_record(path: str, start: int, span: int, descriptor: int | None = None) -> bytes:
    """Content of the record whose parts take ``span`` bytes from byte ``start`` of the file on. Raises Rejected."""
    return joined(read_range(path, start, span, descriptor))


def joined(data: bytes) -> bytes:
    """Content of the record whose parts are ``data``. Raises Rejected where they are not."""
    parts, at, expected = [], 0, (WHOLE, FIRST)
    while True:
        if at + PART.size > len(data):
            raise Rejected("the record is cut off")
        magic, word = PART.unpack_from(data, at)
        kind, length = word >> LENGTH_BITS, word & LENGTH
        if magic != MAGIC:
            raise Rejected(NO_MAGIC)
        if kind not in expected:
            raise Rejected(f"damaged: a part of kind {kind} where {' or '.join(map(str, expected))} is expected")
        if at + PART.size + length > len(data):
            raise Rejected("the record is cut off")
        parts.append(data[at + PART.size : at + PART.size + length])
        if kind in (WHOLE, LAST):
            return MAGIC_BYTES.join(parts)
        at, expected = at + PART.size + padded(length), (MIDDLE, LAST)


def span_of_parts(file: LargeFile, start: int, following: int) -> int:
    """Bytes that a record of several parts takes, the last one's padding aside.

    Counting ends where the record is longer than any picture, damaged, or reaches to ``following``, where the next one
    begins: reading it gives the reason. Without that end a file of kilobytes whose records share their parts takes
    hours.
    """
    at, expected = start, [FIRST]
    while at - start <= MAX_FILE_BYTES and at < following:
        file.load(at, PART.size)
        if at + PART.size > file.size:
            return at + PART.size - start
        magic, word = PART.unpack_from(file.block, at - file.start)
        kind = word >> LENGTH_BITS
        if magic != MAGIC or kind not in expected:
            return at + PART.size - start
        end = at + PART.size + (word & LENGTH)
        if kind == LAST:
            return end - start
        at, expected = padded(end), [MIDDLE, LAST]
    return at - start


@dataclass
class RecordPlaces:
    """Keys of the N records, ascending and each once, and the byte where each begins."""

    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    warnings: list[str] = field(default_factory=list)


def read_index(index: Path, records: Path, size: int) -> RecordPlaces:
    """The places in the ``.idx`` of the record file ``records`` of ``size`` bytes, in whatever order its lines are.

    Of several lines with one key the last counts, as in MXNet's reader.

    Raises:
        UsageError: a line is not two numbers; a record begins outside the file.
        HrfrError: it cannot be read.
    """
    numbers: list[NDArray[np.int64]] = []
    lines = 0
    try:
        for block in _line_blocks(index):
            numbers.append(_pairs(block, index, lines))
            lines += len(numbers[-1])
            if lines > size // PART.size:
                raise UsageError(f"{index}: it has more lines than {records} of {size:,} bytes can hold records")
    except OSError as error:
        raise HrfrError(f"{index}: cannot be read: {error.strerror}") from error
    if not lines:
        raise UsageError(f"{index}: the file is empty; delete it, and the records are found without it")
    pairs = np.concatenate(numbers)
    outside = np.flatnonzero(pairs[:, 1] > size - PART.size)
    if len(outside):
        key, start = pairs[outside[0]].tolist()
        others = f" ({len(outside) - 1:,} others, too)" if len(outside) > 1 else ""
        raise UsageError(
            f"{index}: record {key} would begin at byte {start:,}, outside {records} of {size:,} bytes{others}: the two"
            " do not belong together, or the .rec is cut off. Copy it again; without the .idx, what is whole is packed"
        )
    order = np.argsort(pairs[:, 0], kind="stable")
    keys = pairs[order, 0]
    last = np.append(keys[1:] != keys[:-1], True)
    warnings = []
    if repeated := int((~last).sum()):
        warnings.append(
            f"{index.name}: {repeated:,} lines repeat a key, such as {keys[~last][0]}; the last line of a key counts"
        )
    return RecordPlaces(keys[last], pairs[order[last], 1], warnings)


def _line_blocks(index: Path) -> Iterator[bytes]:
    """Blocks of whole lines."""
    with open(index, "rb") as file:
        rest = b""
        while block := file.read(INDEX_BLOCK):
            end = block.rfind(b"\n") + 1
            if not end and len(rest) > INDEX_BLOCK:
                raise UsageError(f"{index}: not an index of records: a line is longer than {INDEX_BLOCK:,} bytes")
            if end:
                yield rest + block[:end]
                rest = b""
            rest += block[end:]
        if rest:
            yield rest + b"\n"


def _pairs(block: bytes, index: Path, before: int) -> NDArray[np.int64]:
    """The two numbers of each line, int64 [n, 2]. ``before``: how many lines are before ``block``."""
    text = np.frombuffer(block.replace(b"\r\n", b"\n"), np.uint8)
    ends = np.flatnonzero((text == ord("\t")) | (text == ord("\n")))
    digits = np.diff(np.concatenate([[-1], ends])) - 1
    usual = (text >= ord("0")) & (text <= ord("9"))
    usual[ends] = True
    # A tab and an end of line in turns, and 1 to 18 digits before each: no number overflows.
    in_turns = (text[ends[::2]] == ord("\t")).all() and (text[ends[1::2]] == ord("\n")).all()
    if len(ends) % 2 == 0 and in_turns and usual.all() and ((digits >= 1) & (digits <= 18)).all():
        return np.fromstring(block.decode("ascii"), np.int64, sep=" ").reshape(-1, 2)
    for number, line in enumerate(block.splitlines(), before + 1):
        words = line.split(b"\t")
        if len(words) != 2 or not all(word.isdigit() and len(word) <= 18 for word in words):
            shown = line[:40].decode("ascii", "replace")
            raise UsageError(f"{index}: line {number} is {shown!r}, expected a record's number, a tab and its byte")
    raise UsageError(f"{index}: not an index of records")


def scan(file: LargeFile) -> RecordPlaces:
    """The places of the records found in the file itself; their keys are their numbers.

    Behind damage the next beginning of a record is looked for. Raises UsageError where there is too much of it.
    """
    starts, damaged, at, previous, inside = array("q"), 0, 0, 0, False
    while at + PART.size <= file.size:
        file.load(at, PART.size)
        magic, word = PART.unpack_from(file.block, at - file.start)
        end = at + PART.size + (word & LENGTH)
        kind = word >> LENGTH_BITS
        if magic == MAGIC and (kind in (WHOLE, FIRST) or not inside):
            starts.append(at)  # A later part that no first one precedes, too: its reader is told what is wrong.
        inside = magic == MAGIC and (kind == FIRST or (inside and kind == MIDDLE))
        if magic == MAGIC and end <= file.size:
            previous, at = at, padded(end)
            continue
        damaged += 1
        if damaged > MOST_DAMAGED:
            raise UsageError(
                f"{file.path}: byte {at:,} is the {damaged}th place where a record is damaged: the file is damaged, or"
                " no file of records; copy it again"
            )
        # The length of the part before may be what is wrong, so the search begins there.
        following = _next_record(file, previous if magic != MAGIC else at)
        if magic != MAGIC and following > at:
            starts.append(at)
        previous = at = following
    places = np.unique(np.frombuffer(starts, np.int64)) if starts else np.zeros(0, np.int64)
    return RecordPlaces(np.arange(len(places)), places)


def _next_record(file: LargeFile, start: int) -> int:
    """The first place after ``start`` where a record begins; the file's size where there is none."""
    at = start + 4
    while at + PART.size <= file.size:
        file.load(at, PART.size)
        found = file.block.find(MAGIC_BYTES, at - file.start)
        if found < 0:
            at = padded(max(at + 1, file.start + len(file.block) - 3))
            continue
        at = file.start + found
        head = file.at(at, PART.size)
        if at % 4 == 0 and len(head) == PART.size and PART.unpack(head)[1] >> LENGTH_BITS in (WHOLE, FIRST):
            return at
        at += 1
    return file.size


def find_files(path: Path) -> tuple[Path, Path | None]:
    """The ``.rec`` that a folder, a ``.rec`` or an ``.idx`` stands for, and its ``.idx`` if there is one.

    Raises:
        UsageError: there is no ``.rec``, or several of which none is ``train.rec``.
        HrfrError: the folder cannot be listed.
    """
    if path.is_dir():
        try:
            found = sorted(name for name in os.listdir(path) if name.endswith(".rec") and not name.startswith("."))
        except OSError as error:
            raise HrfrError(f"{path}: cannot be listed: {error.strerror}") from error
        if not found:
            raise UsageError(f"{path}: no .rec file here")
        if len(found) > 1 and "train.rec" not in found:
            raise UsageError(f"{path}: several .rec files ({', '.join(found[:5])}); give the one that is meant")
        records = path / ("train.rec" if "train.rec" in found else found[0])
    else:
        records = path.with_suffix(".rec") if path.suffix == ".idx" else path
    if not records.is_file():
        raise UsageError(f"{records}: no such file; {path.name} only says where the records are in it")
    index = records.with_suffix(".idx")
    return records, index if index.is_file() else None
