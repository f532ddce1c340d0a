"""Development pairs: pairs of identities that are taken out of a training split."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hrfr_fast.format.names import DEVELOPMENT, pair_shard
from hrfr_fast.packing.sources.identity_folders import Listing
from hrfr_fast.packing.sources.pair_lists import PathPairs
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import SPLIT_CHOICE, philox

PAIRS_AN_IDENTITY = 6
DRAWS = 100  # attempts to draw an impostor pair that was not drawn before


def choose_identities(listing: Listing, n: int, split: str) -> list[int]:
    """Numbers of the ``n`` identities taken out for development; each has at least two pictures.

    A pure function of the sorted names. Raises UsageError if less than half would be left for training.
    """
    eligible = [identity for identity, count in enumerate(listing.counts) if count >= 2]
    if n > len(eligible) or 2 * n > len(listing.identities):
        raise UsageError(
            f"--dev-identities {n}: {split} has {len(listing.identities)} identities ({len(eligible)} with two or more"
            " pictures) and at least half must be left for training"
        )
    words = philox(0, 0, np.array(eligible), purpose=SPLIT_CHOICE)[:, 0]
    return sorted(np.array(eligible)[np.argsort(words, kind="stable")[:n]].tolist())


def development_pairs(split: str, root: Path, listing: Listing, size: int) -> PathPairs:
    """Pairs among the identities of ``listing``: up to six genuine ones an identity, and as many impostor pairs."""
    paths: list[str] = []
    identities: list[int] = []
    same: list[bool] = []
    files = [listing.files(i) for i in range(len(listing.identities))]
    for identity, names in enumerate(files):
        combinations = list(itertools.combinations(names, 2))
        words = philox(0, 1 + identity, np.arange(len(combinations)), purpose=SPLIT_CHOICE)[:, 0]
        for pick in np.argsort(words, kind="stable")[:PAIRS_AN_IDENTITY].tolist():
            paths += [f"{listing.identities[identity]}/{name}" for name in combinations[pick]]
            identities += [identity, identity]
            same.append(True)
    for chosen in _impostors(files, identities[0::2]):
        for identity, name in chosen:
            paths.append(f"{listing.identities[identity]}/{name}")
            identities.append(identity)
        same.append(False)
    name = pair_shard(f"{DEVELOPMENT}{split}")
    return PathPairs(name, root, paths, np.array(same, bool), size, "development", np.array(identities, np.int32))


def _impostors(files: list[list[str]], first_of_each: list[int]) -> Iterator[list[tuple[int, str]]]:
    """A pair of two identities for each of ``first_of_each``, as (identity, file) twice; no pair is drawn twice.

    Spread over identities: each takes part as often as it does in genuine pairs.
    """
    n, drawn = len(files), set[frozenset[tuple[int, str]]]()
    for number, first in enumerate(first_of_each if n > 1 else []):
        for attempt in range(DRAWS):
            words = philox(0, number, attempt, purpose=SPLIT_CHOICE, view=1)
            second = (first + 1 + int(words[0]) % (n - 1)) % n
            chosen = [(i, files[i][int(word) % len(files[i])]) for i, word in ((first, words[1]), (second, words[2]))]
            if frozenset(chosen) not in drawn:
                drawn.add(frozenset(chosen))
                yield chosen
                break
