"""Thresholds at fixed false accept rates (FAR), with intervals: what decides about a single pair of faces."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import BLOCK, LEVEL, RESAMPLES, weights_of_both_kinds
from hrfr_fast.evaluation.verification import FARS, FEWEST_FALSE_ACCEPTS, midpoints
from hrfr_fast.runtime.errors import UsageError

BEYOND = 1e-6  # the threshold above all scores is so much above the highest


@dataclass(frozen=True)
class Threshold:
    """The loosest threshold whose FAR does not exceed ``far``: faces whose cosine is at least ``threshold`` are called
    the same person.

    ``low`` and ``high``: its 95 % interval. ``impostors``: pairs of two people that it rests on.
    """

    far: float
    threshold: float
    low: float
    high: float
    impostors: int

    @property
    def rests_on_few(self) -> bool:
        """Whether fewer than 10 false accepts decide where it lies."""
        return self.far * self.impostors < FEWEST_FALSE_ACCEPTS

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as in results.json and in the metadata of exported models."""
        return asdict(self)


def thresholds_at_fars(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None,
    *,
    fars: Iterable[float] = FARS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Threshold]:
    """One threshold for each of ``fars``, in their order.

    A threshold lies in the middle between the lowest score that it accepts and the next one below.

    Args:
        scores: float64 [P], higher means more alike.
        same: bool [P], with impostor pairs among them.
        identities: int32 [2P], or None: see ``bootstrap.pair_weights``. The intervals are percentiles of a bootstrap
            over them.
    """
    candidates = candidate_thresholds(scores)
    impostor = ~same

    def at(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Threshold of each row of ``weights`` [R, P] at each FAR, [R, F]."""
        shares = candidates.accepted_shares(weights * impostor)
        return np.stack([candidates.loosest(shares, far) for far in fars], axis=1)

    fars = tuple(fars)
    found = at(np.ones((1, len(scores))))[0]
    blocks = [
        at(weights_of_both_kinds(same, identities, start, min(BLOCK, resamples - start), seed))
        for start in range(0, resamples, BLOCK)
    ]
    bounds = np.quantile(np.concatenate(blocks), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Threshold(far, float(threshold), float(low), float(high), int(impostor.sum()))
        for far, threshold, low, high in zip(fars, found, *bounds, strict=True)
    ]


@dataclass(frozen=True)
class CandidateThresholds:
    """The D + 1 places at which P scores of D distinct values can be divided, from the strictest on.

    Attributes:
        values: float64 [D + 1]: above all scores, in the middle between each two neighbouring ones, below all.
        order: int64 [P], the scores' numbers from the highest on.
        last: int64 [D], where each run of equal scores ends in that order.
    """

    values: NDArray[np.float64]
    order: NDArray[np.int64]
    last: NDArray[np.int64]

    def accepted_shares(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of the ``weights`` [R, P] that each threshold but the first accepts, float64 [R, D]."""
        accepted = np.cumsum(weights[:, self.order], axis=1)[:, self.last]
        return np.asarray(accepted / np.maximum(accepted[:, -1:], 1e-300))

    def loosest(self, shares: NDArray[np.float64], far: float) -> NDArray[np.float64]:
        """The loosest threshold that accepts no more than ``far`` of the impostors, float64 [R].

        Args:
            shares: float64 [R, D], ``accepted_shares`` of the impostors' weights.
        """
        return np.asarray(self.values[(shares <= far + 1e-12).sum(axis=1)])


def candidate_thresholds(scores: NDArray[np.float64]) -> CandidateThresholds:
    """The thresholds that divide ``scores``, float64 [P], P >= 1, in different ways."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    last = np.flatnonzero(np.diff(falling, append=np.nan) != 0)
    distinct = falling[last]
    values = np.concatenate([[distinct[0] + BEYOND], midpoints(distinct[::-1])[::-1], [distinct[-1] - BEYOND]])
    return CandidateThresholds(values, order, last)


def threshold_from_json(value: Mapping[str, Any]) -> Threshold:
    """The inverse of ``Threshold.to_json``, of a file that may hold anything. Raises UsageError."""
    try:
        far, threshold, low, high = (float(value[name]) for name in ("far", "threshold", "low", "high"))
        impostors = int(value["impostors"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"not a threshold: {error!r}") from None
    if not (0 < far < 1 and np.isfinite([threshold, low, high]).all() and low <= high and impostors >= 0):
        raise UsageError(f"not a threshold: FAR {far}, {threshold} ({low} to {high}) on {impostors} pairs")
    return Threshold(far, threshold, low, high, impostors)
