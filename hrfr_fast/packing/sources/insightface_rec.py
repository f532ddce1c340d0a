"""InsightFace's training sets: a RecordIO file of pictures with labels, read without MXNet.

Source: ``face2rec2.py`` and ``MXFaceDataset`` of deepinsight/insightface, ``python/mxnet/recordio.py`` of Apache MXNet.
The content of a record is ``flag u4, label f4, id u8, id2 u8``, then, for flag > 0, that many labels f4 that stand for
``label``, then the encoded picture. Two layouts are in use:

- Record 0 has two labels and no picture: (number of the first identity record, last + 1). Pictures are the records 1 to
  the first identity record - 1. An identity record has no picture and two labels, (its first picture, its last + 1).
- Every record is a picture, as MXNet's ``im2rec`` writes it.

The number of a record is its key in the ``.idx``; without an ``.idx``, its place in the file.

Labels are float32, which holds whole numbers up to 2^24 = 16,777,216 and only some of those above. For the numbers of
records in record 0 that is settled by looking which records hold a picture. For labels of pictures the identity records
settle it where their numbers are below 2^24; without them two people may share one label, and a warning says so.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.file_bytes import LargeFile, PlaceReaders, listing_bar
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.sources import recordio
from hrfr_fast.packing.sources.candidates import digest_of_text
from hrfr_fast.packing.sources.identity_source import NO_OPTIONS, IdentitySource, SourceOptions
from hrfr_fast.packing.sources.record_table import EXACT, GOOD, HEADER, LABEL, PROBLEMS, SHORT, RecordTable
from hrfr_fast.packing.sources.recordio import RecordPlaces
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few


class InsightFaceRecords(IdentitySource):
    """``train.rec`` with its ``train.idx``; ``path`` is either, or the folder that holds them."""

    format = "rec"
    title = "an InsightFace record file"

    def __init__(self, path: Path, options: SourceOptions = NO_OPTIONS) -> None:
        records, index = recordio.find_files(path)
        self.path, self.root = records, records.parent
        size = records.stat().st_size
        with listing_bar(records.name, size, options.show_progress) as advance, LargeFile(records, advance) as file:
            places = _places(file, index)
            table = RecordTable(file, places, index is not None)
            pictures = table.pictures()
            labels = _whole_labels(table, pictures)
            known = table.identity_ranges(pictures)
            ranges = known if labels.max() >= EXACT else None
            state = f"{records.name}\t{file.size}\t{file.modified}"
        self.warnings = [*places.warnings, *table.warnings]
        if ranges is not None:
            labels = np.searchsorted(ranges, table.keys[pictures], side="right") - 1
            self.warnings.append(
                f"{records.name}: labels above {EXACT:,} do not fit into its float32 labels; the {len(ranges):,}"
                " identity records number the people instead"
            )
        elif labels.max() >= EXACT:
            self.warnings.append(
                f"{records.name}: {int((labels >= EXACT).sum()):,} pictures have labels of {EXACT:,} or more, which"
                " float32 labels do not hold exactly: people whose labels are neighbours may have become one"
            )
        if known is not None and ranges is None:
            self.warnings += _contradictions(records.name, table.keys[pictures], labels, known)
        self._keep(table, pictures, labels)
        self._lines = [state]
        if index is not None:
            status = index.stat()
            self._lines.append(f"{index.name}\t{status.st_size}\t{status.st_mtime_ns}")
        self.fingerprint = digest_of_text("\n".join(self._lines))
        self.content = digest_of_text("\n".join(line.rsplit("\t", 1)[0] for line in self._lines))
        self.warnings += _property_warnings(records.parent, len(self.identities))
        others = sorted(one.name for one in path.glob("*.rec") if one != records) if path.is_dir() else []
        if others:
            self.warnings.append(f"{path}: only {records.name} of its record files is packed, not {few(others)}")

    def _keep(self, table: RecordTable, pictures: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """What reading a picture takes, in the order of the labels and, within one, of the records' numbers."""
        order = np.argsort(labels, kind="stable")
        chosen = pictures[order]
        names, numbers = np.unique(labels[order], return_inverse=True)
        self.identities = [str(name) for name in names.tolist()]
        self.labels = numbers.astype(np.int32)
        self.keys, self.starts = table.keys[chosen], table.starts[chosen]
        self.spans, self.problems = table.spans[chosen].astype(np.uint32), table.problems[chosen]
        self.bytes_on_disk = int(self.spans.sum(dtype=np.int64))

    @classmethod
    def recognises(cls, path: Path) -> bool:
        try:
            if path.is_dir():
                return any(path.glob("*.rec"))
            return path.suffix in (".rec", ".idx") and path.with_suffix(".rec").is_file()
        except OSError:
            return False

    def names(self, indices: Sequence[int]) -> list[str]:
        return [f"{self.path.name}[{key}]" for key in self.keys[np.asarray(indices, np.int64)].tolist()]

    def readers(self, indices: Sequence[int]) -> Sequence[Reader]:
        chosen = np.asarray(indices, np.int64)
        starts, spans = self.starts[chosen].tolist(), self.spans[chosen].tolist()
        damaged = {
            at: PROBLEMS[problem] for at, problem in enumerate(self.problems[chosen].tolist()) if problem != GOOD
        }
        return PlaceReaders([str(self.path)], [0] * len(starts), starts, spans, damaged, _picture)

    def listing_lines(self) -> Iterator[str]:
        return iter(self._lines)


def _places(file: LargeFile, index: Path | None) -> RecordPlaces:
    """Where the records are, by the ``.idx`` or else by a scan. Raises UsageError where ``file`` has no records."""
    head = file.at(0, 4)
    if head != recordio.MAGIC_BYTES:
        raise UsageError(
            f"{file.path}: not a RecordIO file: it begins with {head.hex(' ') or 'nothing'}, expected"
            f" {recordio.MAGIC_BYTES.hex(' ')}"
        )
    if index is not None:
        return recordio.read_index(index, Path(file.path), file.size)
    places = recordio.scan(file)
    name = Path(file.path).name
    missing = Path(file.path).with_suffix(".idx").name
    places.warnings.append(
        f"{name}: there is no {missing}; the file was searched for records, which are numbered in order"
    )
    return places


def _whole_labels(table: RecordTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels of the pictures ``rows``; one without a label takes that of the record before, and is rejected later."""
    labels = table.labels[rows].astype(np.float64)
    whole = np.isfinite(labels) & (labels >= 0) & (labels == np.floor(labels)) & (labels < 2**62)
    good = table.problems[rows] == GOOD
    table.problems[rows[good & ~whole]] = LABEL
    usable = good & whole
    if not usable.any():
        reason = PROBLEMS[int(table.problems[rows[0]])]
        raise UsageError(f"{table.file.path}: none of its pictures can be used; record {table.keys[rows[0]]}: {reason}")
    before = np.maximum.accumulate(np.where(usable, np.arange(len(rows)), -1))
    before[before < 0] = int(usable.argmax())
    return labels[before].astype(np.int64)


def _contradictions(
    name: str, keys: NDArray[np.int64], labels: NDArray[np.int64], ranges: NDArray[np.int64]
) -> list[str]:
    """A warning where pictures have other labels than the identity records say.

    Args:
        keys, labels: int64 [N] of the pictures, keys ascending.
        ranges: int64 [P], key of the first picture of each person, ascending.
    """
    person = np.searchsorted(ranges, keys, side="right") - 1
    first = labels[np.searchsorted(person, np.arange(len(ranges)))]
    wrong = np.flatnonzero(labels != first[person])
    if not len(wrong):
        return []
    return [
        f"{name}: {len(wrong):,} of {len(keys):,} pictures have another label than the first picture of the same"
        f" identity record, such as record {keys[wrong[0]]}: labels or records are out of step"
    ]


def _picture(path: str, start: int, span: int, descriptor: int | None = None) -> bytes:
    """The encoded picture of one record. Raises Rejected."""
    content = recordio.read_record(path, start, span, descriptor)
    if len(content) < HEADER.size:
        raise Rejected(PROBLEMS[SHORT])
    at = HEADER.size + 4 * HEADER.unpack_from(content)[0]
    if at >= len(content):
        raise Rejected("the record holds no picture")
    return content[at:]


def _property_warnings(folder: Path, identities: int) -> list[str]:
    """A warning where ``property``, ``classes,height,width``, speaks of another number of people."""
    try:
        with open(folder / "property", "rb") as file:
            classes = file.read(100).split(b",")[0].strip()
    except OSError:
        return []
    if not classes.isdigit() or int(classes) == identities:
        return []
    return [f"{folder / 'property'}: it says {int(classes):,} people, the records have {identities:,} different labels"]
