"""Pictures that a protocol's lists name: every one must be there, and no name may lead out of its folder."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.protocols.mat_files import identities_of, names_of, read_mat
from hrfr_fast.packing.sources.left_out import EXTENSIONS
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line


def names_and_identities(path: Path, names: str, identities: str) -> tuple[list[str], NDArray[np.int64]]:
    """The picture names and the identities, int64 [n], of a MATLAB file's variables ``names`` and ``identities``.

    Raises:
        UsageError: the file is no such list, or has more names than identities or fewer.
    """
    variables = read_mat(path)
    listed = [name for (name,) in names_of(variables, names, path)]
    numbers = identities_of(variables, identities, path)
    if len(listed) != len(numbers):
        raise UsageError(
            f"{path}: {len(listed):,} names in {names} and {len(numbers):,} numbers in {identities}; each picture"
            " needs one identity"
        )
    if not listed:
        raise UsageError(f"{path}: lists no pictures")
    return listed, numbers


def require_pictures(root: Path, folder: str, names: Sequence[str], listed_in: Path) -> list[str]:
    """Paths, relative to ``root``, of the pictures ``names`` in ``root``/``folder``.

    Raises:
        UsageError: a name leads out of the folder, a picture is not there, or is listed twice.
    """
    for name in names:
        if name.startswith("/") or ".." in name.replace("\\", "/").split("/") or "\0" in name:
            raise UsageError(f"{listed_in}: the name {one_line(name)!r} leads out of {folder}/; nothing was read")
    present = set(pictures_in(root / folder))
    elsewhere = {  # Path.is_file raises OSError for a name that is longer than any file's
        name for name in names if "/" in name and os.path.isfile(root / folder / name)
    }
    missing = [name for name in names if name not in present and name not in elsewhere]
    if missing:
        raise UsageError(
            f"{root / folder}: {len(missing):,} of {len(names):,} pictures that {listed_in.name} lists are missing:"
            f" {few([one_line(name) for name in missing])}; without them the numbers would be those of another test"
        )
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise UsageError(f"{listed_in}: lists {few([one_line(name) for name in twice])} more than once")
    return [f"{folder}/{name}" for name in names]


def pictures_in(folder: Path) -> list[str]:
    """The names of the picture files of a folder, sorted. Raises UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; the data set comes with it")
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(EXTENSIONS))


def unlisted_note(root: Path, folder: str, names: Sequence[str]) -> tuple[str, ...]:
    """A caveat where a folder holds pictures that no list names; empty where it holds none."""
    extra = len(pictures_in(root / folder)) - sum("/" not in name for name in names)
    return (f"{extra:,} pictures of {folder}/ are in no list and were left out",) if extra > 0 else ()
