"""Identity linking: the people in a pair set, found by looking its pictures up in the splits and following its labels.

A known identity (the folder in which the picture was found) always wins: a label never joins two known people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.names import TRAINING
from hrfr_fast.format.pair_defects import PairDefects
from hrfr_fast.format.reader import Split
from hrfr_fast.packing.picture_matching import distinct, identical, match


@dataclass(frozen=True)
class Identities:
    """Identities of the pictures of a pair set, their overlap with training, and its defects.

    Attributes:
        people: int32 [2P], equal for pictures of one person; None if no picture was found anywhere.
        coverage: share of the pictures with a known identity, found or linked by a genuine pair, 0..1.
        overlap: training split -> how many of the 2P pictures are in it; no entry for a split of another picture size
            that no file lies in.
        shown: training split -> bool [2P], whether a picture shows one of its identities.
        found: how many of the 2P pictures are in any split, as they are.
        defects: contradictory labels, identical pictures, repeated pairs, exchanged channels.
    """

    people: NDArray[np.int32] | None
    coverage: float
    overlap: dict[str, int]
    shown: dict[str, NDArray[np.bool_]]
    found: int
    defects: PairDefects


def recover(
    pairs: Split, same: NDArray[np.bool_], splits: Mapping[str, Split], placed: Sequence[str | None] | None = None
) -> Identities:
    """Identities of the pictures of ``pairs`` (2P records), labelled ``same`` (bool [P]).

    Args:
        splits: where to look; those of another picture size hold none of the pictures.
        placed: ``<split>/<identity>`` of each of the 2P pictures, by the place of its file, None where that tells
            nothing.
    """
    numbers, records = distinct(pairs)
    known, exchanged = _known_identities(pairs, numbers, records, splits, placed)
    people = _People(len(records), known)
    both = numbers.reshape(-1, 2)
    found = people.of_pictures()
    known_same = (found[both[:, 0]] == found[both[:, 1]]) & people.identified()[both].all(axis=1)
    contradictory = people.link(both[same])
    roots, identified = people.of_pictures(), people.identified()
    linked = roots[both[:, 0]] == roots[both[:, 1]]
    alike = identical(pairs)
    searched = {name for name in splits if splits[name].size == pairs.size} | {split for _, split in known}
    trained = {
        name: {f"{name}/{identity}" for identity in splits[name].identity_names}
        for name in TRAINING
        if name in splits and name in searched
    }
    shown = {name: people.among(names)[numbers] for name, names in trained.items()}
    defects = PairDefects(
        same_known_different=contradictory,
        different_known_same=int((~same & ~alike & known_same).sum()),
        labels_disagree=int((~same & ~alike & ~known_same & linked).sum()),
        identical_genuine=int((same & alike).sum()),
        identical_impostor=int((~same & alike).sum()),
        repeated=len(both) - len(np.unique(np.sort(both, axis=1), axis=0)),
        swapped_channels=int(exchanged[numbers].sum()),
        identity_overlap={name: int(pictures.sum()) for name, pictures in shown.items()},
    )
    return Identities(
        people=_numbered(roots[numbers]) if identified.any() else None,
        coverage=float(identified[numbers].mean()),
        overlap={name: _count_pictures(numbers, known, names) for name, names in trained.items()},
        shown=shown,
        found=_count_pictures(numbers, known, None),
        defects=defects,
    )


KnownIdentities = dict[tuple[int, str], str]
"""(number of a distinct picture, split) -> ``<split>/<identity>``."""


def _known_identities(
    pairs: Split,
    numbers: NDArray[np.int64],
    records: NDArray[np.int64],
    splits: Mapping[str, Split],
    placed: Sequence[str | None] | None,
) -> tuple[KnownIdentities, NDArray[np.bool_]]:
    """Identities of the distinct pictures, and bool [D]: found only with red and blue exchanged.

    Where a split holds a picture twice, the place of its file decides between the two identities.
    """
    known: KnownIdentities = {}
    for number, place in zip(numbers.tolist(), placed or [None] * len(numbers), strict=True):
        if place is not None:
            known.setdefault((number, place.split("/")[0]), place)
    exchanged = np.zeros(len(records), bool)
    for name, split in splits.items():
        if split.size == pairs.size:
            equal, swapped = match(pairs, records, split)
            exchanged |= swapped >= 0
            for number in np.flatnonzero(equal >= 0).tolist():
                identity = split.identity_names[int(split.labels[equal[number]])]
                known.setdefault((number, name), f"{name}/{identity}")
    exchanged[[number for number, _ in known]] = False
    return known, exchanged


def _count_pictures(numbers: NDArray[np.int64], known: KnownIdentities, names: set[str] | None) -> int:
    """How many pictures are known to show one of the identities ``names``, or any for None."""
    chosen = np.unique([number for (number, _), name in known.items() if names is None or name in names])
    return int(np.isin(numbers, chosen).sum())


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int32]:
    """0, 1, 2, ... in the order of first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[inverse]


class _People:
    """Union-find over distinct pictures and known identities; a group is a person.

    A picture that is in two splits joins the identities that it has there.
    """

    def __init__(self, pictures: int, known: KnownIdentities) -> None:
        self._pictures = pictures
        self._nodes = {name: pictures + number for number, name in enumerate(sorted(set(known.values())))}
        self._parent = list(range(pictures + len(self._nodes)))
        self._known = [node >= pictures for node in self._parent]  # of the roots alone
        for (number, _), name in known.items():
            self._join(number, self._nodes[name])

    def link(self, genuine: NDArray[np.int64]) -> int:
        """Join the two pictures of each pair (int64 [G, 2]) in order; returns how many would join two known people."""
        contradictory = 0
        for first, second in genuine.tolist():
            a, b = self._root(first), self._root(second)
            if a != b and self._known[a] and self._known[b]:
                contradictory += 1
            else:
                self._join(a, b)
        return contradictory

    def of_pictures(self) -> NDArray[np.int64]:
        """int64 [D]: the group of each picture."""
        return np.array([self._root(i) for i in range(self._pictures)], np.int64)

    def identified(self) -> NDArray[np.bool_]:
        """bool [D]: whether the identity of a picture is known."""
        return np.array([self._known[root] for root in self.of_pictures().tolist()], bool)

    def among(self, names: set[str]) -> NDArray[np.bool_]:
        """bool [D]: whether a picture shows one of the identities ``names``."""
        roots = [self._root(node) for name, node in self._nodes.items() if name in names]
        return np.isin(self.of_pictures(), roots)

    def _root(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def _join(self, a: int, b: int) -> None:
        a, b = self._root(a), self._root(b)
        self._parent[max(a, b)] = min(a, b)
        self._known[min(a, b)] = self._known[a] or self._known[b]
