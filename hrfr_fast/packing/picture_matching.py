"""Which pictures are the same: those of a pair, and those of a pair set among the pictures of a split.

A picture counts as found when no pixel differs by more than :data:`TOLERANCE` levels (a second JPEG decoder, rounding
through floats). Candidates come from block means, the nearest by one matrix product a block; the pixels then decide.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split

TOLERANCE = 2  # levels of 0..255
BLOCKS = 6  # block means: 6 x 6 x 3 a picture
READ, GALLERY = 256, 4096  # pictures decoded, and compared, at a time


def _blocks_of(split: Split, records: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for first in range(0, len(records), READ):
        yield first, split.read(records[first : first + READ])
        split.release()


def distinct(pairs: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of each picture among the distinct ones, int64 [2P], and a record of each distinct one, int64 [D]."""
    seen: dict[bytes, int] = {}
    kinds, firsts = [], []
    for start, pictures in _blocks_of(pairs, np.arange(pairs.samples)):
        for i, picture in enumerate(pictures):
            key = hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
            if key not in seen:
                seen[key] = len(seen)
                firsts.append(start + i)
            kinds.append(seen[key])
    return np.array(kinds, np.int64), np.array(firsts, np.int64)


def _signatures(split: Split, records: NDArray[np.int64]) -> NDArray[np.float32]:
    """Block means around mid-grey, float32 [n, BLOCKS * BLOCKS * 3]."""
    edges = np.linspace(0, split.size, BLOCKS + 1).astype(int)[:-1] if split.size >= BLOCKS else np.arange(split.size)
    areas = np.diff([*edges, split.size])
    out = []
    for _, pictures in _blocks_of(split, records):
        rows = np.add.reduceat(pictures, edges, axis=1, dtype=np.float32)
        sums = np.add.reduceat(rows, edges, axis=2, dtype=np.float32)
        means = sums / (areas[:, None, None] * areas[None, :, None]).astype(np.float32)
        out.append(means.reshape(len(pictures), -1) - np.float32(128))
    return np.concatenate(out)


def identical(pairs: Split) -> NDArray[np.bool_]:
    """bool [P]: whether the two pictures of a pair are one within the tolerance, or one is the other's mirror image.

    A mirror image embeds as the picture itself does: an embedding is the sum over both sides.
    """
    out = []
    for _, pictures in _blocks_of(pairs, np.arange(pairs.samples)):
        first, second = pictures[0::2], pictures[1::2]
        out.append(_within_tolerance(first, second) | _within_tolerance(first, second[:, :, ::-1]))
    return np.concatenate(out)


def match(pairs: Split, firsts: NDArray[np.int64], split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of the pictures ``firsts`` (int64 [D]) the record of ``split`` that shows the same, -1 for none.

    Returns:
        Two int64 [D]: of the pictures as they are, and with red and blue exchanged.
    """
    queries = _signatures(pairs, firsts)
    exchanged = queries.reshape(len(firsts), -1, 3)[:, :, ::-1].reshape(queries.shape)
    nearest, distance = _nearest(np.concatenate([queries, exchanged]), split)
    # Means of pixels within the tolerance are within the tolerance; the slack is float32's.
    near = (distance <= TOLERANCE**2 * queries.shape[1] + 1).reshape(2, -1)
    record = nearest.reshape(2, -1)
    found = [np.full(len(firsts), -1, np.int64) for _ in range(2)]
    for order in range(2):
        close = np.flatnonzero(near[order])
        for first in range(0, len(close), READ):
            chosen = close[first : first + READ]
            pictures = pairs.read(firsts[chosen])
            equal = _within_tolerance(pictures[..., ::-1] if order else pictures, split.read(record[order, chosen]))
            found[order][chosen[equal]] = record[order, chosen[equal]]
            pairs.release()
            split.release()
    return found[0], found[1]


def _nearest(queries: NDArray[np.float32], split: Split) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each query the record of ``split`` with the nearest signature, and the squared distance to it."""
    best = np.full(len(queries), np.inf, np.float32)
    nearest = np.full(len(queries), -1, np.int64)
    for start in range(0, split.samples, GALLERY):
        gallery = _signatures(split, np.arange(start, min(start + GALLERY, split.samples)))
        norms = np.einsum("ij,ij->i", gallery, gallery)
        for first in range(0, len(queries), 1024):
            part = slice(first, first + 1024)
            distances = norms - 2 * (queries[part] @ gallery.T)  # + |query|^2, which changes no comparison
            winner = distances.argmin(axis=1)
            distance = distances[np.arange(len(winner)), winner]
            better = distance < best[part]
            best[part] = np.where(better, distance, best[part])
            nearest[part] = np.where(better, winner + start, nearest[part])
    return nearest, best + np.einsum("ij,ij->i", queries, queries)


def _within_tolerance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool [n]: whether no pixel of two pictures, uint8 [n, S, S, 3], differs by more than the tolerance."""
    difference = np.maximum(a, b) - np.minimum(a, b)
    return np.asarray(difference.reshape(len(a), -1).max(axis=1) <= TOLERANCE)
