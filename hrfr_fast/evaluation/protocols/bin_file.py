"""The ``.bin`` files of InsightFace: lfw.bin, cfp_fp.bin, agedb_30.bin, calfw.bin, cplfw.bin and others made like them.

A pickle of two lists: 2N encoded pictures, of which 2i and 2i + 1 are a pair, and N booleans. It names no identities.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.protocols.form import Pictures, PicturesInMemory, TestSet, VerificationPairs
from hrfr_fast.evaluation.protocols.pickled_values import PickledArray
from hrfr_fast.evaluation.protocols.restricted_pickle import load
from hrfr_fast.evaluation.published_folds import contiguous_folds
from hrfr_fast.runtime.errors import UsageError

NAME = "bin"
TITLE = "InsightFace's .bin files (lfw, cfp_fp, agedb_30, calfw, cplfw): verification, ten folds"
LAYOUT = "a .bin file, or a folder with some: pickles of 2N encoded pictures and N booleans"


def recognises(place: Path) -> bool:
    """Whether ``place`` is a .bin file or a folder that holds some."""
    return bool(_files(place))


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """One test set a file, in the order of their names.

    Raises:
        UsageError: a file holds anything but pictures and labels, or not two pictures a label.
    """
    if pictures is not None:
        raise UsageError("--pictures is for lists of names; a .bin file holds its pictures")
    return [_test_set(path) for path in _files(place)]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix == ".bin" else []
    return sorted(path for path in place.glob("*.bin") if path.is_file())


def _test_set(path: Path) -> TestSet:
    match load(path):
        case [list() | tuple() as encoded, list() | tuple() | PickledArray() as labels]:  # a tuple or a list of the two
            same = _booleans(path, labels)
        case _:
            raise UsageError(f"{path}: it does not hold two lists, of encoded pictures and of booleans")
    if len(encoded) != 2 * len(same) or not len(same):
        raise UsageError(f"{path}: {len(encoded):,} pictures for {len(same):,} labels; a pair takes two pictures")
    numbers: list[int] = []
    known: dict[bytes, int] = {}  # a picture of several pairs is there several times and embedded once
    positions: list[int] = []
    for position, value in enumerate(encoded):
        data = _bytes_of(path, position, value)
        if data not in known:
            known[data] = len(known)
            positions.append(position)
        numbers.append(known[data])
    source = PicturesInMemory(str(path), list(known), positions)
    ends = np.array(numbers, np.int64)
    pairs = VerificationPairs(ends[0::2], ends[1::2], same, contiguous_folds(len(same)))
    return TestSet(path.stem, path, Pictures(source), (pairs,))


def _booleans(path: Path, labels: Any) -> NDArray[np.bool_]:
    values = labels.numpy().tolist() if isinstance(labels, PickledArray) else labels
    for number, value in enumerate(values):
        if not isinstance(value, int) or value not in (0, 1):
            raise UsageError(f"{path}: label {number} is no boolean but {type(value).__name__}")
    return np.array(values, bool)


def _bytes_of(path: Path, number: int, value: Any) -> bytes:
    """The encoded picture ``value``: bytes, or an array of them."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, PickledArray) and value.kind == "u1" and len(value.shape) == 1:
        return value.data
    shape = f" of shape {value.shape}" if isinstance(value, PickledArray) else ""
    raise UsageError(f"{path}: picture {number} is no encoded picture but {type(value).__name__}{shape}")
