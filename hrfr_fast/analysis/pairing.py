"""Pairs of pictures and a split into halves, made from identities rather than read from a packed pair set."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.maps import unit
from hrfr_fast.runtime.errors import UsageError

MOST_GENUINE = 20_000


class IdentityPairs(NamedTuple):
    """P pairs of pictures: all genuine ones (or a random 20,000 of them) and as many impostor pairs."""

    first: NDArray[np.int64]
    """[P]: record of the picture."""
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    identities: NDArray[np.int32]
    """[2P]: those of pair i at 2i and 2i + 1."""

    def cosines(self, first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
        """Cosine of every pair, float64 [P]; the pictures' embeddings in two spaces or views, each [N, D]."""
        a, b = unit(first)[self.first], unit(second)[self.second]
        return np.einsum("pd,pd->p", a, b)


def identity_pairs(identities: NDArray[np.int64], *, ordered: bool, seed: int = 0) -> IdentityPairs:
    """Pairs of different pictures of ``identities`` (int64 [N]).

    Args:
        ordered: whether (i, j) and (j, i) are two pairs, as when the second is seen in another view or by another
            model; a picture is never paired with itself.

    Raises:
        UsageError: no identity has two pictures, or there is only one identity.
    """
    random = np.random.default_rng([seed, 1])
    genuine = [pair for members in _members(identities) for pair in combinations(members.tolist(), 2)]
    if not genuine or len(np.unique(identities)) < 2:
        raise UsageError("highres_eval needs at least two identities, and two pictures of one, to form pairs")
    pairs = np.array(genuine, np.int64)
    if ordered:
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
    if len(pairs) > MOST_GENUINE:
        pairs = pairs[np.sort(random.choice(len(pairs), MOST_GENUINE, replace=False))]
    impostors = _impostors(identities, len(pairs), random)
    both = np.concatenate([pairs, impostors])
    same = np.arange(len(both)) < len(pairs)
    return IdentityPairs(both[:, 0], both[:, 1], same, identities[both].reshape(-1).astype(np.int32))


def fitting_half(identities: NDArray[np.int64], seed: int = 0) -> NDArray[np.bool_]:
    """bool [N]: whether a picture is of the half of the identities that maps are fitted on; the rest evaluates them.

    Raises UsageError with fewer than four identities.
    """
    names = np.unique(identities)
    if len(names) < 4:
        raise UsageError(f"{len(names)} identities are too few to fit on half of them and evaluate on the others")
    fitted = np.random.default_rng([seed, 2]).permutation(names)[: len(names) // 2]
    return np.isin(identities, fitted)


def _members(identities: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(identities, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)


def _impostors(identities: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """int64 [count, 2]: pictures drawn at random until enough pairs show two people."""
    found = np.empty((0, 2), np.int64)
    while len(found) < count:
        drawn = random.integers(0, len(identities), (2 * count, 2))
        found = np.concatenate([found, drawn[identities[drawn[:, 0]] != identities[drawn[:, 1]]]])
    return found[:count]
