"""The embedding space of a regime over all its seeds: distances across resolutions, and what aligning makes of them.

The analyses show the first seed in depth; here is what a verdict needs, which is about the regime and not one
checkpoint. Maps are fitted on half of the identities of highres_eval and judged on pairs of the other half, which are
the same pairs for every run.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.alignment import CPD, LINEAR, NONE, fit_maps
from hrfr_fast.analysis.intervals import RESAMPLES, Statistic, auc_statistic, pair_resamples, sample_value, unit_weights
from hrfr_fast.analysis.pairing import IdentityPairs, fitting_half, identity_pairs
from hrfr_fast.evaluation.compare import Estimate
from hrfr_fast.evaluation.verification import FOLDS

if TYPE_CHECKING:
    import torch

METHODS = (NONE, CPD, LINEAR)
MIXED, LOW = "highlow144", "lowres144"
Arrays = Mapping[str, NDArray[np.float64]]
Spaces = Mapping[str, Mapping[int, Arrays]]
"""Regime -> seed -> what ``arrays_of`` gave."""


def arrays_of(
    high: NDArray[np.floating],
    low: NDArray[np.floating],
    identities: NDArray[np.int64],
    device: "torch.device | str" = "cpu",
) -> dict[str, NDArray[np.float64]]:
    """What is kept of one run's space.

    Args:
        high, low: [N, D] unit rows, the pictures as they are and shrunk to 36 px and back.
        identities: int64 [N].

    Returns:
        "across": HR-LR cosines of all pairs of ``identity_pairs``; "pairs <method>": those of the judged half after
        mapping; "views <method>": the probe's confidence in low resolution there, [2N']; "effective rank": [1].
        Nothing where no identity has two pictures; without enough identities to fit on half of them the first and the
        last alone.
    """
    from hrfr_fast.analysis.maps import unit
    from hrfr_fast.analysis.resolution_gap import probe
    from hrfr_fast.analysis.uniformity import effective_rank

    if not _paired(identities):
        return {}
    pairs = identity_pairs(identities, ordered=True)
    arrays = {"across": pairs.cosines(high, low), "effective rank": np.array([effective_rank(high)])}
    if not _divisible(identities):
        return arrays
    fitted = fitting_half(identities)
    judged = identity_pairs(identities[~fitted], ordered=True)
    for method, mapped in fit_maps(low[fitted], high[fitted], device, methods=METHODS).items():
        moved = unit(mapped(low[~fitted]))
        arrays[f"pairs {method}"] = judged.cosines(high[~fitted], moved)
        arrays[f"views {method}"] = probe(high[~fitted], moved, identities[~fitted], resamples=0).scores
    return arrays


def _paired(identities: NDArray[np.int64]) -> bool:
    """Whether there are both kinds of pairs: two identities, and two pictures of one."""
    _, counts = np.unique(identities, return_counts=True)
    return len(counts) > 1 and counts.max() > 1


def _divisible(identities: NDArray[np.int64]) -> bool:
    """Whether half of the identities hold the ten pairs of one person that verifying takes."""
    if len(np.unique(identities)) < 4:
        return False
    judged = identities[~fitting_half(identities)]
    return _paired(judged) and int(identity_pairs(judged, ordered=True).same.sum()) >= FOLDS


def space_of(spaces: Spaces, identities: NDArray[np.int64]) -> dict[str, Any]:
    """Rates over seeds with 95 % intervals.

    Returns:
        "regimes": label -> "overlap" of one person's and two people's HR-LR cosines, "effective_rank" by seed, and
        "methods": method -> "accuracy", "d_prime" (HR-LR, judged half), "probe_auc", and as paired gains over no map
        "accuracy_gain" and "d_prime_gain". "overlap_gain": highlow144's overlap minus lowres144's, paired; None where
        one is missing.
    """
    known = {label: {seed: one for seed, one in seeds.items() if one} for label, seeds in spaces.items()}
    known = {label: seeds for label, seeds in known.items() if seeds}
    if not known:
        return {"regimes": {}, "overlap_gain": None}
    people, pairs = len(np.unique(identities)), identity_pairs(identities, ordered=True)
    overlaps = {label: _overlap(seeds, pairs) for label, seeds in known.items()}
    regimes = {
        label: {
            "overlap": overlaps[label].summary(people),
            "effective_rank": {str(seed): float(one["effective rank"][0]) for seed, one in seeds.items()},
            "methods": _methods(seeds, identities),
        }
        for label, seeds in known.items()
    }
    both = MIXED in overlaps and LOW in overlaps
    gain = overlaps[MIXED].minus(overlaps[LOW]).summary(people, rate=False) if both else None
    return {"regimes": regimes, "overlap_gain": gain}


def _overlap(seeds: Mapping[int, Arrays], pairs: IdentityPairs) -> Estimate:
    from hrfr_fast.analysis.distances import overlap_statistic

    return _estimate({seed: overlap_statistic(one["across"], pairs.same) for seed, one in seeds.items()}, pairs)


def _estimate(statistics: Mapping[int, Statistic], pairs: IdentityPairs) -> Estimate:
    ordered = [statistics[seed] for seed in sorted(statistics)]
    values = np.array([sample_value(one, len(pairs.same)) for one in ordered])
    return Estimate(tuple(sorted(statistics)), values, pair_resamples(ordered, pairs.same, pairs.identities))


def _methods(seeds: Mapping[int, Arrays], identities: NDArray[np.int64]) -> dict[str, Any]:
    from hrfr_fast.analysis.distances import d_prime_statistic
    from hrfr_fast.evaluation.compare import resample_outcomes
    from hrfr_fast.evaluation.verification import verify

    if not all(f"pairs {NONE}" in one for one in seeds.values()):
        return {}
    kept = identities[~fitting_half(identities)]
    pairs, people = identity_pairs(kept, ordered=True), len(np.unique(kept))
    scores = {method: {seed: one[f"pairs {method}"] for seed, one in seeds.items()} for method in METHODS}
    decided = resample_outcomes(
        {
            method: {s: verify(one, pairs.same, pairs.identities, resamples=0).correct for s, one in mine.items()}
            for method, mine in scores.items()
        },
        pairs.same, pairs.identities,
    )  # fmt: skip
    accuracy = {method: one.accuracy for method, one in decided.items()}
    areas = {
        method: probe_area({seed: one[f"views {method}"] for seed, one in seeds.items()}, kept) for method in METHODS
    }
    d_prime = {
        method: _estimate({seed: d_prime_statistic(one, pairs.same) for seed, one in mine.items()}, pairs)
        for method, mine in scores.items()
    }
    return {
        method: {
            "accuracy": accuracy[method].summary(people),
            "accuracy_gain": accuracy[method].minus(accuracy[NONE]).summary(people, rate=False),
            "d_prime": d_prime[method].summary(people, rate=False),
            "d_prime_gain": d_prime[method].minus(d_prime[NONE]).summary(people, rate=False),
            "probe_auc": areas[method].summary(people),
        }
        for method in METHODS
    }


def probe_area(scores: Mapping[int, NDArray[np.float64]], identities: NDArray[np.int64]) -> Estimate:
    """AUC of guessing the true resolution, 0.5 being chance, over seeds.

    Args:
        scores: seed -> confidence in low resolution, float64 [2N]: of the N pictures as they are, then in low
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
