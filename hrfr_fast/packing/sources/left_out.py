"""Files in a data tree that are not packed, counted by kind with an example each: nothing is dropped silently."""

import itertools
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from hrfr_fast.format.alignment_record import LANDMARKS, REJECTED
from hrfr_fast.format.alignment_record import NAME as ALIGNMENT
from hrfr_fast.format.manifest import NAME
from hrfr_fast.format.names import FACES, PAIR_FOLDER, SPLITS
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.words import counted

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
OTHER_PICTURES = (".jpe", ".jfif", ".tif", ".tiff", ".gif", ".heic", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".pnm")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".rec", ".lmdb", ".parquet")
LOOKED_AT = 100  # folders in which a picture is looked for, to recognise a folder of identities
COUNTED = 10_000  # pictures in a folder that is no split are counted up to this many

PICTURE, DEEPER, LOOSE, FORMAT, HIDDEN = "picture", "deeper", "loose", "format", "hidden"
OTHER, NOTHING = "other", "nothing"  # NOTHING: .DS_Store and its like, which no warning mentions
MEANT = (DEEPER, LOOSE, FORMAT)  # pictures that the user very likely wants to be packed


@dataclass
class LeftOut:
    """Files of one split that are not packed. Paths are relative to the data tree."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)  # kind -> the first path met
    folders: set[str] = field(default_factory=set)  # that hold the pictures of kind DEEPER

    def add(self, kind: str, path: str) -> None:
        """Count one file; nothing happens for the kind NOTHING."""
        if kind == NOTHING:
            return
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first[kind] = min(path, self.first.get(kind, path))

    @property
    def pictures(self) -> int:
        """How many of the files are pictures."""
        return sum(self.counts.get(kind, 0) for kind in MEANT)

    def add_below(self, folder: Path, shown: str) -> None:
        """Count everything in ``folder``, called ``shown`` in messages, which lies where no folder is expected.

        Raises OSError where it cannot be listed.
        """
        for place, _, names in os.walk(folder, onerror=_raise):
            below = os.path.normpath(os.path.join(shown, os.path.relpath(place, folder)))
            hidden = any(part.startswith(".") for part in below.split(os.sep))
            for name in names:
                kind = kind_of(name)
                if kind == PICTURE:
                    kind = HIDDEN if hidden else DEEPER
                if kind == DEEPER:
                    self.folders.add(below)
                self.add(kind, f"{below}/{name}")

    def lines(self, split: str) -> list[str]:
        """What is left out and why, one sentence a kind, without its full stop."""
        reasons = {
            DEEPER: f"lie in {len(self.folders):,} folders deeper than {split}/<identity>/<picture>",
            LOOSE: f"lie outside the identities' folders, {split}/<identity>/",
            FORMAT: f"have a format that is not read ({' '.join(EXTENSIONS)} are)",
            HIDDEN: "are hidden (their names, or their folders', begin with a dot)",
            OTHER: "are not pictures by their names",
        }
        return [
            f"{self.counts[kind]:,} {'pictures' if kind in (*MEANT, HIDDEN) else 'files'} {text}, such as"
            f" {one_line(self.first[kind])}"
            for kind, text in reasons.items()
            if kind in self.counts
        ]


def kind_of(name: str) -> str:
    """PICTURE for a name that is packed in its right place, else why a file of this name is left out."""
    if name.endswith(EXTENSIONS) or (lower := name.lower()).endswith(EXTENSIONS):
        return HIDDEN if name.startswith(".") else PICTURE
    if name.startswith(".") or name in (ALIGNMENT, REJECTED, LANDMARKS):
        return NOTHING
    return FORMAT if lower.endswith(OTHER_PICTURES) else OTHER


def _raise(error: OSError) -> None:
    raise error


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder. Raises HrfrError where that cannot be seen, as for a link that leads nowhere."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return False
        raise HrfrError(f"{path}: cannot be looked at: {error.strerror}; mend or remove it") from error


def holds_identities(path: Path) -> bool:
    """Whether ``path`` looks like a folder of identities: one of its first subfolders holds a picture. Never raises."""
    try:
        with os.scandir(path) as entries:
            folders = (entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
            return any(map(_holds_picture, itertools.islice(folders, LOOKED_AT)))
    except OSError:
        return False


def _holds_picture(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(kind_of(entry.name) == PICTURE for entry in entries)


def is_data_tree(path: Path) -> bool:
    """Whether ``path`` looks like the study's data tree: it has a split's folder. Never raises."""
    named = any(os.path.lexists(path / name) for name in SPLITS if name != FACES)
    return named or holds_identities(path / FACES)


def split_folders(data: Path) -> list[str]:
    """Names of the splits in the tree ``data``.

    Raises:
        UsageError: there is none, or a folder's name is a split's misspelt.
        HrfrError: it cannot be seen whether there is one.
    """
    if not is_folder(data):
        raise UsageError(f"{data}: no such directory")
    present = [name for name in (*SPLITS, PAIR_FOLDER) if is_folder(data / name)]
    folders = subfolders(data)
    for name in folders:
        meant = next((known for known in (*SPLITS, PAIR_FOLDER) if _letters(known) == _letters(name)), None)
        if meant not in (None, FACES, name, *present):
            raise UsageError(f"{data / name}: did you mean {meant}? The folder has to be called so; rename it")
    splits = [name for name in present if name in SPLITS]
    if splits == [FACES] and not holds_identities(data / FACES):
        splits = []  # a folder that only happens to be called so
    if not splits:
        raise UsageError(f"{data}: expected at least one of the folders {', '.join(SPLITS)}{_elsewhere(data, folders)}")
    return splits


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def subfolders(data: Path) -> list[str]:
    """Sorted names of the visible folders in ``data``. Raises HrfrError where it cannot be listed."""
    try:
        with os.scandir(data) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise HrfrError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error


def _elsewhere(data: Path, folders: list[str]) -> str:
    """Where the pictures may lie instead, as the rest of a sentence; "" where nothing was found."""
    if (data / NAME).exists():
        return "; this is a packed directory already, and `pack` takes the tree of pictures"
    nested = next((name for name in folders if is_data_tree(data / name)), None)
    if nested is not None:
        return f"; they are in {data / nested}: give that"
    count, first = _count(data)
    if not count:
        return ""
    return (
        f"; it holds {_pictures(count)} elsewhere, such as {one_line(first)} (expected:"
        f" {data}/{SPLITS[0]}/<identity>/<picture>)"
    )


def outside_splits(data: Path, out: Path, of_pairs: Collection[str] = ()) -> list[str]:
    """Warnings about pictures and archives of the tree that lie in no split.

    Args:
        out: the output directory, which may lie in the tree, too.
        of_pairs: names of folders that lists of pairs take their pictures from.
    """
    warnings = []
    known = {*SPLITS, PAIR_FOLDER, *of_pairs}
    for name in subfolders(data):
        folder = data / name
        if name in known or folder.resolve() == out.resolve() or (folder / NAME).exists():
            continue
        count, first = _count(folder)
        if count:
            warnings.append(
                f"{folder}: {_pictures(count)} in no split, such as {one_line(first)}; only what a pair list names is"
                " packed"
            )
    with os.scandir(data) as entries:
        files = sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    loose = [name for name in files if kind_of(name) in (PICTURE, FORMAT)]
    if loose:
        warnings.append(
            f"{data}: {_pictures(len(loose))} in no split, such as {one_line(loose[0])}; only what a pair list names is"
            " packed"
        )
    archives = [name for name in files if name.lower().endswith(ARCHIVES)]
    if archives:
        warnings.append(
            f"{data}: {len(archives):,} archives, such as {one_line(archives[0])}, are not opened; unpack them"
        )
    return warnings


def _count(folder: Path) -> tuple[int, str]:
    """How many pictures lie anywhere below ``folder``, counted up to :data:`COUNTED`, and the first one's path."""
    count, first = 0, ""
    for place, folders, names in os.walk(folder):  # for a warning alone: what cannot be listed does not matter
        folders.sort()
        found = sorted(name for name in names if kind_of(name) in (PICTURE, FORMAT))
        first = first or (os.path.join(place, found[0]) if found else "")
        count += len(found)
        if count >= COUNTED:
            break
    return count, first


def _pictures(count: int) -> str:
    return counted(count, "picture") if count < COUNTED else f"more than {COUNTED:,} pictures"
