"""What a path is that is to be packed: the study's data tree, pair sets alone, or a set of known people."""

import csv
from dataclasses import dataclass
from pathlib import Path

from hrfr_fast.format.alignment_record import refuse_unfinished
from hrfr_fast.format.manifest import NAME
from hrfr_fast.format.names import FACES, PAIR_FOLDER, SPLITS
from hrfr_fast.packing.sources.formats import FORMATS, names_something, open_source, what_is_there
from hrfr_fast.packing.sources.identity_folders import FolderSource
from hrfr_fast.packing.sources.identity_source import IdentitySource, SourceOptions
from hrfr_fast.packing.sources.insightface_rec import InsightFaceRecords
from hrfr_fast.packing.sources.left_out import is_data_tree, split_folders, subfolders
from hrfr_fast.packing.sources.list_files import ListSource
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.untrusted import lines_of
from hrfr_fast.synthetic.directory import refuse_interrupted

TREE, PAIRS = "tree", "pairs"
TITLES = {
    TREE: "the study's data tree",
    PAIRS: "a folder of pair sets",
    **{kind.format: kind.title for kind in FORMATS},
}
"""Value of ``--format`` -> the format in words, in the order in which they are tried."""
LINES = 3  # of a CSV file in which a pair is looked for


@dataclass(frozen=True)
class PackInput:
    """What is to be packed, and what it was taken for."""

    path: Path
    format: str
    options: SourceOptions
    asked: bool
    """Whether the user named the format."""
    others: tuple[str, ...] = ()
    """The other formats that are there, too, and are not read."""

    def __str__(self) -> str:
        goes_to = "" if self.format in (TREE, PAIRS) else f"; it becomes the split {FACES}"
        how = "read as" if self.asked else "taken for"
        others = ", ".join(f"{TITLES[format]} (--format {format})" for format in self.others)
        left_out = f"; left out is what looks like {others}" if others else ""
        return f"{self.path} is {how} {TITLES[self.format]} (--format {self.format}){goes_to}{left_out}"

    def open(self) -> IdentitySource:
        """The set of known people. Raises UsageError and HrfrError where it is broken."""
        return open_source(self.path, self.format, self.options)


def recognise(path: Path, format: str = "", options: SourceOptions | None = None) -> PackInput:
    """What ``path`` is; ``format``: what the user says that it is, "" for what it looks like.

    Raises:
        UsageError: there is no such path or format, nothing that can be packed, or an option of another format; or
            ``derive``, ``align`` or ``synth`` was interrupted there.
    """
    options = options or SourceOptions()
    if format and format not in TITLES:
        raise UsageError(f"--format {format}: no format is called so; there are {', '.join(TITLES)}")
    if not names_something(path):
        raise UsageError(f"{path}: no such file or directory")
    for folder in (path, options.root or path):
        refuse_unfinished(folder)
        refuse_interrupted(folder)
    found = format or _format_of(path)
    if options.root is not None and found != ListSource.format:
        raise UsageError(f"--root {options.root}: it is for list files; {path} is taken for {TITLES[found]}")
    if format == TREE and not path.is_dir():
        raise UsageError(f"{path}: not {TITLES[TREE]}, but {what_is_there(path)}")
    others = () if format or found == TREE else (kind.format for kind in FORMATS if kind.recognises(path))
    return PackInput(path, found, options, bool(format), tuple(other for other in others if other != found))


def _format_of(path: Path) -> str:
    if (path / NAME).exists():
        raise UsageError(f"{path}: this is a packed directory already; give what it was packed from")
    if is_data_tree(path):
        return TREE
    parent, name = path.resolve().parent, path.resolve().name
    if name in SPLITS and name != FACES and is_data_tree(parent):  # faces would become the same split anyway
        raise UsageError(
            f"{path}: it is a split itself: give the folder that holds it, {parent}, or --format"
            f" {FolderSource.format} to pack it alone as the split {FACES}"
        )
    if InsightFaceRecords.recognises(path):
        return InsightFaceRecords.format  # Test sets unpacked into carrays often lie beside the training set.
    if _holds_pairs(path) or _holds_pairs(path / PAIR_FOLDER):
        return PAIRS
    for kind in FORMATS:
        if kind.recognises(path):
            return kind.format
    raise UsageError(_not_recognised(path))


def _holds_pairs(folder: Path) -> bool:
    """Whether ``folder`` holds a pair set: a list of pairs, or a bcolz carray. Never raises."""
    try:
        return folder.is_dir() and any(
            path.is_file() and _lists_pairs(path)  # opening a named pipe would wait for whoever writes there
            if path.suffix.lower() == ".csv"
            else (path / "meta" / "sizes").is_file()
            for path in folder.iterdir()
        )
    except OSError:
        return False


def _lists_pairs(path: Path) -> bool:
    """Whether one of the first lines of a CSV file is ``path,path,0|1``."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            rows = [row for row, _ in zip(csv.reader(lines_of(file)), range(LINES), strict=False)]
    except (OSError, ValueError, csv.Error):
        return False
    return any(len(row) == 3 and row[2].strip() in ("0", "1") for row in rows)


def _not_recognised(path: Path) -> str:
    """Message: what was looked for, and what is there."""
    looked_for = ", ".join(f"{title} (--format {format})" for format, title in TITLES.items())
    message = f"{path}: it is not known what this is. Looked for: {looked_for}. There is {what_is_there(path)}"
    for name in subfolders(path) if path.is_dir() else ():
        for kind in FORMATS:
            if kind.recognises(path / name):
                return f"{message}. {path / name} looks like {kind.title}: give that, if it is meant"
    try:
        split_folders(path)  # says what a data tree lacks, and where one may lie instead
    except HrfrError as error:
        return f"{message}. For {TITLES[TREE]}: {error}" if path.is_dir() else message
    return message
