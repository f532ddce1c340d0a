"""The folders of a split, ``<split>/<identity>/<picture>``: listed compactly, and as a source."""

import hashlib
import os
import stat
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hrfr_fast.packing.chunks import FileReaders, Reader
from hrfr_fast.packing.sources.identity_source import NO_OPTIONS, IdentitySource, SourceOptions
from hrfr_fast.packing.sources.left_out import EXTENSIONS, LOOSE, PICTURE, LeftOut, holds_identities, kind_of
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.names import few, one_line
from hrfr_fast.runtime.words import counted


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
        return os.fsdecode(self.names[identity]).split("\0") if self.names[identity] else []

    def select(self, chosen: Sequence[int]) -> "Listing":
        """The listing of some identities alone, given by ascending number."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        part = Listing()
        for identity in chosen:
            span = slice(int(starts[identity]), int(starts[identity + 1]))
            part.add(self.identities[identity], self.names[identity], self.sizes[span], self.mtimes[span])
        return part

    def add(self, identity: str, names: bytes, sizes: "array[int]", mtimes: "array[int]") -> None:
        """Append one identity; the caller sorts."""
        self.identities.append(identity)
        self.names.append(names)
        self.counts.append(len(sizes))
        self.sizes.extend(sizes)
        self.mtimes.extend(mtimes)

    def warnings(self, split: str) -> list[str]:
        """What is not packed or gets no label, a sentence each; ``split``: how messages call the folder."""
        warnings = []
        empty = [one_line(name) for name, n in zip(self.identities, self.counts, strict=True) if not n]
        if empty:
            warnings.append(f"{split}: no label for {counted(len(empty), 'identity')} without pictures ({few(empty)})")
        return warnings + [f"{split}: {line}; they are not packed" for line in self.left_out.lines(split)]

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
        """One line a file, whatever characters its name has: identity/name, size, modification time."""
        entries = zip(self.sizes, self.mtimes, strict=True)
        for number, identity in enumerate(self.identities):
            for name in self.files(number):
                size, mtime = next(entries)
                yield f"{one_line(f'{identity}/{name}')}\t{size}\t{mtime}"


def list_split(root: Path) -> Listing:
    """List ``root/<identity>/<picture>``; what lies elsewhere is counted in ``left_out``.

    Raises:
        HrfrError: a folder that cannot be read.
        UsageError: no pictures at all, or most of them where they are not expected.
    """
    listing = Listing()
    try:
        for identity in _identities(root, listing.left_out):
            _list_identity(os.fspath(root), identity, listing)
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


def _list_identity(root: str, identity: str, listing: Listing) -> None:
    """Add the pictures of one identity to ``listing``."""
    found = []
    with opened_folder(f"{root}/{identity}") as folder, os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            try:
                status = entry.stat()  # by the open folder: one by its whole path takes a fifth longer
                file = name, status.st_size, status.st_mtime_ns
                is_folder = stat.S_ISDIR(status.st_mode)
            except OSError:  # a dangling link, say; reading it will give the reason
                file, is_folder = (name, -1, 0), False
            kind = kind_of(name)
            if kind == PICTURE and not is_folder:
                found.append(file)
                continue
            shown = f"{os.path.basename(root)}/{identity}/{name}"
            if is_folder:
                listing.left_out.add_below(Path(root, identity, name), shown)
            else:
                listing.left_out.add(kind, shown)
    # Sorted by their bytes, which ASCII names do as text; encoded together. Both are faster.
    ascii_names = "".join([name for name, _, _ in found]).isascii()
    found.sort(key=None if ascii_names else lambda file: os.fsencode(file[0]))
    names, sizes, mtimes = zip(*found, strict=True) if found else ((), (), ())
    listing.add(identity, os.fsencode("\0".join(names)), array("q", sizes), array("q", mtimes))


@contextmanager
def opened_folder(path: str) -> Iterator[int]:
    """The descriptor of a folder that is open meanwhile. Raises OSError with its path, also where that is raised for
    the descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    except OSError as error:
        if isinstance(error.filename, str):  # of what lies in it
            raise
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)


def _refuse_layout(root: Path, listing: Listing) -> None:
    """Raise UsageError: most pictures would be left out, as in a tree of another layout or one still in archives."""
    expected = f"{root.name}/<identity>/<picture>"
    left_out = "; ".join(listing.left_out.lines(root.name))
    if listing.left_out.pictures:
        raise UsageError(
            f"{root}: only {len(listing):,} of {len(listing) + listing.left_out.pictures:,} pictures lie where they are"
            f" expected, in {expected}: {left_out}. Move these there, or remove what is not wanted, and pack again"
        )
    found = f" ({left_out})" if left_out else ""
    raise UsageError(
        f"{root}: no pictures; expected {expected} with one of {' '.join(EXTENSIONS)}{found};"
        " remove the folder if the split is not wanted"
    )


class FolderSource(IdentitySource):
    """An ordinary folder of identities, ``<identity>/<picture>``; also a split of the study's tree."""

    format = "folder"
    title = "a folder of identities, each a folder of pictures"
    in_files = True

    def __init__(self, path: Path, options: SourceOptions = NO_OPTIONS, listing: Listing | None = None) -> None:
        """``listing``: of ``path``, where it is known already."""
        path = path if path.name else path.resolve()  # of ".", whose name is in messages
        if listing is None and not path.is_dir():
            raise UsageError(f"{path}: not a folder")
        self.listing = list_split(path) if listing is None else listing
        self.root, self.identities = path, self.listing.identities
        self.fingerprint, self.content = self.listing.fingerprint(times=True), self.listing.fingerprint(times=False)
        self.bytes_on_disk = int(np.maximum(np.asarray(self.listing.sizes), 0).sum())
        self.labels = np.repeat(np.arange(len(self.identities), dtype=np.int32), self.listing.counts)
        self.warnings = self.listing.warnings(path.name)
        self._starts = np.concatenate([[0], np.cumsum(self.listing.counts)]).astype(np.int64)
        self._files: tuple[int, list[str]] = (-1, [])

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return holds_identities(path)

    def names(self, indices: Sequence[int]) -> list[str]:
        identities = self.labels[np.asarray(indices, np.int64)]
        positions = np.asarray(indices, np.int64) - self._starts[identities]
        names = []
        for identity, position in zip(identities.tolist(), positions.tolist(), strict=True):
            if self._files[0] != identity:
                self._files = (identity, self.listing.files(identity))
            names.append(f"{self.identities[identity]}/{self._files[1][position]}")
        return names

    def readers(self, indices: Sequence[int]) -> Sequence[Reader]:
        return FileReaders(self.root, self.names(indices))

    def listing_lines(self) -> Iterator[str]:
        return self.listing.lines()

    def select(self, identities: Sequence[int]) -> "FolderSource":
        return FolderSource(self.root, listing=self.listing.select(identities))
