"""Criterion for the remedy, fixed beforehand: does crossres144 close the resolution gap without costing accuracy?

Over at least three seeds, against highlow144 and on the same faces: the probe that guesses the true resolution gets
worse, on degradations that were never trained on (its AUC comes nearer to 0.5, from above or from below); TAR at FAR
1e-2 of high- against low-resolution faces gets better, both with paired intervals that exclude 0; the accuracy on
high-resolution pairs loses less than 0.5 points, the interval's lower end included; and the space has not collapsed: in
every seed its effective rank is at least half of the other's. A probe on which the reference itself is at chance does
not decide while another does (``undecidable``). Otherwise it is undecided, or failed where an interval shows the
opposite or the space has collapsed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.compare import Estimate, Outcomes
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS
from hrfr_fast.study.space import either_way, probe_area
from hrfr_fast.study.summary import Interval, Summary, summarize

REMEDY = "crossres144"
AGAINST = ("highlow144", "crossres144-views")
"""The reference of the criterion, and the control: the same images without the consistency loss."""
TOLERATED = -0.005
"""Change in accuracy that the interval must stay above."""
COLLAPSED = 0.5
"""Share of the other regime's effective rank; with less, directions that tell people apart were given up."""
Probes = Mapping[str, Mapping[int, Mapping[str, NDArray[np.float64]]]]


@dataclass(frozen=True)
class Criterion(Summary):
    """One quantity of the remedy's criterion, as a paired difference (of the effective rank: as a ratio)."""

    met: str = "no"
    """"yes", "no" or "opposite"."""


@dataclass(frozen=True)
class RemedyResult:
    """AUC of the true-resolution probe by regime and by "<kind> <view>", the criterion against each reference, and
    the verdict: "success", "failed" or "undecided"."""

    probe_auc: dict[str, dict[str, Summary]]
    against: dict[str, dict[str, Criterion]]
    verdict: str


def remedy_of(
    accuracy: Mapping[str, Outcomes],
    tar: Mapping[str, Estimate],
    units: int,
    probes: Probes,
    identities: NDArray[np.int64] | None,
    ranks: Mapping[str, Mapping[str, float]] | None = None,
) -> RemedyResult | None:
    """The criterion's four quantities against each of AGAINST that is there; None without the remedy.

    Args:
        accuracy: regime -> decisions on the HR-HR pairs. tar: regime -> TAR at FAR 1e-2, HR-LR.
        units: identities of the pairs.
        probes: regime -> seed -> "<kind> <view>" -> scores [2N], see ``score.RunScores``.
        identities: int64 [N] of the probed images.
        ranks: regime -> seed -> effective rank of the probed images' embeddings.
    """
    areas = probe_areas(probes, identities) if identities is not None else {}
    people = len(np.unique(identities)) if identities is not None else 0
    probe_auc = {
        label: {kind: summarize(area, people) for kind, area in kinds.items()} for label, kinds in areas.items()
    }
    if REMEDY not in accuracy:
        return RemedyResult(probe_auc, {}, "undecided") if areas else None
    against = {
        other: criteria_of(REMEDY, other, accuracy, tar, units, areas, people, ranks or {})
        for other in AGAINST
        if other in accuracy
    }
    verdict = "undecided"
    if AGAINST[0] in against:
        cannot_fall = undecidable(areas.get(AGAINST[0], {}), people)
        verdict = verdict_of(against[AGAINST[0]], len(accuracy[REMEDY].accuracy.seeds), cannot_fall)
    return RemedyResult(probe_auc, against, verdict)


def probe_areas(probes: Probes, identities: NDArray[np.int64]) -> dict[str, dict[str, Estimate]]:
    """Regime -> "<kind> <view>" -> ``probe_area`` of its seeds."""
    result: dict[str, dict[str, Estimate]] = {}
    for label, seeds in probes.items():
        known = {seed: scores for seed, scores in seeds.items() if scores}
        for kind in next(iter(known.values()), {}):
            area = probe_area({seed: scores[kind] for seed, scores in known.items()}, identities)
            result.setdefault(label, {})[kind] = area
    return result


def criteria_of(
    remedy: str,
    other: str,
    accuracy: Mapping[str, Outcomes],
    tar: Mapping[str, Estimate],
    units: int,
    areas: Mapping[str, Mapping[str, Estimate]],
    people: int,
    ranks: Mapping[str, Mapping[str, float]],
) -> dict[str, Criterion]:
    """The criterion's quantities of regime ``remedy`` against ``other``; the arguments are ``remedy_of``'s, with
    ``areas`` of ``probe_areas`` and the number of ``people`` probed. Probes are compared by ``either_way``."""
    rows: dict[str, Criterion] = {}
    for kind, area in areas.get(remedy, {}).items():
        if kind in areas.get(other, {}):
            change = summarize(either_way(area).minus(either_way(areas[other][kind])), people, rate=False)
            low, high = change.interval
            rows[f"probe AUC, {kind}"] = Criterion(**vars(change), met=_met((-high, -low), 0.0))
    change = summarize(tar[remedy].minus(tar[other]), units, rate=False)
    rows["TAR at FAR 1e-2, HR-LR"] = Criterion(**vars(change), met=_met(change.interval, 0.0))
    change = summarize(accuracy[remedy].accuracy.minus(accuracy[other].accuracy), units, rate=False)
    rows["accuracy, HR-HR"] = Criterion(**vars(change), met=_met(change.interval, TOLERATED))
    if remedy in ranks and other in ranks:
        rows["effective rank"] = _ratio(ranks[remedy], ranks[other])
    return rows


def _ratio(remedy: Mapping[str, float], other: Mapping[str, float]) -> Criterion:
    """One effective rank over the other by seed; the "interval" is their range, for three seeds give no more."""
    ratios = {seed: remedy[seed] / other[seed] for seed in sorted(set(remedy) & set(other))}
    least, most = min(ratios.values()), max(ratios.values())
    met = "yes" if least >= COLLAPSED else "opposite"
    return Criterion(float(np.mean(list(ratios.values()))), (least, most), ratios, met=met)


def _met(interval: Interval, bound: float) -> str:
    low, high = interval
    return "yes" if low > bound else "opposite" if high < bound else "no"


def deciding(quantity: str) -> bool:
    """Whether a quantity decides: probes do on degradations that were never trained on."""
    return "LR36" not in quantity


def at_chance(areas: Mapping[str, Estimate], people: int) -> dict[str, Summary]:
    """The deciding probes of the reference that are not surely off chance: no remedy can make them worse.

    Args:
        areas: "<kind> <view>" -> AUC of the reference. people: that were probed.
    """
    found = {kind: summarize(area, people) for kind, area in areas.items() if deciding(kind)}
    return {kind: summary for kind, summary in found.items() if summary.interval[0] <= 0.5 <= summary.interval[1]}


def undecidable(areas: Mapping[str, Estimate], people: int) -> frozenset[str]:
    """Names of the criterion's quantities that do not decide: ``at_chance``, as long as another probe is not.

    It depends on the reference alone, so no remedy has an influence on what it is judged by.
    """
    chance = at_chance(areas, people)
    none_left = len(chance) == sum(map(deciding, areas))
    return frozenset() if none_left else frozenset(f"probe AUC, {kind}" for kind in chance)


def verdict_of(rows: Mapping[str, Criterion], seeds: int, cannot_fall: Collection[str] = ()) -> str:
    """ "success", "failed" or "undecided"; ``cannot_fall``: probes that count only where they get better."""
    met = [
        row.met for name, row in rows.items() if deciding(name) and (name not in cannot_fall or row.met == "opposite")
    ]
    probed = any(name.startswith("probe") for name in rows)
    if seeds < FEWEST_SEEDS or not probed:
        return "undecided"
    if "opposite" in met:
        return "failed"
    return "success" if all(one == "yes" for one in met) else "undecided"
