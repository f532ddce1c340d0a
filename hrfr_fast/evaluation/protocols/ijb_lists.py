"""The lists of IJB-B and IJB-C as text: faces with template, medium, landmarks and score, template pairs, galleries."""

import csv
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line

LARGEST_LIST = 1 << 28  # bytes of a list that is read whole: IJB-C's landmarks take 45 MB
BLOCK = 1 << 24  # bytes of a pair list parsed at a time


@dataclass(frozen=True)
class Faces:
    """N loose crops, a face each, in the order of the lists.

    Attributes:
        names: of the files.
        templates: int64 [N], the numbers that the data set gives.
        media: int64 [N].
        landmarks: float32 [N, 5, 2], x and y in px of both eyes, nose and both corners of the mouth.
        scores: float64 [N] of the face detector.
    """

    names: list[str]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float64]


def read_faces(template_list: Path, landmark_list: Path) -> Faces:
    """The faces of ``*_face_tid_mid.txt`` and, line by line the same, of ``*_name_5pts_score.txt``.

    Raises:
        UsageError: a file is missing, a line is not what belongs there, or the two do not fit together.
    """
    names: list[str] = []
    members: list[tuple[int, int]] = []
    for number, fields in _lines(template_list):
        try:
            name, template, medium = fields
            members.append((_whole(template), _whole(medium)))
        except ValueError:
            raise _bad(template_list, number, "name, template and medium") from None
        names.append(name)
    measured = np.empty((len(names), 11))
    read = 0
    for number, fields in _lines(landmark_list):
        if read < len(names) and fields[0] != names[read]:
            raise UsageError(
                f"{landmark_list}:{number}: {one_line(fields[0])!r} where {template_list.name} has"
                f" {one_line(names[read])!r}; both list the same pictures in the same order"
            )
        try:
            values = np.array(fields[1:], np.float64)
        except ValueError:
            raise _bad(landmark_list, number, "a name and 11 numbers") from None
        if len(values) != 11 or not np.isfinite(values).all():
            raise _bad(landmark_list, number, "a name, five points and a score")
        if read < len(names):
            measured[read] = values
        read += 1
    if read != len(names) or not names:
        raise UsageError(f"{landmark_list}: {read:,} pictures, {len(names):,} in {template_list.name}")
    templates, media = np.array(members, np.int64).T
    return Faces(names, templates, media, measured[:, :10].reshape(-1, 5, 2).astype(np.float32), measured[:, 10])


def read_template_pairs(
    path: Path, templates: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Pairs of ``*_template_pair_label.txt``: places of both in ``templates``, int32 [P], and whether they match.

    Args:
        templates: int64 [T], rising.

    Raises:
        UsageError: the file is missing, a line is not two templates and 0 or 1, or names an unknown template.
    """
    parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]] = []
    line = 0
    for block in _blocks(path):
        values = _integers(block)
        if values is None or not np.isin(values[:, 2], (0, 1)).all():
            raise _bad(path, line + _first_bad_line(block), "two templates and 0 or 1")
        places = np.searchsorted(templates, values[:, :2])
        known = templates[np.minimum(places, len(templates) - 1)] == values[:, :2]
        if not known.all():
            row = int(np.flatnonzero(~known.all(axis=1))[0])
            raise UsageError(f"{path}:{line + row + 1}: a template that no picture belongs to")
        parts.append((places[:, 0].astype(np.int32), places[:, 1].astype(np.int32), values[:, 2] == 1))
        line += len(values)
    if not parts:
        raise UsageError(f"{path}: lists no pairs")
    first, second, same = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, same


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in blocks of whole lines."""
    _require(path, largest=None)
    with path.open("rb") as file:
        rest = b""
        while data := file.read(BLOCK):
            rest += data
            end = rest.rfind(b"\n") + 1
            if end:
                yield rest[:end]
            elif len(rest) > BLOCK:
                raise UsageError(f"{path}: not a list of template pairs: a line of over {BLOCK >> 20} MB")
            rest = rest[end:]
        if rest.strip():
            yield rest


def _integers(block: bytes) -> NDArray[np.int64] | None:
    """The integers of lines of three each, int64 [n, 3]; None where a line has something else."""
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = np.fromstring(block.decode("ascii"), np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None
    return values.reshape(-1, 3) if len(values) == 3 * lines else None


def _first_bad_line(block: bytes) -> int:
    """The number, from 1, of the first line that is not two integers and 0 or 1."""
    for number, line in enumerate(block.splitlines(), 1):
        fields = line.split()
        if len(fields) != 3 or not all(field.isdigit() for field in fields) or fields[2] not in (b"0", b"1"):
            return number
    return 1


def read_subjects(path: Path) -> dict[int, int]:
    """Template -> subject, of a ``*_1N_*.csv``: a header line, then template and subject in the first two columns.

    Raises:
        UsageError: a line is not so, or a template has two subjects.
    """
    _require(path)
    subjects: dict[int, int] = {}
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        try:
            next(rows, None)
            for fields in filter(None, rows):
                template, subject = _whole(fields[0]), _whole(fields[1])
                if subjects.setdefault(template, subject) != subject:
                    raise UsageError(f"{path}:{rows.line_num}: template {template} has two subjects")
        except (ValueError, IndexError, csv.Error):
            raise _bad(path, rows.line_num, "a template and a subject in the first columns") from None
    if not subjects:
        raise UsageError(f"{path}: lists no templates")
    return subjects


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number, from 1, and fields of each line that is not empty."""
    _require(path)
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if fields := line.split():
                yield number, fields


def _whole(text: str) -> int:
    """A whole number of a list. Raises ValueError, for one that 64 bits do not hold or is negative, too."""
    if not (text.isascii() and text.strip().isdigit() and len(text) < 19):
        raise ValueError(text[:19])
    return int(text)


def _require(path: Path, largest: int | None = LARGEST_LIST) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; the data set comes with it")
    if largest is not None and path.stat().st_size > largest:
        raise UsageError(f"{path}: {path.stat().st_size:,} bytes; the data set's own list is far smaller")


def _bad(path: Path, line: int, expected: str) -> UsageError:
    return UsageError(f"{path}:{line}: not {expected}, separated as the data set has them")
