"""The photographs of a folder, whatever its structure, and the name of each aligned face."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from hrfr_fast.packing.sources.left_out import PICTURE, kind_of
from hrfr_fast.runtime.errors import HrfrError, UsageError

EXTENSION = ".png"
MOST_LISTED = 1000
"""So often a folder is listed: two links in each of 30 folders lead a thousand million ways to the last."""


def list_photographs(folder: Path) -> list[str]:
    """Paths of all pictures below ``folder``, as ``pictures_below`` gives them.

    Raises:
        UsageError: no such folder, or no picture in it; links that lead to one folder again and again.
        HrfrError: a folder that cannot be listed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory of photographs")
    found = pictures_below(folder)
    if not found:
        raise UsageError(f"{folder}: there are no pictures in it, nor in the folders below")
    return found


def pictures_below(folder: Path, kinds: Collection[str] = (PICTURE,)) -> list[str]:
    """Paths of all files below ``folder`` that are of these ``kinds`` by their names (``kind_of``), relative to it and
    sorted; links are followed, hidden files and folders are not.

    Raises:
        UsageError: links that lead to one folder again and again.
        HrfrError: a folder that cannot be listed.
    """
    try:
        return sorted(_below(folder, "", frozenset(), Counter(), kinds))
    except OSError as error:
        raise HrfrError(f"{error.filename}: cannot be listed: {error.strerror}; mend or remove it") from error


def _below(
    folder: Path, shown: str, above: frozenset[str], times: Counter[str], kinds: Collection[str]
) -> Iterator[str]:
    """``above``: the folders that hold this one; ``times``: how often each folder was listed."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    times[real] += 1
    if times[real] > MOST_LISTED:
        raise UsageError(
            f"{folder}: over {MOST_LISTED:,} ways lead to this folder through links, which have no end; remove them"
        )
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    yield from _below(folder / entry.name, f"{shown}{entry.name}/", above | {real}, times, kinds)
            elif kind_of(entry.name) in kinds:
                yield shown + entry.name


def possible_names(path: str) -> tuple[str, str]:
    """The two paths that the face of the photograph ``path`` may have: without and with its extension."""
    return os.path.splitext(path)[0] + EXTENSION, path + EXTENSION


def face_names(photographs: list[str], keep: bool = False) -> list[str]:
    """The path of each aligned face: the photograph's with the extension ``.png``, or its very path with ``keep``.

    Where two photographs differ in their extension alone, it stays part of both names.
    """
    if keep:
        return photographs
    stems = Counter(os.path.splitext(path)[0] for path in photographs)
    names = [possible_names(path)[stems[os.path.splitext(path)[0]] > 1] for path in photographs]
    unique = len(set(names)) == len(names)  # "a.jpg", "a.bmp" and "a.jpg.bmp" are not, for example
    return names if unique else [path + EXTENSION for path in photographs]
