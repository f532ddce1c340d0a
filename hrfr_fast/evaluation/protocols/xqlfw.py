"""Cross-Quality LFW (Knoche et al., 2021): LFW's layout with pairs of faces of different quality."""

from collections.abc import Sequence
from pathlib import Path

from hrfr_fast.evaluation.protocols import lfw
from hrfr_fast.evaluation.protocols.form import TestSet

NAME = "xqlfw"
TITLE = "Cross-Quality LFW: verification of faces of different quality, ten folds of 300 + 300 pairs"
LAYOUT = "a folder with xqlfw_pairs.txt, and <name>/<name>_0001.jpg in a folder beside it, or in --pictures"
LISTS = ("xqlfw_pairs.txt",)


def recognises(place: Path) -> bool:
    """Whether ``place`` is a folder with the list of pairs in it."""
    return (place / LISTS[0]).is_file()


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """The one test set. Raises UsageError for a list that is wrong or pictures that are missing."""
    return [lfw.test_set(NAME, place, LISTS, pictures)]
