"""Who is on a pair's pictures: looked up among the splits, then linked by the labels as far as those do not contradict.

What is known (a picture found in an identity's folder) always wins: a label never makes one person of two known ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.pair_defects import PairDefects
from hrfr_fast.format.reader import Split
from hrfr_fast.packing.picture_matching import distinct, identical, match
from hrfr_fast.packing.request import TRAINING


@dataclass(frozen=True)
class Identities:
    """What was found out about one pair set.

    Attributes:
        clusters: int32 [2P], equal for pictures of one person; None if no picture was found anywhere.
        coverage: share of the pictures with a known identity, found or linked by a genuine pair, 0..1.
        overlap: training split -> how many of the 2P pictures are in it; no entry for a split of another picture size
            that no file lies in.
        shown: training split -> bool [2P], whether a picture shows one of its identities.
        found: how many of the 2P pictures are in any split, as they are.
        defects: contradictions, identical pictures, repeated pairs, exchanged channels.
    """

    clusters: NDArray[np.int32] | None
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
        placed: for each of the 2P pictures ``<split>/<identity>`` where the place of its file tells who it is; None:
            no place is known.
    """
    kinds, firsts = distinct(pairs)
    facts, exchanged = _facts(pairs, kinds, firsts, splits, placed)
    people = _People(len(firsts), facts)
    pair_kinds = kinds.reshape(-1, 2)
    known = people.of_pictures()
    surely_one = (known[pair_kinds[:, 0]] == known[pair_kinds[:, 1]]) & people.identified()[pair_kinds].all(axis=1)
    refused = people.link(pair_kinds[same])
    roots, identified = people.of_pictures(), people.identified()
    linked = roots[pair_kinds[:, 0]] == roots[pair_kinds[:, 1]]
    alike = identical(pairs)
    looked_into = {name for name in splits if splits[name].size == pairs.size} | {split for _, split in facts}
    trained = {
        name: {f"{name}/{identity}" for identity in splits[name].identity_names}
        for name in TRAINING
        if name in splits and name in looked_into
    }
    shown = {name: people.among(names)[kinds] for name, names in trained.items()}
    defects = PairDefects(
        same_known_different=refused,
        different_known_same=int((~same & ~alike & surely_one).sum()),
        labels_disagree=int((~same & ~alike & ~surely_one & linked).sum()),
        identical_genuine=int((same & alike).sum()),
        identical_impostor=int((~same & alike).sum()),
        repeated=len(pair_kinds) - len(np.unique(np.sort(pair_kinds, axis=1), axis=0)),
        swapped_channels=int(exchanged[kinds].sum()),
        identity_overlap={name: int(one.sum()) for name, one in shown.items()},
    )
    return Identities(
        clusters=_numbered(roots[kinds]) if identified.any() else None,
        coverage=float(identified[kinds].mean()),
        overlap={name: _pictures(kinds, facts, names) for name, names in trained.items()},
        shown=shown,
        found=_pictures(kinds, facts, None),
        defects=defects,
    )


Facts = dict[tuple[int, str], str]
"""(distinct picture, split) -> ``<split>/<identity>``."""


def _facts(
    pairs: Split,
    kinds: NDArray[np.int64],
    firsts: NDArray[np.int64],
    splits: Mapping[str, Split],
    placed: Sequence[str | None] | None,
) -> tuple[Facts, NDArray[np.bool_]]:
    """What is known of the distinct pictures, and bool [D]: found only with red and blue exchanged.

    Where a split holds a picture twice, the place of its file decides between the two identities.
    """
    facts: Facts = {}
    for kind, place in zip(kinds.tolist(), placed or [None] * len(kinds), strict=True):
        if place is not None:
            facts.setdefault((kind, place.split("/")[0]), place)
    exchanged = np.zeros(len(firsts), bool)
    for name, split in splits.items():
        if split.size == pairs.size:
            record, swapped = match(pairs, firsts, split)
            exchanged |= swapped >= 0
            for kind in np.flatnonzero(record >= 0).tolist():
                identity = split.identity_names[int(split.labels[record[kind]])]
                facts.setdefault((kind, name), f"{name}/{identity}")
    exchanged[[kind for kind, _ in facts]] = False
    return facts, exchanged


def _pictures(kinds: NDArray[np.int64], facts: Facts, names: set[str] | None) -> int:
    """How many pictures are known to be of the identities ``names``, or of any."""
    chosen = np.unique([kind for (kind, _), name in facts.items() if names is None or name in names])
    return int(np.isin(kinds, chosen).sum())


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int32]:
    """0, 1, 2, ... in the order of first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[inverse]


class _People:
    """Union-find over distinct pictures and identities: a picture's group is its person.

    A picture that is in two splits makes one person of the identities it has there.
    """

    def __init__(self, pictures: int, facts: Facts) -> None:
        self._pictures = pictures
        self._nodes = {name: pictures + i for i, name in enumerate(sorted(set(facts.values())))}
        self._parent = list(range(pictures + len(self._nodes)))
        self._known = [node >= pictures for node in self._parent]  # of the roots alone
        for (kind, _), name in facts.items():
            self._join(kind, self._nodes[name])

    def link(self, genuine: NDArray[np.int64]) -> int:
        """Join the two pictures of each pair (int64 [G, 2]) in order; returns how many would join two known people."""
        refused = 0
        for a, b in genuine.tolist():
            one, other = self._root(a), self._root(b)
            if one != other and self._known[one] and self._known[other]:
                refused += 1
            else:
                self._join(one, other)
        return refused

    def of_pictures(self) -> NDArray[np.int64]:
        """int64 [D]: the group of each picture."""
        return np.array([self._root(i) for i in range(self._pictures)], np.int64)

    def identified(self) -> NDArray[np.bool_]:
        """bool [D]: whether it is known who a picture shows."""
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
