"""Labeled Faces in the Wild (Huang et al., 2007): ``pairs.txt`` and ``<name>/<name>_0001.jpg``.

Any set in that layout will do: the original pictures, funneled ones, or faces aligned to a template.
"""

from collections.abc import Sequence
from pathlib import Path

from hrfr_fast.evaluation.protocols.form import TestSet
from hrfr_fast.evaluation.protocols.pair_names import picture_folder, read_pair_list, test_faces

NAME = "lfw"
TITLE = "Labeled Faces in the Wild: verification, ten folds of 300 + 300 pairs"
LAYOUT = "a folder with pairs.txt, and <name>/<name>_0001.jpg in it, in a folder beside it, or in --pictures"
LISTS = ("pairs.txt", "lfw_pairs.txt")


def recognises(place: Path) -> bool:
    """Whether ``place`` is a folder with a list of pairs in it."""
    return any((place / name).is_file() for name in LISTS)


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """The one test set. Raises UsageError for a list that is wrong or pictures that are missing."""
    return [test_set(NAME, place, LISTS, pictures)]


def test_set(name: str, place: Path, lists: Sequence[str], pictures: Path | None) -> TestSet:
    """The test set ``name`` of the first of ``lists`` that is in ``place``."""
    pair_list = read_pair_list(next(place / file for file in lists if (place / file).is_file()))
    folder = picture_folder(place, pair_list, pictures)
    faces, pairs = test_faces({name: pair_list}, folder)
    return TestSet(name, place, faces, (pairs,))
