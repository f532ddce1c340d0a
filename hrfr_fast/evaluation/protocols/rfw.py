"""Racial Faces in the Wild (Wang et al., ICCV 2019): LFW's kind of pairs for each of four groups of people.

``txts/<group>/<group>_pairs.txt`` and ``data/<group>/<id>/<id>_0001.jpg``; the lists have no first line with counts.
"""

from collections.abc import Sequence
from pathlib import Path

from hrfr_fast.evaluation.protocols.form import TestSet
from hrfr_fast.evaluation.protocols.pair_names import read_pair_list, test_faces
from hrfr_fast.runtime.errors import UsageError

NAME = "rfw"
TITLE = "Racial Faces in the Wild: verification in each group of people, and the spread between groups"
LAYOUT = "a folder with txts/<group>/<group>_pairs.txt and data/<group>/<id>/<id>_0001.jpg (data/ may be --pictures)"


def recognises(place: Path) -> bool:
    """Whether ``place`` is a folder with lists of pairs of at least one group."""
    return bool(_lists(place))


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """The one test set, of all groups. Raises UsageError for a list that is wrong or pictures that are missing."""
    root = pictures or place / "data"
    lists = {name: read_pair_list(path) for name, path in _lists(place).items()}
    for folder in (root / name for name in lists):
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder of pictures; say with --pictures where the groups' folders are")
    faces, pairs = test_faces(lists, root, {name: name for name in lists})
    return [TestSet(NAME, place, faces, (pairs,))]


def _lists(place: Path) -> dict[str, Path]:
    """The list of each group by its name."""
    groups = sorted(folder.name for folder in (place / "txts").glob("*") if folder.is_dir())
    paths = {group: place / "txts" / group / f"{group}_pairs.txt" for group in groups}
    return {group: path for group, path in paths.items() if path.is_file()}
