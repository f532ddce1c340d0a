"""The embedding space of a regime over all its seeds: distances across resolutions, before and after alignment.

The analyses show the first seed in depth; verdicts are about the regime and need all seeds. Maps are fitted on half of
the identities of highres_eval and tested on pairs of the other half, which are the same pairs for every run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.alignment import CPD, LINEAR, NONE, fit_maps
from hrfr_fast.analysis.intervals import RESAMPLES, Statistic, auc_statistic, pair_resamples, sample_value, unit_weights
from hrfr_fast.analysis.pairing import IdentityPairs, fitting_half, identity_pairs
from hrfr_fast.evaluation.compare import Estimate
from hrfr_fast.evaluation.verification import FOLDS
from hrfr_fast.study.summary import Summary, summarize

if TYPE_CHECKING:
    import torch

METHODS = (NONE, CPD, LINEAR)
MIXED, LOW = "highlow144", "lowres144"
Arrays = Mapping[str, NDArray[np.float64]]
Spaces = Mapping[str, Mapping[int, Arrays]]
"""Regime -> seed -> what ``arrays_of`` gave."""


@dataclass(frozen=True)
class MethodResult:
    """The embedding space after an alignment method, on identities that it was not fitted on."""

    accuracy: Summary
    accuracy_gain: Summary
    d_prime: Summary
    d_prime_gain: Summary
    probe_auc: Summary


@dataclass(frozen=True)
class RegimeSpace:
    """The embedding space of a regime: overlap of the HR-LR cosines of same and different people, effective rank by
    seed, and the space after each alignment method (empty with too few identities)."""

    overlap: Summary
    effective_rank: dict[str, float]
    methods: dict[str, MethodResult]


@dataclass(frozen=True)
class SpaceResult:
    """Embedding spaces by regime, and the overlap of highlow144 minus that of lowres144 (None where one is missing)."""

    regimes: dict[str, RegimeSpace]
    overlap_gain: Summary | None


def arrays_of(
    high: NDArray[np.floating],
    low: NDArray[np.floating],
    identities: NDArray[np.int64],
    device: "torch.device | str" = "cpu",
    *,
    align: bool = True,
) -> dict[str, NDArray[np.float64]]:
    """The arrays that are kept of one run's embedding space.

    Args:
        high, low: [N, D] unit rows, the images as they are and shrunk to 36 px and back.
        identities: int64 [N].
        align: fit maps of one view onto the other, too.

    Returns:
        "across": HR-LR cosines of all pairs of ``identity_pairs``; "pairs <method>": those of the tested half after
        mapping; "views <method>": the probe's confidence in low resolution there, [2N']; "effective rank": [1].
        Empty where no identity has two images; without ``align``, or enough identities to fit on half of them, the
        first and the last alone.
    """
    from hrfr_fast.analysis.maps import unit
    from hrfr_fast.analysis.resolution_gap import probe
    from hrfr_fast.analysis.uniformity import effective_rank

    if not _paired(identities):
        return {}
    pairs = identity_pairs(identities, ordered=True)
    arrays = {"across": pairs.cosines(high, low), "effective rank": np.array([effective_rank(high)])}
    if not align or not _divisible(identities):
        return arrays
    fitted = fitting_half(identities)
    tested = identity_pairs(identities[~fitted], ordered=True)
    for method, mapped in fit_maps(low[fitted], high[fitted], device, methods=METHODS).items():
        moved = unit(mapped(low[~fitted]))
        arrays[f"pairs {method}"] = tested.cosines(high[~fitted], moved)
        arrays[f"views {method}"] = probe(high[~fitted], moved, identities[~fitted], resamples=0).scores
    return arrays


def _paired(identities: NDArray[np.int64]) -> bool:
    """Whether there are both kinds of pairs: two identities, and two images of one of them."""
    _, counts = np.unique(identities, return_counts=True)
    return len(counts) > 1 and counts.max() > 1


def _divisible(identities: NDArray[np.int64]) -> bool:
    """Whether half of the identities have the ten genuine pairs that 10 folds need."""
    if len(np.unique(identities)) < 4:
        return False
    tested = identities[~fitting_half(identities)]
    return _paired(tested) and int(identity_pairs(tested, ordered=True).same.sum()) >= FOLDS


def space_of(spaces: Spaces, identities: NDArray[np.int64]) -> SpaceResult:
    """The embedding spaces of all regimes that have arrays, over their seeds; differences are paired."""
    known = {label: {seed: arrays for seed, arrays in seeds.items() if arrays} for label, seeds in spaces.items()}
    known = {label: seeds for label, seeds in known.items() if seeds}
    if not known:
        return SpaceResult({}, None)
    people, pairs = len(np.unique(identities)), identity_pairs(identities, ordered=True)
    overlaps = {label: _overlap(seeds, pairs) for label, seeds in known.items()}
    regimes = {
        label: RegimeSpace(
            overlap=summarize(overlaps[label], people),
            effective_rank={str(seed): float(arrays["effective rank"][0]) for seed, arrays in seeds.items()},
            methods=_methods(seeds, identities),
        )
        for label, seeds in known.items()
    }
    both = MIXED in overlaps and LOW in overlaps
    gain = summarize(overlaps[MIXED].minus(overlaps[LOW]), people, rate=False) if both else None
    return SpaceResult(regimes, gain)


def _overlap(seeds: Mapping[int, Arrays], pairs: IdentityPairs) -> Estimate:
    from hrfr_fast.analysis.distances import overlap_statistic

    return _estimate({seed: overlap_statistic(arrays["across"], pairs.same) for seed, arrays in seeds.items()}, pairs)


def _estimate(statistics: Mapping[int, Statistic], pairs: IdentityPairs) -> Estimate:
    ordered = [statistics[seed] for seed in sorted(statistics)]
    values = np.array([sample_value(statistic, len(pairs.same)) for statistic in ordered])
    return Estimate(tuple(sorted(statistics)), values, pair_resamples(ordered, pairs.same, pairs.identities))


def _methods(seeds: Mapping[int, Arrays], identities: NDArray[np.int64]) -> dict[str, MethodResult]:
    from hrfr_fast.analysis.distances import d_prime_statistic
    from hrfr_fast.evaluation.compare import resample_outcomes
    from hrfr_fast.evaluation.verification import verify

    if not all(f"pairs {NONE}" in arrays for arrays in seeds.values()):
        return {}
    kept = identities[~fitting_half(identities)]
    pairs, people = identity_pairs(kept, ordered=True), len(np.unique(kept))
    scores = {method: {seed: arrays[f"pairs {method}"] for seed, arrays in seeds.items()} for method in METHODS}
    decided = resample_outcomes(
        {
            method: {
                seed: verify(cosines, pairs.same, pairs.identities, resamples=0).correct
                for seed, cosines in by_seed.items()
            }
            for method, by_seed in scores.items()
        },
        pairs.same, pairs.identities,
    )  # fmt: skip
    accuracy = {method: found.accuracy for method, found in decided.items()}
    areas = {
        method: probe_area({seed: arrays[f"views {method}"] for seed, arrays in seeds.items()}, kept)
        for method in METHODS
    }
    d_prime = {
        method: _estimate({seed: d_prime_statistic(cosines, pairs.same) for seed, cosines in by_seed.items()}, pairs)
        for method, by_seed in scores.items()
    }
    return {
        method: MethodResult(
            accuracy=summarize(accuracy[method], people),
            accuracy_gain=summarize(accuracy[method].minus(accuracy[NONE]), people, rate=False),
            d_prime=summarize(d_prime[method], people, rate=False),
            d_prime_gain=summarize(d_prime[method].minus(d_prime[NONE]), people, rate=False),
            probe_auc=summarize(areas[method], people),
        )
        for method in METHODS
    }


def probe_area(scores: Mapping[int, NDArray[np.float64]], identities: NDArray[np.int64]) -> Estimate:
    """AUC of guessing the true resolution, 0.5 being chance, over seeds.

    Args:
        scores: seed -> confidence in low resolution, float64 [2N]: of the N images as they are, then in low
            resolution.
        identities: int64 [N].
    """
    low = np.arange(2 * len(identities)) >= len(identities)
    doubled = np.concatenate([identities, identities])
    weights = unit_weights(doubled, 0, RESAMPLES, 0)
    areas = [auc_statistic(scores[seed], low, doubled) for seed in sorted(scores)]
    return Estimate(
        tuple(sorted(scores)),
        np.array([sample_value(area, len(low)) for area in areas]),
        np.stack([area(weights) for area in areas], axis=1),
    )


def either_way(area: Estimate) -> Estimate:
    """0.5 + |AUC - 0.5|: the AUC of a probe or, where that is larger, of its opposite; seed by seed, and resample by
    resample.

    A probe with AUC 0.2 tells the resolutions apart as well as one with 0.8. It takes the one for the other, which a
    probe that is tested on a degradation it was not trained on may do. Remedies are compared by this quantity.
    """
    return Estimate(area.seeds, 0.5 + np.abs(area.values - 0.5), 0.5 + np.abs(area.resampled - 0.5))
