"""Five landmarks of faces: which of several faces is taken, and lists of them as CSV files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import csv_line
from hrfr_fast.runtime.untrusted import lines_of

Landmarks = NDArray[np.float64]
"""[5, 2] x and y of left eye, right eye, nose, left and right corner of the mouth, as the viewer sees them, in px from
the centre of the first pixel of the upright picture."""
Choice = Literal["largest", "central"]
CHOICES: tuple[Choice, ...] = ("largest", "central")
HEADER = ("path", *(f"{axis}{n}" for n in range(1, 6) for axis in "xy"), "faces")
COLUMNS = 11
"""Of a line that counts; further ones are left alone."""
MOST = 1e6
"""Largest coordinate in px that is taken for one."""


def chosen_face(faces: Sequence[Landmarks], choice: Choice, width: int, height: int) -> Landmarks:
    """One of the ``faces`` in a photograph of ``width`` x ``height`` px, the first of equal ones.

    Args:
        choice: "largest": whose landmarks spread most; "central": whose landmarks' mean is nearest to the centre.
    """
    if choice == "largest":
        return max(faces, key=lambda face: float(face.var(axis=0).sum()))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    return min(faces, key=lambda face: float(np.square(face.mean(axis=0) - centre).sum()))


def read_landmarks(path: Path) -> dict[str, list[Landmarks]]:
    """The faces of each picture of a CSV file: ``path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5`` a line.

    A path is relative to the folder of photographs, with slashes; a picture with several lines has several faces. A
    header line is allowed.

    Raises:
        UsageError: the file cannot be read, or a line is not of that form; names the line.
    """
    faces: dict[str, list[Landmarks]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, row in enumerate(csv.reader(lines_of(file), strict=True), 1):
                if not row or (number == 1 and row[0].strip().lower() in ("path", "file", "name", "image")):
                    continue
                faces.setdefault(row[0].strip().removeprefix("./"), []).append(_landmarks_of(row, path, number))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: cannot be read as a list of landmarks: {reason}") from error
    return faces


def _landmarks_of(row: Sequence[str], path: Path, number: int) -> Landmarks:
    try:
        values = np.array([float(cell) for cell in row[1:COLUMNS]])
        if len(values) != COLUMNS - 1 or not (np.abs(values) <= MOST).all() or not row[0].strip():
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{path}: line {number}: expected a path and ten numbers, from x1,y1 of the left eye to x5,y5 of the right"
            " corner of the mouth, in px"
        ) from None
    return values.reshape(5, 2)


def landmark_line(path: str, landmarks: Landmarks, faces: int) -> str:
    """One line of a CSV file that :func:`read_landmarks` reads; ``faces``: how many the picture has."""
    return csv_line([path, *(f"{value:.3f}" for value in landmarks.ravel()), faces])


def landmark_table(faces: Mapping[str, tuple[Landmarks, int]]) -> bytes:
    """A whole CSV file, sorted by path: landmarks and number of faces by path."""
    lines = [",".join(HEADER) + "\n", *(landmark_line(path, *faces[path]) for path in sorted(faces))]
    return "".join(lines).encode("utf-8", "surrogateescape")
