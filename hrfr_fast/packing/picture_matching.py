"""Search for equal pictures: the two of a pair, and the pictures of a pair set in a split.

Pictures are equal when no pixel value differs by more than :data:`TOLERANCE` (another JPEG decoder, rounding through
floats). The nearest picture is found by its block means, with a matrix product; its pixels then decide.
"""

import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 2  # of pixel values 0..255
BLOCKS = 6  # block means: 6 x 6 x 3 a picture
READ, GALLERY, QUERIES = 256, 4096, 1024  # pictures decoded, searched, and looked for at a time


class PictureTable(Protocol):
    """Pictures of one size that are read by number: a packed split, or others decoded on the way."""

    @property
    def size(self) -> int:
        """Width and height in pixels."""

    @property
    def samples(self) -> int:
        """How many there are."""

    def read(self, records: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [n, size, size, 3] RGB."""

    def free_pages(self) -> None:
        """Give back memory that reading has mapped."""


def _read(split: PictureTable, records: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The pictures of ``records`` in parts of ``READ``, each with the position of its first picture."""
    for first in range(0, len(records), READ):
        yield first, split.read(records[first : first + READ])
        split.free_pages()


def distinct(pairs: PictureTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct pictures of ``pairs``: number of each picture's, int64 [2P], and first record of each, int64 [D]."""
    seen: dict[bytes, int] = {}
    numbers, records = [], []
    for start, pictures in _read(pairs, np.arange(pairs.samples)):
        for i, picture in enumerate(pictures):
            key = hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
            if key not in seen:
                seen[key] = len(seen)
                records.append(start + i)
            numbers.append(seen[key])
    return np.array(numbers, np.int64), np.array(records, np.int64)


def _signatures(split: PictureTable, records: NDArray[np.int64]) -> NDArray[np.float32]:
    """Block means around mid-grey, float32 [n, BLOCKS * BLOCKS * 3]."""
    edges = np.linspace(0, split.size, BLOCKS + 1).astype(int)[:-1] if split.size >= BLOCKS else np.arange(split.size)
    areas = np.diff([*edges, split.size])
    signatures = []
    for _, pictures in _read(split, records):
        rows = np.add.reduceat(pictures, edges, axis=1, dtype=np.float32)
        sums = np.add.reduceat(rows, edges, axis=2, dtype=np.float32)
        means = sums / (areas[:, None, None] * areas[None, :, None]).astype(np.float32)
        signatures.append(means.reshape(len(pictures), -1) - np.float32(128))
    return np.concatenate(signatures)


def identical(pairs: PictureTable) -> NDArray[np.bool_]:
    """bool [P]: whether the two pictures of a pair are equal, or one equals the other's mirror image.

    A mirror image has the embedding of the picture itself, which is the sum over both.
    """
    found = []
    for _, pictures in _read(pairs, np.arange(pairs.samples)):
        first, second = pictures[0::2], pictures[1::2]
        found.append(_within_tolerance(first, second) | _within_tolerance(first, second[:, :, ::-1]))
    return np.concatenate(found)


def match(
    pairs: PictureTable, records: NDArray[np.int64], split: PictureTable
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of the pictures ``records`` (int64 [D]) of ``pairs`` the equal one in ``split``, -1 for none.

    Returns:
        Two int64 [D], record numbers: for the pictures as they are, and with red and blue exchanged.
    """
    queries = _signatures(pairs, records)
    exchanged = queries.reshape(len(records), -1, 3)[:, :, ::-1].reshape(queries.shape)
    nearest, distance = _nearest(np.concatenate([queries, exchanged]), split)
    # Block means of equal pictures are within the tolerance, too; the 1 allows for the rounding of float32.
    near = (distance <= TOLERANCE**2 * queries.shape[1] + 1).reshape(2, -1)
    nearest = nearest.reshape(2, -1)
    found = [np.full(len(records), -1, np.int64) for _ in range(2)]
    for order in range(2):
        close = np.flatnonzero(near[order])
        for first, pictures in _read(pairs, records[close]):
            chosen = close[first : first + READ]
            equal = _within_tolerance(pictures[..., ::-1] if order else pictures, split.read(nearest[order, chosen]))
            found[order][chosen[equal]] = nearest[order, chosen[equal]]
            split.free_pages()
    return found[0], found[1]


def _nearest(queries: NDArray[np.float32], split: PictureTable) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each query the record of ``split`` with the nearest signature, and the squared distance to it."""
    best = np.full(len(queries), np.inf, np.float32)
    nearest = np.full(len(queries), -1, np.int64)
    for start in range(0, split.samples, GALLERY):
        gallery = _signatures(split, np.arange(start, min(start + GALLERY, split.samples)))
        norms = np.einsum("ij,ij->i", gallery, gallery)
        for first in range(0, len(queries), QUERIES):
            part = slice(first, first + QUERIES)
            distances = norms - 2 * (queries[part] @ gallery.T)  # + |query|^2, which is the same for all
            closest = distances.argmin(axis=1)
            distance = distances[np.arange(len(closest)), closest]
            better = distance < best[part]
            best[part] = np.where(better, distance, best[part])
            nearest[part] = np.where(better, closest + start, nearest[part])
    return nearest, best + np.einsum("ij,ij->i", queries, queries)


def _within_tolerance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool [n]: whether two pictures, uint8 [n, S, S, 3], are equal within the tolerance."""
    difference = np.maximum(a, b) - np.minimum(a, b)
    return np.asarray(difference.reshape(len(a), -1).max(axis=1) <= TOLERANCE)
