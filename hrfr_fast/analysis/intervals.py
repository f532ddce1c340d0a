"""95 % intervals of an analysis' statistics, by the same bootstrap over identities as in verification."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import BLOCK, LEVEL, pair_weights, weights_of_both_kinds

RESAMPLES = 1000
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Weights [R, n] of n units (pictures, views or pairs) to the statistic in each of the R resamples, [R]."""


def unit_weights(identities: NDArray[np.int64], start: int, count: int, seed: int) -> NDArray[np.float64]:
    """Weights of units in resamples start .. start + count - 1: how often the identity of each was drawn.

    Args:
        identities: int64 [n].

    Returns:
        float64 [count, n].
    """
    clusters = np.repeat(identities, 2).astype(np.int32)  # to pair_weights a unit is a genuine pair of one identity
    return pair_weights(np.ones(len(identities), bool), clusters, start, count, seed)


def percentile_interval(
    statistic: Statistic, identities: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of units that belong to ``identities`` (int64 [n])."""
    return _percentiles(
        [statistic(unit_weights(identities, start, count, seed)) for start, count in _blocks(resamples)]
    )


def pair_interval(
    statistic: Statistic,
    same: NDArray[np.bool_],
    identities: NDArray[np.int32],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of P pairs; ``identities`` int32 [2P] as in evaluation/bootstrap.py."""
    return _percentiles([pair_resamples([statistic], same, identities, resamples=resamples, seed=seed)[:, 0]])


def pair_resamples(
    statistics: Sequence[Statistic],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """S statistics of the same P pairs in every resample, [resamples, S]; all see equal resamples."""
    blocks = []
    for start, count in _blocks(resamples):
        weights = weights_of_both_kinds(same, identities, start, count, seed)
        blocks.append(np.stack([statistic(weights) for statistic in statistics], axis=1))
    return np.concatenate(blocks)


def mean_statistic(values: NDArray[np.floating]) -> Statistic:
    """The weighted mean of ``values`` [n]."""
    return lambda weights: weights @ values / np.maximum(weights.sum(axis=1), 1e-300)


def auc_statistic(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], identities: NDArray[np.int64] | None = None
) -> Statistic:
    """The weighted area under the ROC curve, ties counting half; ``scores`` [n], ``positive`` bool [n].

    With ``identities`` (int64 [n]) only units of different identities are compared, and weights must be equal within
    one. A resample doubles the share of comparisons within an identity (they count w^2, of mean 2), which moves its
    area: for two views of 450 pictures that differ by next to nothing by 0.0011, past the whole interval.

    A resample that holds only one of the two classes gives 0.5.
    """
    distinct, rank = np.unique(scores, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(len(distinct)))
    sign = positive[order]
    first, inner_wins, inner_mass = _within(scores, positive, identities)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sorted_weights = weights[:, order]
        above = np.add.reduceat(sorted_weights * sign, starts, axis=1)
        below = np.add.reduceat(sorted_weights * ~sign, starts, axis=1)
        squares = weights[:, first] ** 2
        wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1) - squares @ inner_wins
        mass = above.sum(axis=1) * below.sum(axis=1) - squares @ inner_mass
        return np.where(mass > 0, wins / np.maximum(mass, 1e-300), 0.5)

    return statistic


def _within(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], identities: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """For each identity one of its units, and the wins and the number of comparisons between its own units."""
    if identities is None:
        return np.empty(0, np.int64), np.empty(0), np.empty(0)
    order = np.argsort(identities, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)
    wins, mass = np.zeros(len(groups)), np.zeros(len(groups))
    for number, members in enumerate(groups):
        high, low = scores[members][positive[members]], scores[members][~positive[members]]
        wins[number] = (np.sign(high[:, None] - low) + 1).sum() / 2
        mass[number] = len(high) * len(low)
    return np.array([members[0] for members in groups]), wins, mass


def sample_value(statistic: Statistic, units: int) -> float:
    """The statistic of the sample itself, in which each of the ``units`` has weight 1."""
    return float(statistic(np.ones((1, units)))[0])


def _blocks(resamples: int) -> list[tuple[int, int]]:
    return [(start, min(BLOCK, resamples - start)) for start in range(0, resamples, BLOCK)]


def _percentiles(blocks: list[NDArray[np.float64]]) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(blocks), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def p_text(p: float) -> str:
    """ "p = 0.034" or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
