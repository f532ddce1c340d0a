"""Pictures as input of an embedder: listed in a fixed order, decoded, framed by the one definition of resampling."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.base import refuse_damaged
from hrfr_fast.format import manifest
from hrfr_fast.format.reader import Split, open_packed
from hrfr_fast.packing.decode import decode_whole
from hrfr_fast.packing.picture_files import Rejected, read_file
from hrfr_fast.packing.sources.left_out import EXTENSIONS, FORMAT, PICTURE
from hrfr_fast.preparation.photographs import pictures_below
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line
from hrfr_fast.runtime.untrusted import lines_of
from hrfr_fast.sampling.augmentation import no_augmentation

SMALLEST_SIDE = 8  # pixels
LARGEST_ASPECT = 2  # of width and height: what is longer shows more than a face
Decoded = NDArray[np.uint8] | Rejected


class Pictures(Protocol):
    """Pictures in a fixed order, each with a name."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What the results call picture ``number``."""

    def decoded(self, numbers: range, threads: ThreadPoolExecutor) -> list[Decoded]:
        """Each as uint8 [H, W, 3] RGB, or the reason why there are no pixels."""

    def digest(self) -> str:
        """A digest that differs where names, order or contents do."""


class PictureFiles:
    """Picture files: given by name, found in folders (recursively, sorted) or listed in text files.

    Args:
        paths: pictures, folders (links in them are followed, hidden files and folders left out), and ``.txt`` or
            ``.lst`` files with one path a line, relative to the file's folder; what follows a tab is ignored.

    Raises:
        UsageError: a path that does not exist, or no picture anywhere.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [file for path in paths for file in _files(Path(path))]
        if not self.paths:
            raise UsageError(f"{few([str(path) for path in paths])}: no pictures ({', '.join(EXTENSIONS)})")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        return one_line(self.paths[number])

    def decoded(self, numbers: range, threads: ThreadPoolExecutor) -> list[Decoded]:
        return list(threads.map(self._decoded, numbers))

    def _decoded(self, number: int) -> Decoded:
        try:
            image = decode_whole(read_file(self.paths[number]))
        except Rejected as reason:
            return reason
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return Rejected(f"no face-sized picture: {width}x{height} pixels, at least {SMALLEST_SIDE} are needed")
        if max(height, width) > LARGEST_ASPECT * min(height, width):
            return Rejected(f"no face-sized picture: {width}x{height} pixels are far from a square")
        return image

    def digest(self) -> str:
        """Of names, sizes and modification times."""
        digest = hashlib.sha256()
        for path in self.paths:
            try:
                status = os.stat(path)
                facts = b"%d %d" % (status.st_size, status.st_mtime_ns)
            except OSError:  # decoding says why
                facts = b"-"
            digest.update(b"%s\0%s\0" % (os.fsencode(path), facts))
        return digest.hexdigest()


class PackedPictures:
    """The pictures of a packed directory, split after split. Raises UsageError for a split that is not there."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        packed = open_packed(path)
        if split is not None and split not in packed.splits:
            raise UsageError(f"{path}: there is no split {split!r}; there are {', '.join(packed.splits)}")
        self.splits: list[Split] = [one for name, one in packed.splits.items() if split in (None, name)]
        if not self.splits:
            raise UsageError(f"{path}: it holds no splits")
        self._starts = np.cumsum([0, *(one.samples for one in self.splits)])
        self._digest = packed.digest

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, number: int) -> tuple[Split, int]:
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.splits[place], number - int(self._starts[place])

    def name(self, number: int) -> str:
        """``split/identity/record``."""
        split, record = self._place(number)
        return one_line(f"{split.name}/{split.identity_names[split.labels[record]]}/{record:06d}")

    def decoded(self, numbers: range, threads: ThreadPoolExecutor) -> list[Decoded]:
        """Raises DamageFound where a record is damaged."""
        return list(threads.map(self._decoded, numbers))

    def _decoded(self, number: int) -> NDArray[np.uint8]:
        split, record = self._place(number)
        refuse_damaged(split, np.array([record]))
        return np.asarray(split.read(record)[0])

    def digest(self) -> str:
        names = " ".join(split.name for split in self.splits)
        return hashlib.sha256(f"{self._digest} {names}".encode()).hexdigest()


def open_pictures(paths: Sequence[str | Path], split: str | None = None) -> Pictures:
    """The pictures at ``paths``: one packed directory, or pictures, folders and lists.

    Raises:
        UsageError: a path that does not exist, a packed directory among others, ``split`` without one.
    """
    packed = [Path(path) for path in paths if (Path(path) / manifest.NAME).is_file()]
    if not packed:
        if split is not None:
            raise UsageError("--split names a part of a packed directory, and none is given")
        return PictureFiles(paths)
    if len(paths) > 1:
        raise UsageError(f"{packed[0]} is a packed directory: give it alone")
    return PackedPictures(packed[0], split)


def _files(path: Path) -> Iterator[str]:
    if path.is_dir():
        # Formats that are not read, too: each is listed with this reason among the rejected.
        yield from (os.path.join(path, name) for name in pictures_below(path, (PICTURE, FORMAT)))
    elif not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    elif path.suffix.lower() in (".txt", ".lst"):
        yield from _listed(path)
    else:
        yield str(path)


def _listed(path: Path) -> Iterator[str]:
    """The paths in a text file. Raises UsageError naming the line that names nothing."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        try:
            for number, line in enumerate(lines_of(file), 1):
                name = line.rstrip("\r\n").partition("\t")[0].strip()
                if not name:
                    continue
                if "\0" in name or not (place := path.parent / name).exists():
                    raise UsageError(f"{path}: line {number}: {one_line(name[:200])!r} does not exist")
                yield str(place)
        except ValueError as error:
            raise UsageError(f"{path}: no list of pictures: {error}") from None


def framed_batch(images: Sequence[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """The centre square of each picture, uint8 [H, W, 3], resampled to [size, size, 3]: uint8 [n, size, size, 3].

    Pictures of one size are resampled together.
    """
    from hrfr_fast.resampling.cpu import resample  # numba: 0.5 s to import

    squares = [_centre_square(image) for image in images]
    sides = np.array([len(square) for square in squares])
    out = np.empty((len(images), size, size, 3), np.uint8)
    for side in np.unique(sides).tolist():
        rows = np.flatnonzero(sides == side)
        if side == size:
            for row in rows:
                out[row] = squares[row]
            continue
        data = np.concatenate([squares[row].reshape(-1) for row in rows])
        offsets = np.arange(len(rows), dtype=np.int64) * (side * side * 3)
        resample(data, offsets, side, no_augmentation(len(rows)), out, rows)
    return out


def _centre_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]
