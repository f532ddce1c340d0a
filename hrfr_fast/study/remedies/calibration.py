"""Calibration across resolutions: what false accept and false reject rates one threshold has at each test resolution.

A system has one threshold, and does not know how sharp a face was. It is chosen so that the FAR of all resolutions
together is 1e-2, and, as a second one, so that the FAR of sharp faces is. A model that is calibrated has the same FAR
at each resolution. Thresholds are chosen anew in every resample of the identities, so their uncertainty is included.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.intervals import RESAMPLES
from hrfr_fast.evaluation.bootstrap import BLOCK, weights_of_both_kinds
from hrfr_fast.evaluation.compare import Estimate
from hrfr_fast.evaluation.thresholds import candidate_thresholds
from hrfr_fast.format.reader import PairSet

FAR = 1e-2
CHOSEN_ON = ("all", "sharp")
"""What a threshold is chosen on: the views of all resolutions together, or the faces as they are."""
Views = Mapping[str, NDArray[np.float64]]
"""Name of a view ("8", "144", "HR-LR36") -> cosine of every pair, float64 [P]."""


@dataclass(frozen=True)
class Rates:
    """FAR and FRR of one regime by view, with a threshold chosen on one of CHOSEN_ON. ``spread``: greatest minus least
    FAR over the views."""

    far: dict[str, Estimate]
    frr: dict[str, Estimate]
    spread: Estimate


def calibration(
    seeds: Mapping[int, Views], pairs: PairSet, sharp: str, *, far: float = FAR, resamples: int = RESAMPLES
) -> dict[str, Rates]:
    """Rates of one regime by what the threshold was chosen on.

    Args:
        seeds: seed -> views, the same for all seeds; all but "HR-..." show both faces of a pair alike and make up
            "all".
        sharp: the view of faces as they are.
    """
    order = sorted(seeds)
    names = list(seeds[order[0]])
    found = {on: np.empty((resamples + 1, len(order), 2, len(names))) for on in CHOSEN_ON}
    for column, seed in enumerate(order):
        scores = np.stack([seeds[seed][name] for name in names])
        pooled = [row for row, name in enumerate(names) if not name.startswith("HR-")]
        rows = {"all": pooled, "sharp": [names.index(sharp)]}
        for on in CHOSEN_ON:
            found[on][0, column] = _rates(scores, rows[on], pairs.same, np.ones((1, len(pairs))), far)[0]
        for start in range(0, resamples, BLOCK):
            weights = weights_of_both_kinds(pairs.same, pairs.identities, start, min(BLOCK, resamples - start), 0)
            block = slice(1 + start, 1 + start + len(weights))
            for on in CHOSEN_ON:
                found[on][block, column] = _rates(scores, rows[on], pairs.same, weights, far)
    return {on: _as_estimates(tuple(order), names, values) for on, values in found.items()}


def _rates(
    scores: NDArray[np.float64], chosen: list[int], same: NDArray[np.bool_], weights: NDArray[np.float64], far: float
) -> NDArray[np.float64]:
    """FAR and FRR of each view in each resample, [R, 2, V].

    Args:
        scores: [V, P]. chosen: views that the threshold is chosen on.
        weights: [R, P].
    """
    impostors, genuine = weights[:, ~same], weights[:, same]
    threshold = _thresholds(scores[chosen], weights * ~same, far)[:, None]
    accepted = [((scores[view, ~same] >= threshold) * impostors).sum(axis=1) for view in range(len(scores))]
    rejected = [((scores[view, same] < threshold) * genuine).sum(axis=1) for view in range(len(scores))]
    masses = (np.maximum(one.sum(axis=1, keepdims=True), 1e-300) for one in (impostors, genuine))
    rates = [np.stack(counts, axis=1) / mass for counts, mass in zip((accepted, rejected), masses, strict=True)]
    return np.stack(rates, axis=1)


def _thresholds(scores: NDArray[np.float64], weights: NDArray[np.float64], far: float) -> NDArray[np.float64]:
    """The loosest threshold whose FAR does not exceed ``far``, [R], over the scores [V, P] of all views.

    The same as that of ``thresholds_at_fars`` where there is one view: its FRR is 1 - TAR at that FAR.
    ``weights``: [R, P], of an impostor pair the same in each view, 0 of genuine ones.
    """
    candidates = candidate_thresholds(scores.ravel())
    return candidates.loosest(candidates.accepted_shares(np.tile(weights, len(scores))), far)


def _as_estimates(seeds: tuple[int, ...], names: list[str], values: NDArray[np.float64]) -> Rates:
    """``values``: [1 + R, S, 2, V], the pairs as they are first."""

    def estimate(array: NDArray[np.float64]) -> Estimate:
        return Estimate(seeds, array[0], array[1:])

    far, frr = values[:, :, 0], values[:, :, 1]
    return Rates(
        {name: estimate(far[:, :, place]) for place, name in enumerate(names)},
        {name: estimate(frr[:, :, place]) for place, name in enumerate(names)},
        estimate(far.max(axis=2) - far.min(axis=2)),
    )
