"""What can be packed: identity folders, listed compactly, and the question whether they changed since last time."""

import gzip
import hashlib
import itertools
import json
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.errors import HrfrError, UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass
class Listing:
    """The pictures of one split: identities sorted by name, and the sorted file names of each.

    File names lie NUL-joined in one bytes object an identity: a million of them take some 20 MB.
    """

    identities: list[str] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    counts: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))  # bytes, -1 where the file cannot be examined
    mtimes: "array[int]" = field(default_factory=lambda: array("q"))  # nanoseconds
    ignored: int = 0  # files that are no pictures by their name

    def __len__(self) -> int:
        return len(self.sizes)

    def files(self, identity: int) -> list[str]:
        """File names of one identity."""
        return [os.fsdecode(name) for name in self.names[identity].split(b"\0")] if self.names[identity] else []

    def select(self, chosen: Sequence[int]) -> "Listing":
        """The listing of some identities alone, given by ascending number."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        part = Listing(ignored=self.ignored)
        for i in chosen:
            span = slice(int(starts[i]), int(starts[i + 1]))
            part.add(self.identities[i], self.names[i], self.sizes[span], self.mtimes[span])
        return part

    def add(self, identity: str, names: bytes, sizes: "array[int]", mtimes: "array[int]") -> None:
        """Append one identity; the caller sorts."""
        self.identities.append(identity)
        self.names.append(names)
        self.counts.append(len(sizes))
        self.sizes.extend(sizes)
        self.mtimes.extend(mtimes)

    def fingerprint(self, times: bool) -> str:
        """Digest of names and sizes; with ``times`` also of modification times, which a copy elsewhere may not keep."""
        digest = hashlib.blake2b(digest_size=32)
        for identity, names, count in zip(self.identities, self.names, self.counts, strict=True):
            digest.update(b"%s\0%d\0%s\0" % (os.fsencode(identity), count, names))
        digest.update(self.sizes.tobytes())
        if times:
            digest.update(self.mtimes.tobytes())
        return digest.hexdigest()

    def lines(self) -> Iterator[str]:
        """One line a file: identity/name, size, modification time."""
        at = 0
        for i, identity in enumerate(self.identities):
            for name in self.files(i):
                yield f"{identity}/{name}\t{self.sizes[at]}\t{self.mtimes[at]}"
                at += 1


def list_split(root: Path) -> Listing:
    """List ``root/<identity>/<picture>``. Hidden names are skipped, other files counted in ``ignored``.

    Raises:
        HrfrError: a folder that cannot be read.
        UsageError: no pictures at all.
    """
    listing = Listing()
    try:
        with os.scandir(root) as entries:
            found = [(e.name, e.is_dir()) for e in entries if not e.name.startswith(".")]
        listing.ignored = sum(not is_dir for _, is_dir in found)
        for identity in sorted(name for name, is_dir in found if is_dir):
            _list_identity(root / identity, identity, listing)
    except OSError as error:
        raise HrfrError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error
    if not len(listing):
        raise UsageError(
            f"{root}: no pictures; expected {root.name}/<identity>/<picture> with one of {' '.join(EXTENSIONS)}"
            " (remove the folder if the split is not wanted)"
        )
    return listing


def _list_identity(folder: Path, identity: str, listing: Listing) -> None:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if not name.lower().endswith(EXTENSIONS):
                listing.ignored += 1
                continue
            try:
                status = entry.stat()
                found.append((os.fsencode(name), status.st_size, status.st_mtime_ns))
            except OSError:
                found.append((os.fsencode(name), -1, 0))  # a dangling link, say; reading it will give the reason
    found.sort()
    names, sizes, mtimes = zip(*found, strict=True) if found else ((), (), ())
    listing.add(identity, b"\0".join(names), array("q", sizes), array("q", mtimes))


def refuse_shared_identities(listings: dict[str, Listing]) -> None:
    """No identity may be in two splits: training and test would overlap. Raises UsageError naming some."""
    names = sorted(listings)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = sorted(set(listings[first].identities) & set(listings[second].identities))
            if shared:
                some = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
                raise UsageError(
                    f"{len(shared)} identities are in both {first} and {second} ({some}); every identity belongs"
                    " to one split, else training and evaluation overlap"
                )


@dataclass
class Candidates(ABC):
    """Pictures that want to become one shard, in order. ``size`` and ``encoding`` are settled before packing.

    Labels are provisional: an identity's number for a split, the candidate's own number for pairs.
    """

    name: str  # "lowres", ..., or "pairs-<name>"
    root: Path
    size: int
    count: int
    fingerprint: str  # of names, sizes, modification times
    content: str  # of names and sizes
    encoding: str = "raw"
    resize: bool = False
    listing: Listing | None = None
    bytes_on_disk: int = 0

    paired = False

    @property
    def folder(self) -> str:
        """Where the paths count from, as a user would say it."""
        return self.root.name

    @abstractmethod
    def paths(self, first: int, last: int) -> list[str]:
        """Paths relative to ``root`` of the candidates first..last-1."""

    def labels(self, first: int, last: int) -> NDArray[np.int64]:
        """Provisional labels of the candidates first..last-1."""
        return np.arange(first, last)

    def listing_lines(self) -> Iterator[str]:
        """What :func:`changes` compares; one line a file, the path before the first tab."""
        return self.listing.lines() if self.listing is not None else iter(())

    def sample(self, n: int = 64) -> list[str]:
        """Up to ``n`` paths, evenly spread."""
        chosen = np.unique(np.linspace(0, self.count - 1, min(n, self.count)).astype(int)).tolist()
        return [self.paths(i, i + 1)[0] for i in chosen]


class FolderCandidates(Candidates):
    """The pictures of a split, identity after identity."""

    def __init__(self, name: str, root: Path, listing: Listing, size: int) -> None:
        super().__init__(
            name, root, size, len(listing), listing.fingerprint(times=True), listing.fingerprint(times=False)
        )
        self.listing = listing
        self.bytes_on_disk = int(np.maximum(np.asarray(listing.sizes), 0).sum())
        self._starts = np.concatenate([[0], np.cumsum(listing.counts)]).astype(np.int64)
        self._files: tuple[int, list[str]] = (-1, [])

    def labels(self, first: int, last: int) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, np.arange(first, last), side="right") - 1

    def paths(self, first: int, last: int) -> list[str]:
        assert self.listing is not None
        paths = []
        for position, identity in zip(range(first, last), self.labels(first, last).tolist(), strict=True):
            if self._files[0] != identity:
                self._files = (identity, self.listing.files(identity))
            name = self._files[1][position - int(self._starts[identity])]
            paths.append(f"{self.listing.identities[identity]}/{name}")
        return paths


# The listing kept beside a finished shard, for the next run's question: what changed?


def save_listing(path: Path, key: dict[str, Any], lines: Iterator[str]) -> None:
    """Write ``key`` and the lines, compressed; no time stamp, so equal content gives equal bytes."""
    with open(path, "wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as file:
            file.write(json.dumps(key, sort_keys=True).encode() + b"\n")
            while some := list(itertools.islice(lines, 4096)):  # a write a line costs twice as much in all
                file.write(os.fsencode("\n".join(some)) + b"\n")
        raw.flush()
        os.fsync(raw.fileno())


def saved_key(path: Path) -> dict[str, Any] | None:
    """The key :func:`save_listing` stored, None where there is none or it cannot be read."""
    try:
        with gzip.open(path) as file:
            key: dict[str, Any] = json.loads(file.readline())
            return key
    except (OSError, ValueError, EOFError):
        return None


def changes(path: Path, lines: Iterator[str]) -> tuple[int, int, int]:
    """(added, removed, changed) files since the listing at ``path`` was saved."""
    before: dict[bytes, bytes] = {}
    try:
        with gzip.open(path) as file:
            file.readline()
            for line in file:
                name, _, rest = line.rstrip(b"\n").partition(b"\t")
                before[name] = rest
    except (OSError, EOFError):
        pass
    added = changed = 0
    for text in lines:
        name, _, rest = os.fsencode(text).partition(b"\t")
        old = before.pop(name, None)
        added += old is None
        changed += old is not None and old != rest
    return added, len(before), changed
