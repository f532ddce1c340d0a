"""What can be packed: identity folders, listed compactly, and the question whether they changed since last time."""

import hashlib
import os
import stat
import unicodedata
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.decode import Rejected, read_file
from hrfr_fast.packing.left_out import EXTENSIONS, LOOSE, PICTURE, LeftOut, kind_of
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.names import one_line


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
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.sizes)

    def files(self, identity: int) -> list[str]:
        """File names of one identity."""
        return [os.fsdecode(name) for name in self.names[identity].split(b"\0")] if self.names[identity] else []

    def select(self, chosen: Sequence[int]) -> "Listing":
        """The listing of some identities alone, given by ascending number."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        part = Listing()
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
        """One line a file, whatever its name holds: identity/name, size, modification time."""
        at = 0
        for i, identity in enumerate(self.identities):
            for name in self.files(i):
                yield f"{one_line(f'{identity}/{name}')}\t{self.sizes[at]}\t{self.mtimes[at]}"
                at += 1


def list_split(root: Path) -> Listing:
    """List ``root/<identity>/<picture>``; what lies elsewhere is counted in ``left_out``.

    Raises:
        HrfrError: a folder that cannot be read.
        UsageError: no pictures at all, or most of them where they are not expected.
    """
    listing = Listing()
    try:
        for identity in _identities(root, listing.left_out):
            _list_identity(root, identity, listing)
    except OSError as error:
        raise HrfrError(f"{error.filename}: cannot be listed: {error.strerror}; mend or remove it") from error
    if listing.left_out.pictures > len(listing) or not len(listing):
        _refuse_layout(root, listing)
    return listing


def _identities(root: Path, left_out: LeftOut) -> list[str]:
    """Names of the identities' folders, sorted. Raises OSError for what cannot be seen, a dangling link among it."""
    identities = []
    with os.scandir(root) as entries:
        for entry in entries:
            if not (stat.S_ISDIR(entry.stat().st_mode) if entry.is_symlink() else entry.is_dir()):
                kind = kind_of(entry.name)
                left_out.add(LOOSE if kind == PICTURE else kind, f"{root.name}/{entry.name}")
            elif entry.name.startswith("."):
                left_out.add_below(root / entry.name, f"{root.name}/{entry.name}")
            else:
                identities.append(entry.name)
    return sorted(identities)


def _list_identity(root: Path, identity: str, listing: Listing) -> None:
    found = []
    with os.scandir(root / identity) as entries:
        for entry in entries:
            try:
                status = entry.stat()
                size, mtime = status.st_size, status.st_mtime_ns
                is_folder = stat.S_ISDIR(status.st_mode)
            except OSError:  # a dangling link, say; reading it will give the reason
                size, mtime, is_folder = -1, 0, False
            kind = kind_of(entry.name)
            if kind == PICTURE and not is_folder:
                found.append((os.fsencode(entry.name), size, mtime))
                continue
            shown = f"{root.name}/{identity}/{entry.name}"
            if is_folder:
                listing.left_out.add_below(root / identity / entry.name, shown)
            else:
                listing.left_out.add(kind, shown)
    found.sort()
    names, sizes, mtimes = zip(*found, strict=True) if found else ((), (), ())
    listing.add(identity, b"\0".join(names), array("q", sizes), array("q", mtimes))


def identity_key(name: str) -> str:
    """What two spellings of one folder name have in common: composed accents (NFC), no spaces around it.

    The same name typed on macOS and on Linux may differ in both.
    """
    return unicodedata.normalize("NFC", name).strip()


def _refuse_layout(root: Path, listing: Listing) -> None:
    """Most pictures would be left out: then the tree is laid out in another way, or is still packed in archives."""
    expected = f"{root.name}/<identity>/<picture>"
    said = "; ".join(listing.left_out.lines(root.name))
    if listing.left_out.pictures:
        raise UsageError(
            f"{root}: only {len(listing):,} of {len(listing) + listing.left_out.pictures:,} pictures lie where they are"
            f" expected, in {expected}: {said}. Move the others there (or remove what is not wanted) and pack again"
        )
    raise UsageError(
        f"{root}: no pictures; expected {expected} with one of {' '.join(EXTENSIONS)}{f' ({said})' if said else ''};"
        " remove the folder if the split is not wanted"
    )


def refuse_shared_identities(listings: dict[str, Listing]) -> None:
    """No identity may be in two splits, in whatever spelling: training and test would overlap.

    Raises UsageError naming some.
    """
    names = sorted(listings)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            keys = {identity_key(name) for name in listings[second].identities}
            shared = sorted(name for name in listings[first].identities if identity_key(name) in keys)
            if shared:
                exact = set(listings[second].identities)
                shown = [one_line(n) if n in exact else f"{ascii(n)} in another spelling" for n in shared[:5]]
                some = ", ".join(shown) + (", ..." if len(shared) > 5 else "")
                raise UsageError(
                    f"{len(shared)} identities are in both {first} and {second} ({some}); every identity belongs"
                    " to one split, else training and evaluation overlap"
                )


def similar_identities(listings: dict[str, Listing]) -> list[str]:
    """Warnings about identities that differ in case, accents' encoding or spaces alone: perhaps one person twice.

    Case alone is no reason to refuse: there are identity codes that need it.
    """
    spellings: dict[str, list[str]] = {}
    for split, listing in listings.items():
        for name in listing.identities:
            spellings.setdefault(identity_key(name).casefold(), []).append(f"{split}/{name}")
    groups = [group for group in spellings.values() if len(group) > 1]
    if not groups:
        return []
    some = "; ".join(" and ".join(map(ascii, group)) for group in groups[:5]) + ("; ..." if len(groups) > 5 else "")
    return [
        f"{len(groups)} identities have several folders whose names differ in case, encoding of accents or spaces alone"
        f" ({some}); they count as different people, put the pictures of one person into one folder"
    ]


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
    def options(self) -> dict[str, Any]:
        """What decides the pixels beside the files, by name; part of the key of an unchanged shard."""
        return {}

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

    def readable_again(self, refusals: Sequence[Mapping[str, Any]]) -> bool:
        """Whether any file of ``refusals`` (quarantine lines marked "retry") can be read now."""
        for line in refusals:
            try:
                read_file(str(self.root / str(line["file"]).removeprefix(f"{self.folder}/")))
                return True
            except Rejected:
                continue
        return False

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


def digest_of_text(text: str) -> str:
    """BLAKE2b of ``text``, which may hold undecodable file names; 64 hexadecimal digits."""
    return hashlib.blake2b(os.fsencode(text), digest_size=32).hexdigest()
