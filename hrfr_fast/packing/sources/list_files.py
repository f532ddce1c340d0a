"""List files: ``path label`` a line, with a space or a tab between, as PyTorch trainers use them."""

import hashlib
import os
import shlex
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.chunks import FileReaders, Reader
from hrfr_fast.packing.picture_files import read_named
from hrfr_fast.packing.sources.identity_source import NO_OPTIONS, IdentitySource, SourceOptions
from hrfr_fast.packing.sources.labels_out_of_step import list_out_of_step
from hrfr_fast.packing.sources.left_out import PICTURE, kind_of
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line
from hrfr_fast.runtime.words import counted

LONGEST = 1 << 16  # bytes of a line
BY_MXNET, BY_INSIGHTFACE = "number, label, path", "number, path, label"
COLUMNS = {BY_MXNET: '$NF "\\t" $2', BY_INSIGHTFACE: '$2 "\\t" $3'}
"""Columns of other lists -> what awk is to print of them."""
LOOKED_AT = 4096  # bytes of a file from which a list is recognised


class ListSource(IdentitySource):
    """A list of picture files and labels.

    A label is any word: an integer or a name. Where all are integers, identities are numbered in their order, else in
    that of the words. Pictures are in the order of the identities and, within one, of the lines. A path may hold
    spaces: the label is what follows the last tab, or the last space where there is no tab. A relative path is taken
    from ``root``, the list's own folder if not given, and must stay below it; an absolute one is taken as it is
    written.
    """

    format = "list"
    title = "a list file with `path label` a line"

    def __init__(self, path: Path, options: SourceOptions = NO_OPTIONS) -> None:
        self.path, self.root = path, options.root or path.parent
        lines = _read_lines(path)
        self.identities, labels = _numbered(lines.words, np.asarray(lines.labels, np.int32))
        order = np.argsort(labels, kind="stable")
        ends = np.asarray(lines.ends, np.int64)
        self.lines, self.labels = np.asarray(lines.numbers, np.int64)[order], labels[order]
        self._paths, self._starts, self._ends = bytes(lines.paths), np.append(0, ends[:-1])[order], ends[order]
        self._sizes, self._times = self._states()
        self.bytes_on_disk = int(np.maximum(self._sizes, 0).sum())
        self.warnings = [*lines.warnings(path), *self._missing(), *self._repeated(), *self._suspicious_labels(order)]
        paths = np.frombuffer(self._paths, np.uint8)
        self.content = _digest("\n".join(self.identities), self.labels, paths, self._ends, self._sizes)
        self.fingerprint = _digest(self.content, str(self.root), self._times)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        try:
            if not path.is_file():
                return False  # Of a pipe, what is looked at here would be missing when the list is read.
            with open(path, "rb") as file:
                head = file.read(LOOKED_AT)
        except OSError:
            return False
        lines = head.splitlines()[: -1 if len(head) == LOOKED_AT else None]
        if 2 * sum(bool(_other_columns(line)) for line in lines) > len(lines):
            return True  # to be told how to turn it into a list
        found = [_path_and_label(line) for line in lines if line.strip()]
        return 2 * sum(entry is not None and kind_of(os.fsdecode(entry[0])) == PICTURE for entry in found) > len(found)

    def names(self, indices: Sequence[int]) -> list[str]:
        return [f"{self.path.name}, line {self.lines[i]}: {self._path_of(i)}" for i in indices]

    def readers(self, indices: Sequence[int]) -> Sequence[Reader]:
        return FileReaders(self.root, [self._path_of(i) for i in indices], read_named)

    def listing_lines(self) -> Iterator[str]:
        states = zip(self.labels.tolist(), self._sizes.tolist(), self._times.tolist(), strict=True)
        for i, (label, size, mtime) in enumerate(states):
            yield f"{one_line(self._path_of(i))}\t{self.identities[label]}\t{size}\t{mtime}"

    def _path_of(self, index: int) -> str:
        return os.fsdecode(self._paths[int(self._starts[index]) : int(self._ends[index])])

    def _states(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Size in bytes, -1 for a file that cannot be seen, and modification time in nanoseconds of each file."""
        sizes, times = np.full(len(self), -1, np.int64), np.zeros(len(self), np.int64)
        for i in range(len(self)):
            try:
                state = os.stat(os.path.join(self.root, self._path_of(i)))
            except OSError:
                continue
            sizes[i], times[i] = state.st_size, state.st_mtime_ns
        return sizes, times

    def _missing(self) -> list[str]:
        """A warning where files are missing. Raises UsageError where most of them are: the root is wrong, surely."""
        missing = np.flatnonzero(self._sizes < 0)
        if not len(missing):
            return []
        first = int(missing[self.lines[missing].argmin()])
        example = f"line {self.lines[first]}: {one_line(self._path_of(first))}"
        if 2 * len(missing) > len(self):
            raise UsageError(
                f"{self.path}: {len(missing):,} of its {len(self):,} files are not there, such as {example}; relative"
                f" paths were taken from {self.root}: give another folder with --root"
            )
        return [f"{self.path}: {counted(len(missing), 'file')} cannot be found, such as {example}"]

    def _repeated(self) -> list[str]:
        """A warning where lines name a file that an earlier line names: as another person, too, perhaps."""
        root = os.path.abspath(self.root)
        files = (os.path.normpath(os.path.join(root, self._path_of(i))) for i in range(len(self)))
        names = np.fromiter(map(hash, files), np.int64, len(self))
        order = np.argsort(names, kind="stable")
        found = [
            tuple(sorted(order[at : at + 2].tolist(), key=lambda i: int(self.lines[i])))
            for at in np.flatnonzero(names[order[1:]] == names[order[:-1]]).tolist()
        ]
        if not found:
            return []
        other = [pair for pair in found if self.labels[pair[0]] != self.labels[pair[1]]]
        first, second = (other or found)[0]
        example = f"lines {self.lines[first]} and {self.lines[second]}: {one_line(self._path_of(second))}"
        people = f", {len(other):,} of them as another person, who then has the same face" if other else ""
        return [
            f"{self.path}: {len(found):,} lines name a file again{people}; they are packed as they are, such as"
            f" {example}"
        ]

    def _suspicious_labels(self, order: NDArray[np.int64]) -> list[str]:
        """Warnings about labels that are the same number written in two ways, and about labels out of step."""
        warnings, spellings = [], dict[int, list[str]]()
        for name in self.identities if all(map(_is_integer, self.identities)) else ():
            spellings.setdefault(int(name), []).append(name)
        several = [names for names in spellings.values() if len(names) > 1]
        if several:
            shown = few([" and ".join(names) for names in several], "; ")
            warnings.append(
                f"{self.path}: {counted(len(several), 'label')} written in several ways ({shown}) count as different"
                " people"
            )
        in_file = np.argsort(order)
        folders = [os.path.dirname(self._path_of(i)) for i in in_file]
        if evidence := list_out_of_step(folders, self.labels[in_file]):
            warnings.append(f"{self.path}: {evidence}")
        return warnings


class _Lines:
    """The lines of a list that could be read."""

    def __init__(self) -> None:
        self.numbers, self.labels, self.ends = array("q"), array("i"), array("q")
        self.paths = bytearray()  # joined; where each ends is in ``ends``
        self.words: dict[bytes, int] = {}  # label as written -> number in order of appearance
        self.malformed: list[tuple[int, str]] = []  # line number, reason
        self.other_columns, self.columns = 0, ""  # lines with the columns of another kind of list

    def add(self, number: int, line: bytes) -> None:
        """Take one line, of this number in the file."""
        if columns := _other_columns(line):
            self.other_columns, self.columns = self.other_columns + 1, columns
        entry = _path_and_label(line)
        if entry is None:
            self.malformed.append((number, "expected a path, a space or tab, and a label"))
            return
        path, label = entry
        if not os.path.isabs(path) and os.path.normpath(path).split(b"/")[0] == b"..":
            self.malformed.append((number, f"{one_line(os.fsdecode(path))} leads out of the root; see --root"))
            return
        self.numbers.append(number)
        self.labels.append(self.words.setdefault(label, len(self.words)))
        self.paths += path
        self.ends.append(len(self.paths))

    def warnings(self, path: Path) -> list[str]:
        """A warning where lines were left out. Raises UsageError where most were, or nothing is there."""
        if not self.malformed and self.numbers:
            return []
        if not self.malformed:
            raise UsageError(f"{path}: no line of the form `path label`")
        number, reason = self.malformed[0]
        example = f"such as line {number}: {reason}"
        if len(self.malformed) > len(self.numbers):
            lines = len(self.malformed) + len(self.numbers)
            raise UsageError(f"{path}: {len(self.malformed):,} of its {lines:,} lines cannot be used, {example}")
        return [f"{path}: {len(self.malformed):,} lines cannot be used, {example}"]


def _read_lines(path: Path) -> _Lines:
    """The lines of the list ``path``. Raises UsageError where it is no file, or none of them can be used."""
    lines = _Lines()
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST), b""), 1):
                if len(line) == LONGEST:
                    raise UsageError(f"{path}: line {number} is longer than {LONGEST:,} bytes: this is no list")
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    lines.add(number, line)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read as a list of pictures: {error.strerror}") from error
    if 2 * lines.other_columns > len(lines.numbers) + len(lines.malformed):
        raise UsageError(
            f"{path}: its columns are {lines.columns}, as MXNet's .lst files have them; expected a path and a label."
            f" Write them so, `awk -F'\\t' '{{print {COLUMNS[lines.columns]}}}' {shlex.quote(str(path))} > list.txt`,"
            " and pack list.txt with --root FOLDER, the folder that the paths are relative to"
        )
    lines.warnings(path)
    return lines


def _other_columns(line: bytes) -> str:
    """The columns of a line of MXNet's and InsightFace's ``.lst`` files, a key of :data:`COLUMNS`; "" for others."""
    fields = [field.strip() for field in line.split(b"\t")]
    if len(fields) < 3 or not fields[0].isdigit():
        return ""
    if kind_of(os.fsdecode(fields[-1])) == PICTURE:
        return BY_MXNET
    return BY_INSIGHTFACE if kind_of(os.fsdecode(fields[1])) == PICTURE else ""


def _is_integer(word: str) -> bool:
    return word.removeprefix("-").isascii() and word.removeprefix("-").isdigit() and len(word) < 20


def _path_and_label(line: bytes) -> tuple[bytes, bytes] | None:
    """(path, label) of one line; None where it has no such form."""
    line = line.strip(b" \t\r\n")
    path, _, label = line.rpartition(b"\t" if b"\t" in line else b" ")
    path, label = path.strip(), label.strip()
    return (path, label) if path and label and b"\0" not in line else None


def _digest(*parts: str | NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(os.fsencode(part) if isinstance(part, str) else part.tobytes())
    return digest.hexdigest()


def _numbered(words: dict[bytes, int], labels: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    """Names of the identities in order, and labels that count them, of ``labels`` in order of appearance."""
    integers = all(word.removeprefix(b"-").isdigit() and len(word) < 20 for word in words)
    ordered = sorted(words, key=lambda word: (int(word), word) if integers else (0, word))
    number = np.empty(len(words), np.int32)
    number[[words[word] for word in ordered]] = np.arange(len(words), dtype=np.int32)
    return [os.fsdecode(word) for word in ordered], number[labels]
