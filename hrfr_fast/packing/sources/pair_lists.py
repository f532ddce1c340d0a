"""Verification pairs: CSV lists of picture paths, pair sets found in a folder, pairs of identities set aside.

Pictures 2i and 2i+1 are pair i. Test pictures are never encoded anew: a JPEG may be stored as it is, all else is raw.
"""

import csv
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.manifest import SPLITS
from hrfr_fast.packing.bcolz_arrays import BcolzPairs
from hrfr_fast.packing.pair_folder import left_out
from hrfr_fast.packing.sources import Candidates, Listing, digest_of_text
from hrfr_fast.runtime import philox as random
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line

PAIRS_AN_IDENTITY = 6
DRAWS = 100  # of a pair of two identities, until it is not one that was drawn before


class PathPairs(Candidates):
    """Pairs of files. ``same`` bool [P]; ``identities`` int32 [2P] where they are known."""

    paired = True

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
        self.malformed: list[dict[str, Any]] = []
        lines = list(self.listing_lines_of(root, paths, same))
        content = "\n".join(line.rpartition("\t")[0] for line in lines)
        super().__init__(name, root, size, len(paths), digest_of_text("\n".join(lines)), digest_of_text(content))
        self._lines = lines
        self.bytes_on_disk = sum(max(0, int(line.split("\t")[2])) for line in lines)

    @staticmethod
    def listing_lines_of(root: Path, paths: list[str], same: NDArray[np.bool_]) -> Iterator[str]:
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

    def folders(self) -> list[Path]:
        """The folder that each picture lies in, resolved as far as the list's own place."""
        root = os.path.realpath(self.root)
        known = {name: Path(os.path.normpath(f"{root}/{name}")) for name in set(map(os.path.dirname, self._paths))}
        return [known[os.path.dirname(path)] for path in self._paths]

    def places(self, data: Path) -> list[str | None]:
        """``<split>/<identity>`` of each picture that lies in a split of the tree ``data``, None for the others."""
        base = data.resolve()
        splits = {base / split: split for split in SPLITS}
        return [f"{splits[f.parent]}/{f.name}" if f.parent in splits else None for f in self.folders()]


def read_csv(name: str, path: Path) -> PathPairs:
    """``path,path,0|1`` a line, relative to the file; a header line is allowed. Malformed lines are recorded.

    Raises:
        UsageError: no usable line at all, or the file is no text.
    """
    paths: list[str] = []
    same: list[bool] = []
    malformed: list[dict[str, Any]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, row in enumerate(csv.reader(file, strict=True), 1):
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
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a list of pairs: {error}") from error
    if not paths:
        raise UsageError(f"{path}: no line of the form path,path,0|1")
    pairs = PathPairs(name, path.parent, paths, np.array(same, bool), 0)
    pairs.malformed = malformed
    pairs.fingerprint = digest_of_text(pairs.fingerprint + json.dumps(malformed))
    return pairs


def find_pair_sets(folder: Path, channels: Mapping[str, str]) -> tuple[list[PathPairs | BcolzPairs], list[str]]:
    """Every pair set of ``folder``, by name, and warnings that name what else lies there and why it is no pair set.

    Args:
        channels: channel order of the bcolz carrays, "bgr" or "rgb", by name; ``""`` stands for all others.

    Raises:
        UsageError: a broken pair set, or two that go by one name.
    """
    found: dict[str, PathPairs | BcolzPairs] = {}
    if not folder.is_dir():
        return [], []
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        name = path.stem if path.is_file() else path.name
        if path.suffix.lower() == ".csv" and path.is_file():
            pairs: PathPairs | BcolzPairs = read_csv(f"pairs-{name}", path)
        elif (path / "meta").is_dir() and (path / "data").is_dir():
            pairs = BcolzPairs(f"pairs-{name}", path, channels.get(name, channels[""]))
        else:
            continue
        if name.casefold() in map(str.casefold, found) or name.startswith("dev-"):
            raise UsageError(f"{path}: the name {name!r} of a pair set is taken; rename one")
        if not re.fullmatch(r"[\w-]+", name):
            raise UsageError(f"{path}: a pair set's name may hold letters, digits, '-' and '_' only; rename it")
        found[name] = pairs
    sets = [found[name] for name in sorted(found)]
    return sets, left_out(folder, picture_folders(sets))


def picture_folders(sets: Sequence[Candidates]) -> set[Path]:
    """The resolved folders that the lists among ``sets`` name pictures in."""
    return {folder for pairs in sets if isinstance(pairs, PathPairs) for folder in pairs.folders()}


def choose_identities(listing: Listing, n: int, split: str) -> list[int]:
    """Numbers of the ``n`` identities set aside for development, those with at least two pictures first in line.

    A pure function of the sorted names. Raises UsageError if less than half would be left for training.
    """
    eligible = [i for i, count in enumerate(listing.counts) if count >= 2]
    if n > len(eligible) or 2 * n > len(listing.identities):
        raise UsageError(
            f"--dev-identities {n}: {split} has {len(listing.identities)} identities ({len(eligible)} with two or more"
            " pictures) and at least half must be left for training"
        )
    words = random.philox(0, 0, np.array(eligible), purpose=random.SPLIT_CHOICE)[:, 0]
    return sorted(np.array(eligible)[np.argsort(words, kind="stable")[:n]].tolist())


def development_pairs(split: str, root: Path, listing: Listing, size: int) -> PathPairs:
    """Pairs among the set-aside identities: up to six genuine ones an identity, and as many impostors."""
    paths: list[str] = []
    ids: list[int] = []
    same: list[bool] = []
    files = [listing.files(i) for i in range(len(listing.identities))]
    for i, names in enumerate(files):
        combinations = list(itertools.combinations(names, 2))
        words = random.philox(0, 1 + i, np.arange(len(combinations)), purpose=random.SPLIT_CHOICE)[:, 0]
        for pick in np.argsort(words, kind="stable")[:PAIRS_AN_IDENTITY].tolist():
            paths += [f"{listing.identities[i]}/{name}" for name in combinations[pick]]
            ids += [i, i]
            same.append(True)
    for chosen in _impostors(files, ids[0::2]):
        for i, name in chosen:
            paths.append(f"{listing.identities[i]}/{name}")
            ids.append(i)
        same.append(False)
    name = f"pairs-dev-{split}"
    return PathPairs(name, root, paths, np.array(same, bool), size, "development", np.array(ids, np.int32))


def _impostors(files: list[list[str]], first_of_each: list[int]) -> Iterator[list[tuple[int, str]]]:
    """A pair of two identities for each of ``first_of_each``, as (identity, file) twice; none is drawn again.

    Spread over identities: each takes part as often as it does in genuine pairs.
    """
    n, drawn = len(files), set[frozenset[tuple[int, str]]]()
    for k, first in enumerate(first_of_each if n > 1 else []):
        for attempt in range(DRAWS):
            words = random.philox(0, k, attempt, purpose=random.SPLIT_CHOICE, view=1)
            second = (first + 1 + int(words[0]) % (n - 1)) % n
            chosen = [(i, files[i][int(word) % len(files[i])]) for i, word in ((first, words[1]), (second, words[2]))]
            if frozenset(chosen) not in drawn:
                drawn.add(frozenset(chosen))
                yield chosen
                break
