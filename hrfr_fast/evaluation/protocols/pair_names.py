"""Pair lists as LFW's ``pairs.txt``: people by name and their pictures by number, one pair a line.

``name n m`` is a genuine pair, ``name1 n name2 m`` an impostor pair, with tabs or spaces between the fields. The first
line may give the number of folds and of pairs of each kind in a fold ("10 300"), or that of pairs alone ("500").
Picture ``n`` of a person lies in ``<name>/<name>_000n.<any picture suffix>``.
"""

import errno
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.protocols.form import PictureFiles, Pictures, VerificationPairs
from hrfr_fast.evaluation.published_folds import contiguous_folds
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MAX_BYTES = 16 << 20  # of a list: LFW's has 160 kB, and its pairs take 40 times its bytes of memory

Face = tuple[str, int]
"""A person's name and the number of a picture."""


@dataclass(frozen=True)
class PairList:
    """The pairs of one list. ``folds``: that it declares, 0 where it says nothing of folds."""

    path: Path
    pairs: list[tuple[Face, Face]]
    folds: int


def read_pair_list(path: Path) -> PairList:
    """The pairs that ``path`` lists. Raises UsageError naming the line that is not a pair, or a count that is wrong."""
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"{path}: {path.stat().st_size:,} bytes; a list of pairs has at most {MAX_BYTES:,}")
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    fields = ((number, line.split()) for number, line in enumerate(lines, 1) if line.strip())  # one after the other
    declared: list[int] = []
    pairs: list[tuple[Face, Face]] = []
    for number, values in itertools.islice(fields, 1):
        if len(values) <= 2:
            declared = [_whole(path, number, value) for value in values]
        else:
            pairs.append(_pair(path, number, values))
    pairs += [_pair(path, number, values) for number, values in fields]
    if not pairs:
        raise UsageError(f"{path}: there are no pairs in it")
    folds, each = (declared[0], declared[1]) if len(declared) == 2 else (1, declared[0] if declared else 0)
    if declared and len(pairs) != 2 * folds * each:
        raise UsageError(
            f"{path}: {len(pairs):,} pairs, its first line promises {2 * folds * each:,}: {folds} x {each} of each kind"
        )
    return PairList(path, pairs, folds if len(declared) == 2 else 0)


def _pair(path: Path, number: int, values: list[str]) -> tuple[Face, Face]:
    match values:
        case [name, first, second]:
            other = name
        case [name, first, other, second]:
            pass
        case _:
            raise UsageError(f"{path}, line {number}: {len(values)} fields; a pair is `name n m` or `name n name m`")
    for person in (name, other):
        if person in (".", "..") or "/" in person or "\0" in person:
            raise UsageError(f"{path}, line {number}: {one_line(person)!r} cannot be the name of a folder")
    return (name, _whole(path, number, first)), (other, _whole(path, number, second))


def _whole(path: Path, number: int, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{path}, line {number}: {one_line(text)!r} is no number of a picture or of pairs")
    return int(text)


def picture_folder(place: Path, pair_list: PairList, given: Path | None) -> Path:
    """The folder with the people's folders: ``given``, or else ``place`` or the one folder in it that has them.

    Raises:
        UsageError: no such folder, or several.
    """
    person = pair_list.pairs[0][0][0]
    if given is not None:
        if not (given / person).is_dir():
            raise UsageError(f"{given}: it has no folder {one_line(person)}, whose pictures {pair_list.path} names")
        return given
    inside = sorted(entry for entry in place.iterdir() if entry.is_dir())
    found = [folder for folder in (place, *inside) if (folder / person).is_dir()]
    if not found:
        raise UsageError(f"{place}: no folder {one_line(person)} in it, nor one level below; say with --pictures where")
    if len(found) > 1:
        names = few([one_line(str(folder)) for folder in found])
        raise UsageError(
            f"{place}: several folders hold the people of {pair_list.path.name}: {names}; choose with --pictures"
        )
    return found[0]


def find_faces(folder: Path, faces: Sequence[Face]) -> PictureFiles:
    """The file of each face below ``folder``. Raises UsageError with the number of those missing, and the first."""
    listings: dict[str, Mapping[str, str]] = {}
    paths, missing = [], []
    for name, number in faces:
        if name not in listings:
            listings[name] = dict(_pictures_in(folder / name))
        file = listings[name].get(f"{name}_{number:04d}")
        if file is None:
            missing.append(f"{name}/{name}_{number:04d}")
        else:
            paths.append(f"{name}/{file}")
    if missing:
        names = few([one_line(name) for name in missing])
        raise UsageError(
            f"{folder}: {len(missing):,} of {len(faces):,} pictures are missing: {names}; without them the numbers"
            " would be those of another test"
        )
    return PictureFiles(folder, paths)


def _pictures_in(folder: Path) -> Iterator[tuple[str, str]]:
    """(name without suffix, name) of the pictures in ``folder``, nothing where there is none."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # a list's line can be longer than any name
            return
        raise
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            yield stem, name


def test_faces(
    lists: Mapping[str, PairList], root: Path, subfolders: Mapping[str, str] | None = None
) -> tuple[Pictures, VerificationPairs]:
    """The pictures and pairs of one list, or of several groups of people.

    Args:
        lists: the list of each group by name; the name of a single one is not reported.
        root: the folder that pictures are read from.
        subfolders: the folder of each group in ``root``; None: its people's folders lie in ``root`` itself.
    """
    numbers: dict[tuple[str, Face], int] = {}
    ends, same, folds = [], [], []
    for group, pair_list in lists.items():
        for first, second in pair_list.pairs:
            ends += [numbers.setdefault((group, face), len(numbers)) for face in (first, second)]
            same.append(first[0] == second[0])
        folds.append(_folds(len(pair_list.pairs), pair_list.folds))
    paths: list[str] = []
    for group in lists:  # in the order of their numbers
        folder = subfolders[group] if subfolders else ""
        found = find_faces(root / folder, [face for owner, face in numbers if owner == group])
        paths += [f"{folder}/{path}" if folder else path for path in found.paths]
    people = dict.fromkeys((group, face[0]) for group, face in numbers)
    person = {owner: number for number, owner in enumerate(people)}
    subjects = np.array([person[group, face[0]] for group, face in numbers], np.int64)
    groups = np.repeat(np.arange(len(lists)), [len(pair_list.pairs) for pair_list in lists.values()])
    pairs = VerificationPairs(
        np.array(ends[0::2]), np.array(ends[1::2]), np.array(same), np.concatenate(folds), groups, tuple(lists)
    )
    if len(lists) == 1:
        pairs = replace(pairs, groups=None, group_names=())
    return Pictures(PictureFiles(root, paths), subjects), pairs


def _folds(count: int, declared: int) -> NDArray[np.int64]:
    """The fold of each pair in a list: those that it declares, else ten of equal length."""
    return np.arange(count) // (count // declared) if declared > 1 else contiguous_folds(count)
