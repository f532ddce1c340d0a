"""The records of an InsightFace set: place, label and kind of each, from their headers alone.

See ``insightface_rec.py`` for the layout.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.file_bytes import LargeFile
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.sources import recordio
from hrfr_fast.packing.sources.recordio import FIRST, LENGTH, LENGTH_BITS, MAGIC, PART, WHOLE, RecordPlaces
from hrfr_fast.runtime.errors import UsageError

HEADER = struct.Struct("<IfQQ")
START = np.dtype(
    [("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("first", "<f4")]
)
"""The beginning of a record of one part, up to the first of its labels."""
EXACT = 1 << 24
"""Up to here float32 holds every whole number."""
DAMAGED, DAMAGED_SHARE = 100, 0.05
"""So many records (the larger of a number and a share, and half of them at most) may be damaged."""

GOOD, NO_MAGIC, NOT_FIRST, CUT, OVERLAP, PARTS, SHORT, LABEL = range(8)
PROBLEMS = {
    NO_MAGIC: recordio.NO_MAGIC,
    NOT_FIRST: "the second or a later part of a record is at its place",
    CUT: "the record is cut off: the file ends before it does",
    OVERLAP: "its length reaches into the next record",
    PARTS: "the parts of the record do not fit together",
    SHORT: "the record is too short for its header and labels",
    LABEL: "its label is not a whole number from 0 on",
}


class RecordTable:
    """N records in the order of their keys.

    Attributes:
        keys, starts, spans: int64 [N]: key, first byte, bytes from there to the end of the content.
        labels: float32 [N], as in the file. flags: uint32 [N], the number of labels.
        problems: uint8 [N], a key of :data:`PROBLEMS` or GOOD.
        filled: bool [N], whether anything follows the header and the labels.
        warnings: sentences without their full stops.
    """

    def __init__(self, file: LargeFile, places: RecordPlaces, indexed: bool) -> None:
        """``indexed``: whether an ``.idx`` gave the places; then the file was longer once if its last record is cut.

        Raises UsageError where the file is cut off, or much of it is damaged.
        """
        n = len(places.keys)
        self.file, self.keys, self.starts = file, places.keys, places.starts
        self.name, self.warnings = Path(file.path).name, list[str]()
        self.spans, self.flags = np.zeros(n, np.int64), np.zeros(n, np.uint32)
        self.labels, self.problems = np.zeros(n, np.float32), np.zeros(n, np.uint8)
        self.filled = np.zeros(n, bool)
        by_place = np.argsort(self.starts, kind="stable")
        ordered = self.starts[by_place]
        distinct = np.append(np.unique(ordered), file.size)
        for part, heads in file.structures(ordered, START):
            following = distinct[np.searchsorted(distinct, ordered[part], side="right")]
            self._enter(by_place[part], heads, following)
        self._refuse_damage(indexed)

    def _enter(self, rows: NDArray[np.int64], heads: NDArray[np.void], following: NDArray[np.int64]) -> None:
        """Enter the records ``rows`` by their first bytes; ``following``: where the next record begins."""
        kind, length = heads["word"] >> LENGTH_BITS, (heads["word"] & LENGTH).astype(np.int64)
        flags = heads["flag"].copy()
        spans, labels = PART.size + length, np.where(flags > 0, heads["first"], heads["label"])
        known, found = -1, (0, 0.0, 0, 0)
        for row in np.flatnonzero((heads["magic"] == MAGIC) & (kind == FIRST)).tolist():
            start = int(self.starts[rows[row]])
            if start != known:  # any number of keys may lead to one place, and they follow one another here
                known, found = start, self._of_parts(start, int(following[row]))
            flags[row], labels[row], spans[row], length[row] = found
        needed, ends = HEADER.size + 4 * flags.astype(np.int64), self.starts[rows] + spans
        problems = {
            NO_MAGIC: heads["magic"] != MAGIC,
            NOT_FIRST: (kind != WHOLE) & (kind != FIRST),
            PARTS: length < 0,
            CUT: (ends > following) & (following == self.file.size),
            OVERLAP: ends > following,
            SHORT: length < needed,
        }
        self.problems[rows] = np.select(list(problems.values()), list(problems), GOOD)
        self.flags[rows], self.labels[rows], self.spans[rows] = flags, labels, spans
        self.filled[rows] = length > needed

    def _of_parts(self, start: int, following: int) -> tuple[int, float, int, int]:
        """Flag, label, span and length of a record of several parts; length -1 where they do not fit together, 0 where
        they reach beyond ``following``."""
        span = recordio.span_of_parts(self.file, start, following)
        if start + span > following:
            return 0, 0.0, span, 0
        try:
            content = recordio.joined(self.file.at(start, span))
        except Rejected:
            return 0, 0.0, span, -1
        if len(content) < HEADER.size:
            return 0, 0.0, span, len(content)
        flag, label, _, _ = HEADER.unpack_from(content)
        if flag and len(content) >= HEADER.size + 4:
            (label,) = struct.unpack_from("<f", content, HEADER.size)
        return flag, label, span, len(content)

    def _refuse_damage(self, indexed: bool) -> None:
        damaged = np.flatnonzero(self.problems)
        cut = damaged[self.problems[damaged] == CUT]
        if indexed and len(cut):
            start, end = self.starts[cut[0]], self.starts[cut[0]] + self.spans[cut[0]]
            raise UsageError(
                f"{self.file.path}: record {self.keys[cut[0]]} at byte {start:,} is cut off: it ends at byte {end:,},"
                f" the file has {self.file.size:,} bytes. Copy it again; without the .idx, what is whole is packed"
            )
        if len(damaged) > min(max(DAMAGED, DAMAGED_SHARE * len(self.keys)), len(self.keys) / 2):
            key, reason = self.keys[damaged[0]], PROBLEMS[int(self.problems[damaged[0]])]
            raise UsageError(
                f"{self.file.path}: {len(damaged):,} of {len(self.keys):,} records are damaged, such as record {key}:"
                f" {reason}; copy the .rec and the .idx again (without an .idx, the records are searched for)"
            )

    def pictures(self) -> NDArray[np.int64]:
        """Rows of the pictures, ascending. Raises UsageError where there are none."""
        if not len(self.keys):
            raise UsageError(f"{self.file.path}: it has no records; it is cut off, or no file of records")
        bare = (self.problems == GOOD) & ~self.filled
        if self.keys[0] == 0 and bare[0] and self.flags[0] > 0:
            first = self._first_identity()
            # Above 2^24 that number is rounded, by half of the distance between two float32 at most.
            slack = int(np.spacing(np.float32(first))) // 2 if first > EXACT else 0
            certain = (self.keys > 0) & (self.keys < first - slack)
            rows = np.flatnonzero(certain | ((self.keys >= first - slack) & (self.keys < first + slack) & ~bare))
        else:
            rows = np.flatnonzero(~(bare & (self.flags == 2)))
        if not len(rows):
            raise UsageError(f"{self.file.path}: none of its {len(self.keys):,} records is a picture")
        return rows

    def _first_identity(self) -> int:
        """The number of the first identity record, from record 0."""
        first = float(self.labels[0])
        if not (first.is_integer() and 1 <= first < 2**63):
            raise UsageError(
                f"{self.file.path}: record 0 names {first} as the first identity record, expected 1 or more"
            )
        there = int(np.searchsorted(self.keys, int(first))) - 1
        if there < int(first) - 1:
            self.warnings.append(
                f"{self.name}: record 0 announces {int(first) - 1:,} pictures, {there:,} records with their numbers are"
                " there"
            )
        return int(first)

    def identity_ranges(self, pictures: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Key of the first picture of each person by the identity records, ascending.

        None where they do not account for every picture, or their numbers are too large for float32 themselves.
        """
        rows = np.flatnonzero(
            (self.problems == GOOD) & ~self.filled & (self.flags == 2) & (self.keys > self.keys[pictures[-1]])
        )
        if not len(rows):
            return None
        ranges = np.zeros((len(rows), 2), np.float32)
        for number, row in enumerate(rows.tolist()):
            content = recordio.joined(self.file.at(int(self.starts[row]), int(self.spans[row])))
            ranges[number] = struct.unpack_from("<2f", content, HEADER.size)
        ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
        whole = (ranges >= 0).all() and (ranges < EXACT).all() and (ranges == np.floor(ranges)).all()
        adjacent = (ranges[1:, 0] == ranges[:-1, 1]).all() and (ranges[:, 0] < ranges[:, 1]).all()
        covers = ranges[0, 0] == self.keys[pictures[0]] and ranges[-1, 1] == self.keys[pictures[-1]] + 1
        return ranges[:, 0].astype(np.int64) if whole and adjacent and covers else None
