"""FFCV's ``.beton`` files as a set of known people: written by FFCV's DatasetWriter, or by ``hrfr-fast pack``.

The picture is the field of type RGBImage, the label the one of type Int, whatever they are called. FFCV's files differ
from our own shards (``format/beton.py``) in the fields and their order, and in the allocation table, which is in the
order in which its workers finished.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format import beton
from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.file_bytes import read_range, reject
from hrfr_fast.packing.sources.candidates import digest_of_text
from hrfr_fast.packing.sources.identity_source import NO_OPTIONS, IdentitySource, SourceOptions
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.names import few, one_line

BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])
METADATA = {
    0: ("Float", np.dtype("<f8")),
    beton.TYPE_INT: ("Int", np.dtype("<i8")),
    beton.TYPE_RGB_IMAGE: ("RGBImage", beton.IMAGE),
    3: ("Bytes", BYTES),
    4: ("NDArray", np.dtype("<u8")),
    5: ("JSON", BYTES),
    6: ("TorchTensor", np.dtype("<u8")),
}
"""Type id -> name of the type and what a row of the metadata holds of it (``ffcv/types.py``, ``ffcv/fields``)."""
MOST_FIELDS = 256

GOOD, MODE, EMPTY, NOWHERE, LENGTH, OUTSIDE = range(6)
PROBLEMS = {
    MODE: "it is stored neither as JPEG nor as raw pixels",
    EMPTY: "it has no pixels",
    NOWHERE: "the allocation table does not have it",
    LENGTH: "its raw pixels take another number of bytes than its width and height say",
    OUTSIDE: "it lies outside the pages of the file",
}


class BetonFile(IdentitySource):
    """One ``.beton`` file."""

    format = "beton"
    title = "an FFCV file"

    def __init__(self, path: Path, options: SourceOptions = NO_OPTIONS) -> None:
        self.path, self.root = path, path.parent
        try:
            layout = _read_layout(path)
            rows = np.fromfile(path, layout.row, layout.samples, offset=layout.start)
            table = np.fromfile(path, beton.ALLOCATION, offset=layout.table)
            status = path.stat()
        except OSError as error:
            raise HrfrError(f"{path}: cannot be read: {error.strerror}") from error
        if not len(rows):
            raise UsageError(f"{path}: it holds no pictures")
        names, numbers = np.unique(rows[layout.label], return_inverse=True)
        self._order = np.argsort(numbers, kind="stable")
        self.identities = [str(name) for name in names.tolist()]
        self.labels = numbers[self._order].astype(np.int32)
        self._pictures = rows[layout.image]
        self._sizes, self._problems = _sizes(self._pictures, table, layout)
        self.bytes_on_disk = int(self._sizes.sum())
        self._line = f"{one_line(path.name)}\t{status.st_size}\t{status.st_mtime_ns}"
        self.fingerprint = digest_of_text(self._line)
        self.content = digest_of_text(self._line.rsplit("\t", 1)[0])
        others = [f"{name} ({METADATA[kind][0]})" for name, kind in layout.others]
        self.warnings = [f"{path}: fields that are not used: {few(others)}"] if others else []

    @classmethod
    def recognises(cls, path: Path) -> bool:
        try:
            return path.suffix == ".beton" and path.is_file()
        except OSError:
            return False

    def names(self, indices: Sequence[int]) -> list[str]:
        return [f"{self.path.name}[{row}]" for row in self._order[np.asarray(indices, np.int64)].tolist()]

    def readers(self, indices: Sequence[int]) -> Sequence[Reader]:
        return [self._reader(row) for row in self._order[np.asarray(indices, np.int64)].tolist()]

    def listing_lines(self) -> Iterator[str]:
        return iter([self._line])

    def _reader(self, row: int) -> Reader:
        if problem := int(self._problems[row]):
            return partial(reject, PROBLEMS[problem])
        mode, width, height, start = self._pictures[row].tolist()
        if mode == beton.RAW:
            return partial(_pixels, str(self.path), start, height, width)
        return partial(read_range, str(self.path), start, int(self._sizes[row]))


@dataclass(frozen=True)
class _Layout:
    """Where the rows of the metadata and the allocation table are, and which of its columns count."""

    samples: int
    start: int
    row: np.dtype[Any]
    table: int
    pages: int  # first byte of the pages
    image: str
    label: str
    others: list[tuple[str, int]]


def _read_layout(path: Path) -> _Layout:
    """The layout of a file, checked against its size. Raises UsageError saying what does not fit; OSError."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(beton.HEADER.itemsize)
        if len(head) < beton.HEADER.itemsize:
            raise UsageError(f"{path}: {size} bytes are too few for a .beton file")
        version, fields, page_size, samples, table = np.frombuffer(head, beton.HEADER)[0].tolist()
        if version != beton.VERSION or not 1 <= fields <= MOST_FIELDS or not page_size or page_size & (page_size - 1):
            raise UsageError(f"{path}: not a .beton file of version {beton.VERSION}, or it was not written to its end")
        described = file.read(fields * beton.FIELD.itemsize)
    if len(described) < fields * beton.FIELD.itemsize:
        raise UsageError(f"{path}: the file ends within its header")
    columns = [
        (bytes(field["name"]).rstrip(b"\0").decode("ascii", "replace"), int(field["type_id"]))
        for field in np.frombuffer(described, beton.FIELD)
    ]
    unknown = [f"{name} (type {kind})" for name, kind in columns if kind not in METADATA]
    if unknown:
        raise UsageError(
            f"{path}: fields of a type that FFCV does not define: {one_line(few(unknown))}; write it without"
        )
    row = np.dtype([(f"f{n}", METADATA[kind][1]) for n, (_, kind) in enumerate(columns)], align=True)
    start = beton.HEADER.itemsize + len(described)
    pages = -(-(start + samples * row.itemsize) // page_size) * page_size
    allocations, rest = divmod(size - table, beton.ALLOCATION.itemsize)
    if not start + samples * row.itemsize <= table <= size or rest or not samples <= allocations <= samples * fields:
        raise UsageError(
            f"{path}: {samples:,} samples and an allocation table at byte {table:,} do not fit a file of {size:,}"
            " bytes; it is cut off, or was not written to its end"
        )
    image, label = (
        _column(path, columns, *wanted) for wanted in ((beton.TYPE_RGB_IMAGE, "image"), (beton.TYPE_INT, "label"))
    )
    others = [column for n, column in enumerate(columns) if n not in (image, label)]
    return _Layout(samples, start, row, table, pages, f"f{image}", f"f{label}", others)


def _column(path: Path, columns: list[tuple[str, int]], kind: int, usual: str) -> int:
    """The number of the only field of type ``kind``, or of the one that is called ``usual``. Raises UsageError."""
    found = [n for n, column in enumerate(columns) if column[1] == kind]
    if len(found) > 1:
        found = [n for n in found if columns[n][0] == usual] or found
    if len(found) != 1:
        shown = few([f"{name} ({METADATA[kind][0]})" for name, kind in columns])
        name = METADATA[kind][0]
        raise UsageError(
            f"{path}: expected one field of type {name}, or one of them called {usual}; it has {one_line(shown)}"
        )
    return found[0]


def _sizes(
    pictures: NDArray[np.void], table: NDArray[np.void], layout: _Layout
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Bytes of each picture by the allocation table, int64 [N], and why it cannot be read, uint8 [N]."""
    places = np.sort(table, order="ptr")
    at = np.searchsorted(places["ptr"], pictures["data_ptr"])
    at = np.minimum(at, max(0, len(places) - 1))
    known = places["ptr"][at] == pictures["data_ptr"] if len(places) else np.zeros(len(pictures), bool)
    sizes = np.where(known, places["size"][at] if len(places) else 0, 0)
    pixels = pictures["width"].astype(np.uint64) * pictures["height"].astype(np.uint64) * 3
    raw, begin, end = pictures["mode"] == beton.RAW, np.uint64(layout.pages), np.uint64(layout.table)
    starts = pictures["data_ptr"]
    inside = (starts >= begin) & (starts < end) & (sizes <= end - np.minimum(starts, end))
    problems = {
        MODE: ~raw & (pictures["mode"] != beton.JPEG),
        EMPTY: pixels == 0,
        NOWHERE: ~known,
        LENGTH: raw & (sizes != pixels),
        OUTSIDE: ~inside | (sizes == 0),
    }
    found = np.select(list(problems.values()), list(problems), GOOD).astype(np.uint8)
    return np.where(found == GOOD, sizes, 0).astype(np.int64), found


def _pixels(path: str, start: int, height: int, width: int) -> NDArray[np.uint8]:
    """Raw pixels, uint8 RGB [height, width, 3]. Raises Rejected."""
    return np.frombuffer(read_range(path, start, 3 * height * width), np.uint8).reshape(height, width, 3)
