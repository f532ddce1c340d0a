"""Who is on a pair's pictures, where nobody wrote it down: look every picture up among the splits.

A picture counts as found when no pixel differs by more than :data:`TOLERANCE` levels (a second JPEG decoder, rounding
through floats). Candidates come from block means, the nearest by one matrix product a block; the pixels then decide.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.data.shards import Split

TOLERANCE = 2  # levels of 0..255
BLOCKS = 6  # block means: 6 x 6 x 3 a picture
READ, GALLERY = 256, 4096  # pictures decoded, and compared, at a time


@dataclass(frozen=True)
class Identities:
    """What matching found out about one pair set.

    Attributes:
        clusters: int32 [2P], equal for pictures of one person; None if no picture was found anywhere.
        coverage: share of the pictures with a known identity, found or linked by a genuine pair, 0..1.
        found: split -> how many of the 2P pictures are in it.
        contradictions: impostor pairs whose two pictures turn out to be one identity.
    """

    clusters: NDArray[np.int32] | None
    coverage: float
    found: dict[str, int]
    contradictions: int


def recover(pairs: Split, same: NDArray[np.bool_], splits: Mapping[str, Split]) -> Identities:
    """Identities of the pictures of ``pairs`` (2P records) by way of ``splits`` of the same picture size."""
    kinds, firsts = _distinct(pairs)
    matches = {name: _match(pairs, firsts, split) for name, split in splits.items() if split.size == pairs.size}
    known: list[tuple[str, int] | None] = [None] * len(firsts)
    for name, match in matches.items():
        for picture in np.flatnonzero(match >= 0).tolist():
            known[picture] = known[picture] or (name, int(splits[name].labels[match[picture]]))
    groups = _Groups(len(firsts))
    for a, b in kinds.reshape(-1, 2)[same].tolist():
        groups.join(a, b)
    by_identity: dict[tuple[str, int], int] = {}
    for picture, identity in enumerate(known):
        if identity is not None:
            groups.join(picture, by_identity.setdefault(identity, picture))
    roots = np.array([groups.root(i) for i in range(len(firsts))])
    identified = np.isin(roots, [roots[i] for i, identity in enumerate(known) if identity is not None])
    of_picture = roots[kinds]
    contradictions = int((of_picture.reshape(-1, 2)[~same][:, 0] == of_picture.reshape(-1, 2)[~same][:, 1]).sum())
    clusters = _numbered(of_picture) if identified.any() else None
    found = {name: int((match[kinds] >= 0).sum()) for name, match in matches.items()}
    return Identities(clusters, float(identified[kinds].mean()), found, contradictions)


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int32]:
    """0, 1, 2, ... in the order of first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[inverse]


class _Groups:
    """Union-find; the smallest member stands for a group."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        self._parent[max(a, b)] = min(a, b)


def _blocks_of(split: Split, records: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for first in range(0, len(records), READ):
        yield first, split.read(records[first : first + READ])
        split.release()


def _distinct(pairs: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(number of each picture among the distinct ones [2P], a record of each distinct one)."""
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


def _match(pairs: Split, firsts: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """For each of the pictures ``firsts`` the record of ``split`` that shows the same, -1 for none."""
    queries = _signatures(pairs, firsts)
    best = np.full(len(firsts), np.inf, np.float32)
    nearest = np.full(len(firsts), -1, np.int64)
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
    squared = best + np.einsum("ij,ij->i", queries, queries)
    # Means of pixels within the tolerance are within the tolerance; the slack is float32's.
    close = np.flatnonzero(squared <= TOLERANCE**2 * queries.shape[1] + 1)
    match = np.full(len(firsts), -1, np.int64)
    for first in range(0, len(close), READ):
        chosen = close[first : first + READ]
        a, b = pairs.read(firsts[chosen]), split.read(nearest[chosen])
        difference = np.maximum(a, b) - np.minimum(a, b)
        equal = difference.reshape(len(chosen), -1).max(axis=1) <= TOLERANCE
        match[chosen[equal]] = nearest[chosen[equal]]
        pairs.release()
        split.release()
    return match
