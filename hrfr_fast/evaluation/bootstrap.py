"""Confidence intervals of verification by a bootstrap over identities.

Pairs share identities, so they are not independent draws; people are. A resample draws the identities with
replacement; with w_i the number of times identity i was drawn, a pair of one identity counts w_i times and a pair of
two identities w_i * w_j times, whatever its label says (the node bootstrap of Snijders & Borgatti, "Non-parametric
standard errors and tests for network statistics", Connections 22(2), 1999, for pairs of nodes).
"""

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.philox import BOOTSTRAP, philox

LEVEL = 0.95
RESAMPLES = 2000
BLOCK = 100  # resamples computed at a time: bounds memory to BLOCK x pairs floats
NO_IDENTITIES = "no identities known: the interval treats pairs as independent and is too narrow"
FEW_PEOPLE = 10
"""A bootstrap over fewer units gives intervals that are clearly too narrow (Cameron, Gelbach & Miller,
"Bootstrap-based improvements for inference with clustered errors", Review of Economics and Statistics 90(3), 2008)."""


def interval_caveats(people: int | None) -> list[str]:
    """What to say beside an interval over so many people; None: they are not known, and pairs were the units."""
    if people is None:
        return [NO_IDENTITIES]
    if people == 1:
        return ["all pictures are of one person: the interval says nothing of other people"]
    return [f"only {people} people: the interval is too narrow"] if people < FEW_PEOPLE else []


def pair_weights(
    same: NDArray[np.bool_], identities: NDArray[np.int32] | None, start: int, count: int, seed: int
) -> NDArray[np.float64]:
    """Weights of all pairs in resamples start .. start + count - 1.

    Args:
        same: bool [P]; counts the pairs where no identities are known.
        identities: int32 [2P] cluster of pictures 2i and 2i + 1; None: pairs are the units.
        start, count, seed: which resamples; equal arguments give equal weights for any model (paired comparison).

    Returns:
        float64 [count, P].
    """
    if identities is None:
        return multiplicities(len(same), start, count, seed)
    _, cluster = np.unique(identities, return_inverse=True)
    drawn = multiplicities(int(cluster.max()) + 1, start, count, seed)
    first, second = drawn[:, cluster[0::2]], drawn[:, cluster[1::2]]
    return np.where(cluster[0::2] == cluster[1::2], first, first * second)


def weights_of_both_kinds(
    same: NDArray[np.bool_], identities: NDArray[np.int32] | None, start: int, count: int, seed: int
) -> NDArray[np.float64]:
    """``pair_weights`` for rates of genuine and of impostor pairs: those of a kind of which a resample holds none weigh
    1 each in it, since a rate over no pairs is no number."""
    weights = pair_weights(same, identities, start, count, seed)
    for kind in (same, ~same):
        fill_empty(weights, kind)
    return weights


def fill_empty(weights: NDArray[np.float64], kind: NDArray[np.bool_]) -> None:
    """Set the weights of units of one ``kind`` to 1 in the resamples that drew none of them, in place.

    Args:
        weights: float64 [R, n].
        kind: bool [n].
    """
    empty = np.flatnonzero(~weights[:, kind].any(axis=1))
    weights[np.ix_(empty, np.flatnonzero(kind))] = 1.0


def multiplicities(units: int, start: int, count: int, seed: int) -> NDArray[np.float64]:
    """Number of times each of ``units`` is drawn in ``count`` resamples of that many draws, float64 [count, units].

    The resamples are start .. start + count - 1; equal arguments give equal draws.
    """
    resamples = np.arange(start, start + count)[:, None]
    words = philox(seed, resamples, np.arange((units + 3) // 4), purpose=BOOTSTRAP).reshape(count, -1)[:, :units]
    drawn = ((words * np.uint64(units)) >> np.uint64(32)).astype(np.int64)
    cells = drawn + units * np.arange(count)[:, None]
    return np.bincount(cells.ravel(), minlength=count * units).reshape(count, units).astype(np.float64)


def resampled_cluster_means(
    values: NDArray[np.float64],
    clusters: NDArray[np.int64],
    counted: NDArray[np.bool_] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The mean of ``values`` in every resample of the clusters: a value of a cluster drawn w times counts w times.

    A resample without any probe that counts has the mean of them all.

    Args:
        values: float64 [n, K], K quantities of n probes.
        clusters: int64 [n], the subject of each probe, any numbers.
        counted: bool [n], which probes belong to the mean; None: all. All clusters are drawn from anyway, so that
            means over different probes of the same people see equal resamples.

    Returns:
        float64 [resamples, K].
    """
    _, row = np.unique(clusters, return_inverse=True)
    units = int(row.max()) + 1
    share = np.ones(len(values)) if counted is None else counted.astype(np.float64)
    sums = np.stack([np.bincount(row, column * share, minlength=units) for column in values.T], axis=1)
    sizes = np.bincount(row, share, minlength=units)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, BLOCK):
        drawn = multiplicities(units, start, min(BLOCK, resamples - start), seed)
        fill_empty(drawn, sizes > 0)
        means[start : start + len(drawn)] = (drawn @ sums) / (drawn @ sizes)[:, None]
    return means


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % percentile interval of a bootstrap distribution, float64 [resamples]."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def balanced_mean(
    values: NDArray[np.float64], same: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean over genuine and the mean over impostor pairs, weighted by the share of each class in the set.

    Weighing by class keeps the share of genuine pairs fixed: it is part of the protocol, not of the sample.

    Args:
        values: float64 [P], or [P, K] for K quantities at once.
        same: bool [P]; may hold one class only.
        weights: float64 [R, P], see ``pair_weights``.

    Returns:
        float64 [R], or [R, K].
    """
    columns = values.reshape(len(values), -1)
    total = np.zeros((len(weights), columns.shape[1]))
    for members in (same, ~same):
        if members.any():
            mass = weights[:, members].sum(axis=1, keepdims=True)
            mean = (weights[:, members] @ columns[members]) / np.maximum(mass, 1e-300)
            total += members.mean() * np.where(mass > 0, mean, columns[members].mean(axis=0))
    return total.reshape(len(weights), *values.shape[1:])


def resampled_means(
    values: NDArray[np.float64],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """``balanced_mean`` of ``values`` in every resample, [resamples, ...]; all columns see equal resamples."""
    blocks = [
        balanced_mean(values, same, pair_weights(same, identities, start, min(BLOCK, resamples - start), seed))
        for start in range(0, resamples, BLOCK)
    ]
    return np.concatenate(blocks)


def accuracy_interval(
    values: NDArray[np.float64],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the class-balanced mean of ``values`` (float64 [P], e.g. pair decided rightly)."""
    means = resampled_means(values, same, identities, resamples=resamples, seed=seed)
    return percentile_interval(means)


def paired_difference(
    correct_a: NDArray[np.bool_],
    correct_b: NDArray[np.bool_],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Accuracy of a minus accuracy of b on the same pairs, with its 95 % interval: (difference, low, high).

    Both models see the same resamples, so what is hard about a pair for both cancels.
    """
    gain = correct_a.astype(np.float64) - correct_b.astype(np.float64)
    low, high = accuracy_interval(gain, same, identities, resamples=resamples, seed=seed)
    return float(gain.mean()), low, high
