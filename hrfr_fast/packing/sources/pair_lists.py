"""Pairs of picture files, listed in a CSV file.

Test pictures are never encoded anew: a JPEG may be stored as it is, all else is raw.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.names import SPLITS
from hrfr_fast.packing.chunks import FileReaders, Reader
from hrfr_fast.packing.picture_files import read_named
from hrfr_fast.packing.sources.candidates import PairCandidates, digest_of_text
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.untrusted import lines_of


class PathPairs(PairCandidates):
    """Pairs of picture files."""

    def __init__(
        self,
        name: str,
        root: Path,
        paths: list[str],
        same: NDArray[np.bool_],
        size: int,
        kind: str = "test",
        identities: NDArray[np.int32] | None = None,
    ) -> None:
        self._paths, self.same, self.kind, self.identities = paths, same, kind, identities
        lines = list(self._lines_of(root, paths, same))
        content = "\n".join(line.rpartition("\t")[0] for line in lines)
        super().__init__(name, root, size, len(paths), digest_of_text("\n".join(lines)), digest_of_text(content))
        self._lines = lines
        self.bytes_on_disk = sum(max(0, int(line.split("\t")[2])) for line in lines)

    @staticmethod
    def _lines_of(root: Path, paths: list[str], same: NDArray[np.bool_]) -> Iterator[str]:
        """One line a picture: path, number in the list and label, size, modification time."""
        for i, path in enumerate(paths):
            try:
                status = os.stat(root / path)
                size, mtime = status.st_size, status.st_mtime_ns
            except (OSError, ValueError):
                size, mtime = -1, 0
            yield f"{one_line(path)}#{i}\t{int(same[i // 2])}\t{size}\t{mtime}"

    def listing_lines(self) -> Iterator[str]:
        return iter(self._lines)

    def paths(self, first: int, last: int) -> list[str]:
        return self._paths[first:last]

    def readers(self, first: int, last: int) -> Sequence[Reader]:
        return FileReaders(self.root, self._paths[first:last], read_named)

    def folders(self) -> list[Path]:
        root = os.path.realpath(self.root)
        known = {name: Path(os.path.normpath(f"{root}/{name}")) for name in set(map(os.path.dirname, self._paths))}
        return [known[os.path.dirname(path)] for path in self._paths]

    def places(self, data: Path) -> list[str | None]:
        base = data.resolve()
        splits = {base / split: split for split in SPLITS}
        return [
            f"{splits[folder.parent]}/{folder.name}" if folder.parent in splits else None for folder in self.folders()
        ]


def read_csv(name: str, path: Path) -> PathPairs:
    """The pairs of a CSV file: ``path,path,0|1`` a line, paths relative to the file; a header line is allowed.

    Raises:
        UsageError: no usable line at all, or the file is no text.
    """
    paths: list[str] = []
    same: list[bool] = []
    malformed: list[dict[str, Any]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, row in enumerate(csv.reader(lines_of(file), strict=True), 1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and cells[-1].lower() in ("label", "same", "issame", "match")):
                    continue
                if (
                    len(cells) != 3
                    or cells[2] not in ("0", "1")
                    or not cells[0]
                    or not cells[1]
                    or "\0" in "".join(cells)
                ):
                    reason = f"malformed line {number}: expected path,path,0|1"
                    malformed.append({"file": f"{path.parent.name}/{path.name}", "line": number, "reason": reason})
                    continue
                paths += cells[:2]
                same.append(cells[2] == "1")
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a list of pairs: {error}") from error
    if not paths:
        raise UsageError(f"{path}: no line of the form path,path,0|1")
    pairs = PathPairs(name, path.parent, paths, np.array(same, bool), 0)
    pairs.malformed = malformed
    pairs.fingerprint = digest_of_text(pairs.fingerprint + json.dumps(malformed))
    return pairs
