"""Verification pairs from outside: CSV lists of picture paths, bcolz arrays as InsightFace's validation sets have them.

Pictures 2i and 2i+1 are pair i. Test pictures are never encoded anew: a JPEG may be stored as it is, all else is raw.
"""

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.data import philox as random
from hrfr_fast.data.bcolz_arrays import require_bcolz
from hrfr_fast.data.decode import Chunk, Refused, Target, all_readable, collect
from hrfr_fast.data.names import one_line
from hrfr_fast.data.sources import Candidates, Listing
from hrfr_fast.errors import HrfrError, UsageError

PAIRS_AN_IDENTITY = 6


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
        super().__init__(name, root, size, len(paths), _digest("\n".join(lines)), _digest(content))
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


class BcolzPairs(Candidates):
    """A bcolz carray directory [2P, 3, H, W], BGR, float32 in [-1, 1] or uint8, and ``<name>_list.npy`` [P]."""

    paired = True
    kind = "test"
    identities = None

    def __init__(self, name: str, directory: Path) -> None:
        self.directory = directory
        self.same = _read_same(directory.with_name(directory.name + "_list.npy"))
        shape, dtype = _read_meta(directory)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not 1 <= shape[2] <= 4096:
            raise UsageError(f"{directory}: expected an array of 2P x 3 x S x S pictures, found {shape}")
        if shape[0] != 2 * len(self.same):
            raise UsageError(f"{directory}: {shape[0]} pictures and {len(self.same)} labels; two pictures make a pair")
        files = sorted([*directory.rglob("*"), directory.with_name(directory.name + "_list.npy")])
        stats = [(f, f.stat()) for f in files if f.is_file()]
        names = [(f.relative_to(directory.parent).as_posix(), s) for f, s in stats]
        self._lines = [f"{name}\t{s.st_size}\t{s.st_mtime_ns}" for name, s in names]
        content = "\n".join(f"{name}\t{s.st_size}" for name, s in names)
        super().__init__(name, directory, shape[2], shape[0], _digest("\n".join(self._lines)), _digest(content))
        self.dtype, self._array = dtype, None
        self.malformed: list[dict[str, Any]] = []

    def listing_lines(self) -> Iterator[str]:
        return iter(self._lines)

    def paths(self, first: int, last: int) -> list[str]:
        return [f"[{i}]" for i in range(first, last)]

    @property
    def folder(self) -> str:
        return f"{self.directory.parent.name}/{self.directory.name}"

    def open(self) -> Any:
        """The carray, read-only. Raises UsageError where bcolz cannot read it."""
        if self._array is None:
            bcolz = require_bcolz(f"{self.directory}: reading it")
            try:
                self._array = bcolz.carray(rootdir=str(self.directory), mode="r")
            except Exception as error:  # bcolz raises many kinds over a damaged directory
                raise UsageError(f"{self.directory}: not a readable bcolz array: {error}") from error
        return self._array

    @cached_property
    def factor(self) -> float:
        """127.5, or 128 for pictures stored as (level - 127.5) / 128; level = value * factor + 127.5.

        Both conventions are about. Levels are integers, so the right factor leaves no rounding error; only a clear
        case departs from the documented 127.5.
        """
        values = np.asarray(self.open()[: min(self.count, 8)], np.float64)
        levels = [values[np.isfinite(values)] * factor + 127.5 for factor in (127.5, 128.0)]
        usual, other = (float(np.abs(x - np.rint(x)).mean()) if x.size else 0.0 for x in levels)
        return 128.0 if other < 0.01 < usual else 127.5

    def chunk(self, first: int, last: int, target: Target) -> Chunk:
        """Decode the pictures first..last-1."""
        try:
            block = np.asarray(self.open()[first:last])
        except UsageError:
            raise
        except Exception as error:  # a damaged or missing block: these pictures are lost, the others are not
            if isinstance(error, OSError) or not all_readable(self.directory):  # bcolz hides some of the former
                raise HrfrError(f"{self.directory}: cannot be read: {error}; mend or remove the array") from error
            reason = f"bcolz cannot read it: {error}"
            return Chunk(refused=[(i, reason) for i in range(last - first)])
        return collect((partial(self._levels, picture) for picture in block), target, True)

    def _levels(self, picture: NDArray[Any]) -> NDArray[np.uint8]:
        if picture.dtype != np.uint8:
            if not np.isfinite(picture).all():
                raise Refused("it holds NaN or infinite values")
            levels = np.rint(picture.astype(np.float64) * self.factor + 127.5)
            if levels.min() < 0 or levels.max() > 255:
                raise Refused(f"values {picture.min():.3f}..{picture.max():.3f} are outside [-1, 1]")
            picture = levels.astype(np.uint8)
        return np.ascontiguousarray(picture[::-1].transpose(1, 2, 0))


def _read_same(path: Path) -> NDArray[np.bool_]:
    """The P labels of a bcolz pair set. Never unpickles."""
    try:
        same = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: the labels of the pairs cannot be read: {error}") from error
    if same.ndim != 1 or not len(same) or same.dtype.kind not in "biu" or not np.isin(same, (0, 1)).all():
        raise UsageError(f"{path}: expected one boolean (or 0/1) a pair, found {same.dtype} {same.shape}")
    return np.asarray(same, bool)


def _read_meta(directory: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype as bcolz's own JSON files give them, checked before bcolz sees the directory."""
    try:
        shape = tuple(int(n) for n in json.loads((directory / "meta" / "sizes").read_bytes())["shape"])
        storage = json.loads((directory / "meta" / "storage").read_bytes())
        dtype = np.dtype(str(storage["dtype"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory}: not a bcolz array directory: {error}") from error
    if dtype.base.kind == "f" and dtype.base.itemsize in (2, 4, 8):
        return shape, dtype
    if dtype.base == np.uint8:
        return shape, dtype
    raise UsageError(f"{directory}: expected float32 or uint8 pictures, found {dtype}")


def read_csv(name: str, path: Path) -> PathPairs:
    """``path,path,0|1`` a line, relative to the file; a header line is allowed. Malformed lines are recorded.

    Raises:
        UsageError: no usable line at all, or the file is no text.
    """
    paths: list[str] = []
    same: list[bool] = []
    malformed = []
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
                    malformed.append({"line": number, "reason": f"malformed line {number}: expected path,path,0|1"})
                    continue
                paths += cells[:2]
                same.append(cells[2] == "1")
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a list of pairs: {error}") from error
    if not paths:
        raise UsageError(f"{path}: no line of the form path,path,0|1")
    pairs = PathPairs(name, path.parent, paths, np.array(same, bool), 0)
    pairs.malformed = malformed
    pairs.fingerprint = _digest(pairs.fingerprint + json.dumps(malformed))
    return pairs


def find_pair_sets(folder: Path) -> list[PathPairs | BcolzPairs]:
    """Every pair set of ``hres_eval_pairs``, by name. Raises UsageError where two go by one name."""
    found: dict[str, PathPairs | BcolzPairs] = {}
    if not folder.is_dir():
        return []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        pairs: PathPairs | BcolzPairs
        if path.suffix == ".csv" and path.is_file():
            name = path.stem
            pairs = read_csv(f"pairs-{name}", path)
        elif (path / "meta").is_dir() and (path / "data").is_dir():
            name = path.name
            pairs = BcolzPairs(f"pairs-{name}", path)
        else:
            continue
        if name in found or name.startswith("dev-"):
            raise UsageError(f"{path}: the name {name!r} of a pair set is taken; rename one")
        if not re.fullmatch(r"[\w-]+", name):
            raise UsageError(f"{path}: a pair set's name may hold letters, digits, '-' and '_' only; rename it")
        found[name] = pairs
    return [found[name] for name in sorted(found)]


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
    n = len(files)
    genuine = len(same)
    for k in range(genuine if n > 1 else 0):
        # Spread over identities: each takes part as often as it does in genuine pairs.
        first = ids[2 * k]
        words = random.philox(0, k, 0, purpose=random.SPLIT_CHOICE, view=1)
        second = (first + 1 + int(words[0]) % (n - 1)) % n
        for i, word in ((first, words[1]), (second, words[2])):
            paths.append(f"{listing.identities[i]}/{files[i][int(word) % len(files[i])]}")
            ids.append(i)
        same.append(False)
    name = f"pairs-dev-{split}"
    return PathPairs(name, root, paths, np.array(same, bool), size, "development", np.array(ids, np.int32))


def _digest(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=32).hexdigest()
