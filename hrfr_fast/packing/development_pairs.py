"""Development pairs: pairs of identities that are taken out of a training split."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.names import DEVELOPMENT, pair_shard
from hrfr_fast.packing.sources.candidates import PairCandidates
from hrfr_fast.packing.sources.identity_source import IdentitySource
from hrfr_fast.packing.sources.pair_lists import PathPairs
from hrfr_fast.packing.sources.source_candidates import SourcePairs
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import SPLIT_CHOICE, philox

PAIRS_AN_IDENTITY = 6
DRAWS = 100  # attempts to draw an impostor pair that was not drawn before
MOST_PICTURES = 1000
"""Of an identity that genuine pairs are drawn from, evenly spread: the number of pairs grows with its square."""


def choose_identities(source: IdentitySource, n: int, split: str) -> list[int]:
    """Numbers of the ``n`` identities taken out for development; each has at least two pictures.

    A pure function of the sorted names. Raises UsageError if less than half would be left for training.
    """
    counts = np.bincount(source.labels, minlength=len(source.identities))
    eligible = np.flatnonzero(counts >= 2)
    if n > len(eligible) or 2 * n > len(counts):
        raise UsageError(
            f"--dev-identities {n}: {split} has {len(counts)} identities ({len(eligible)} with two or more"
            " pictures) and at least half must be left for training"
        )
    words = philox(0, 0, eligible, purpose=SPLIT_CHOICE)[:, 0]
    return sorted(eligible[np.argsort(words, kind="stable")[:n]].tolist())


def development_pairs(split: str, source: IdentitySource, size: int) -> PairCandidates:
    """Pairs among the identities of ``source``: up to six genuine ones an identity, and as many impostor pairs."""
    order = np.argsort(source.labels, kind="stable")
    counts = np.bincount(source.labels, minlength=len(source.identities))
    pictures_of = np.split(order, np.cumsum(counts)[:-1])
    pictures: list[int] = []
    genuine: list[int] = []  # identity of each pair
    for identity, own in enumerate(pictures_of):
        pairs = _genuine_pairs(identity, own)
        pictures += pairs.ravel().tolist()
        genuine += [identity] * len(pairs)
    impostors = np.array(list(_impostors(pictures_of, genuine)), np.int64).ravel()
    pictures += impostors.tolist()
    same = np.arange(len(pictures) // 2) < len(genuine)
    identities = source.labels[np.array(pictures, np.int64)].astype(np.int32)
    name = pair_shard(f"{DEVELOPMENT}{split}")
    if source.in_files:
        return PathPairs(name, source.root, source.names(pictures), same, size, "development", identities)
    return SourcePairs(name, source, pictures, same, size, identities)


def _genuine_pairs(identity: int, pictures: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [n, 2]: up to six pairs of the ``pictures`` of one identity."""
    if len(pictures) > MOST_PICTURES:
        pictures = pictures[np.linspace(0, len(pictures) - 1, MOST_PICTURES).astype(np.int64)]
    first, second = np.triu_indices(len(pictures), 1)
    words = philox(0, 1 + identity, np.arange(len(first)), purpose=SPLIT_CHOICE)[:, 0]
    chosen = np.argsort(words, kind="stable")[:PAIRS_AN_IDENTITY]
    return np.stack([pictures[first[chosen]], pictures[second[chosen]]], axis=1)


def _impostors(pictures_of: list[NDArray[np.int64]], first_of_each: list[int]) -> Iterator[tuple[int, int]]:
    """A pair of pictures of two identities for each of ``first_of_each``; no pair is drawn twice.

    Spread over identities: each takes part as often as it does in genuine pairs.
    """
    n, drawn = len(pictures_of), set[frozenset[int]]()
    for number, first in enumerate(first_of_each if n > 1 else []):
        for attempt in range(DRAWS):
            words = philox(0, number, attempt, purpose=SPLIT_CHOICE, view=1)
            second = (first + 1 + int(words[0]) % (n - 1)) % n
            sides = ((pictures_of[first], words[1]), (pictures_of[second], words[2]))
            one, other = (int(own[int(word) % len(own)]) for own, word in sides)
            if frozenset((one, other)) not in drawn:
                drawn.add(frozenset((one, other)))
                yield one, other
                break
