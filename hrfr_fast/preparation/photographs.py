"""The photographs of a folder, whatever its structure, and the name of each aligned face."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hrfr_fast.packing.sources.left_out import PICTURE, kind_of
from hrfr_fast.runtime.errors import HrfrError, UsageError

EXTENSION = ".png"


def list_photographs(folder: Path) -> list[str]:
    """Paths of all pictures below ``folder``, relative to it and sorted; links are followed, hidden folders are not.

    Raises:
        UsageError: no such folder, or no picture in it.
        HrfrError: a folder that cannot be listed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory of photographs")
    try:
        found = sorted(_below(folder, "", frozenset()))
    except OSError as error:
        raise HrfrError(f"{error.filename}: cannot be listed: {error.strerror}; mend or remove it") from error
    if not found:
        raise UsageError(f"{folder}: there are no pictures in it, nor in the folders below")
    return found


def _below(folder: Path, shown: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    yield from _below(folder / entry.name, f"{shown}{entry.name}/", above | {real})
            elif kind_of(entry.name) == PICTURE:
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
