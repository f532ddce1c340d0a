"""Judgement of remedies on the test faces: the criterion of ``study/remedy.py`` for each, corrected over all of them.

A remedy succeeds where every part of the criterion holds. That is an intersection of hypotheses, so the greatest of the
parts' p-values is that of the whole (Berger, Technometrics 24, 1982); Holm's method then corrects over the remedies, a
family of its own beside the study's five contrasts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import LEVEL
from hrfr_fast.evaluation.compare import Estimate, Outcomes, holm
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS, standard_error
from hrfr_fast.study.remedy import (
    COLLAPSED,
    TOLERATED,
    Criterion,
    at_chance,
    criteria_of,
    deciding,
    probe_areas,
    undecidable,
    verdict_of,
)
from hrfr_fast.study.space import either_way

ACCURACY, TAR, PROBE = "accuracy, HR-HR", "TAR at FAR 1e-2, HR-LR", "probe AUC, "


@dataclass(frozen=True)
class Measured:
    """What the criterion is computed from.

    Attributes:
        accuracy: label -> decisions on the HR-HR pairs.
        tar: label -> TAR at FAR 1e-2, HR-LR.
        areas: label -> "<kind> <view>" -> AUC of the probe.
        ranks: label -> seed -> effective rank.
        units: identities of the pairs. people: of the probed images.
    """

    accuracy: Mapping[str, Outcomes]
    tar: Mapping[str, Estimate]
    areas: Mapping[str, Mapping[str, Estimate]]
    ranks: Mapping[str, Mapping[str, float]]
    units: int
    people: int


def measured(
    accuracy: Mapping[str, Outcomes],
    tar: Mapping[str, Estimate],
    units: int,
    probes: Mapping[str, Mapping[int, Mapping[str, NDArray[np.float64]]]],
    identities: NDArray[np.int64] | None,
    ranks: Mapping[str, Mapping[str, float]],
) -> Measured:
    """The arguments are those of ``remedy.remedy_of``."""
    areas = probe_areas(probes, identities) if identities is not None else {}
    people = len(np.unique(identities)) if identities is not None else 0
    return Measured(accuracy, tar, areas, ranks, units, people)


@dataclass(frozen=True)
class Verdict:
    """One remedy's verdict: see ``results.JudgedRemedy``."""

    label: str
    verdict: str
    p: float
    p_holm: float
    against: dict[str, dict[str, Criterion]]
    detectable: dict[str, float]


def verdicts(found: Measured, base: str, controls: Mapping[str, str], family: int) -> list[Verdict]:
    """The verdict on every remedy.

    Args:
        controls: remedy -> what it is compared with beside the base; "" for nothing.
        family: number of remedies that Holm's method corrects for; those that are missing count as p = 1.
    """
    p_values = [_p(found, label, base) for label in controls]
    corrected = holm(p_values, max(family, len(p_values))) if p_values else []
    rows = []
    for (label, control), p, p_holm in zip(controls.items(), p_values, corrected, strict=True):
        against = {
            other: _criteria(found, label, other) for other in (base, control) if other and other in found.accuracy
        }
        seeds = len(found.accuracy[label].accuracy.minus(_accuracy(found, base)).seeds)
        verdict = verdict_of(against[base], seeds, undecidable(found.areas.get(base, {}), found.people))
        if verdict == "success" and p_holm >= 1 - LEVEL:
            verdict = "undecided"
        rows.append(Verdict(label, verdict, p, p_holm, against, detectable(found, label, base, family)))
    return rows


def _accuracy(found: Measured, label: str) -> Estimate:
    return found.accuracy[label].accuracy


def _criteria(found: Measured, label: str, other: str) -> dict[str, Criterion]:
    return criteria_of(label, other, found.accuracy, found.tar, found.units, found.areas, found.people, found.ranks)


def _changes(found: Measured, label: str, other: str) -> dict[str, tuple[Estimate, int]]:
    """Quantity -> what must be above 0 for the criterion to hold, and its units."""
    changes = {
        TAR: (found.tar[label].minus(found.tar[other]), found.units),
        ACCURACY: (_shifted(_accuracy(found, label).minus(_accuracy(found, other)), -TOLERATED), found.units),
    }
    for kind, area in found.areas.get(label, {}).items():
        if kind in found.areas.get(other, {}):
            changes[PROBE + kind] = (either_way(found.areas[other][kind]).minus(either_way(area)), found.people)
    cannot_fall = undecidable(found.areas.get(other, {}), found.people)
    return {name: change for name, change in changes.items() if deciding(name) and name not in cannot_fall}


def _shifted(estimate: Estimate, by: float) -> Estimate:
    return Estimate(estimate.seeds, estimate.values + by, estimate.resampled + by)


def _p(found: Measured, label: str, base: str) -> float:
    """p of the whole criterion; 1 where a part is missing, points the other way, or the space has collapsed."""
    changes = _changes(found, label, base)
    own, other = found.ranks.get(label, {}), found.ranks.get(base, {})
    collapsed = any(own[seed] < COLLAPSED * other[seed] for seed in set(own) & set(other))
    if collapsed or not any(name.startswith(PROBE) for name in changes):
        return 1.0
    summaries = [change.summary(units, rate=False) for change, units in changes.values()]
    return max(float(one["p"]) if one["value"] > 0 else 1.0 for one in summaries)


def detectable(found: Measured, label: str, base: str, family: int) -> dict[str, float]:
    """Quantity -> minimum detectable effect, as the first of ``family`` that Holm's method takes."""
    return {
        name: standard_error(change.resampled, change.values, units).minimum_detectable_effect((1 - LEVEL) / family)
        for name, (change, units) in _changes(found, label, base).items()
    }


def recommended(rows: Sequence[Verdict], ranking: Sequence[str]) -> str:
    """The remedy that succeeded and was best on development faces; "" where none succeeded."""
    succeeded = [row.label for row in rows if row.verdict == "success"]
    ranked = [label for label in ranking if label in succeeded]
    return (ranked or succeeded or [""])[0]


def statement(rows: Sequence[Verdict], base: str, best: str, units: int, seeds: int, level: str) -> str:
    """What is recommended, in words; or that nothing is, and the smallest effects that would have been seen."""
    if best:
        row = next(row for row in rows if row.label == best)
        others = [one.label for one in rows if one.verdict == "success" and one.label != best]
        also = f" So do {', '.join(others)}." if others else ""
        return f"Recommended: {best}. It meets the criterion against {base} ({_words(row.against[base])}).{also}"
    text = f"No remedy meets the criterion against {base}: "
    kinds = {kind: [row.label for row in rows if row.verdict == kind] for kind in ("failed", "undecided")}
    text += "; ".join(f"{kind}: {', '.join(labels)}" for kind, labels in kinds.items() if labels) + "."
    if seeds < FEWEST_SEEDS:
        return f"{text} It takes at least {FEWEST_SEEDS} seeds to decide; these are {seeds}."
    effects = {name: [row.detectable[name] for row in rows if name in row.detectable] for name in rows[0].detectable}
    seen = "; ".join(f"{name} {_size(name, found)}" for name, found in effects.items())
    return (
        f"{text} The smallest changes that {units:,} {level} and {seeds} seeds would have shown four times out of five,"
        f" even as the first that Holm's method takes, from the remedy whose seeds agree best to the one whose agree"
        f" least: {seen}."
    )


def without_gap(found: Measured, base: str) -> str:
    """A sentence where probes of the base are not surely off chance: no remedy can make them worse. Else empty."""
    areas = found.areas.get(base, {})
    chance = at_chance(areas, found.people)
    if not chance:
        return ""
    said = "; ".join(
        f"{PROBE}{kind} {one.value:.3f} ({one.interval[0]:.3f} to {one.interval[1]:.3f})"
        for kind, one in chance.items()
    )
    if undecidable(areas, found.people):
        return f" Probes that do not decide, since {base} itself is not surely off chance (0.5) there: {said}."
    return (
        f" {base} itself has no gap that these probes surely see (0.5 is chance), so no remedy can close it: {said}."
        " Longer training, or more pictures, may open one."
    )


def _size(name: str, effects: Sequence[float]) -> str:
    """The least and the greatest of ``effects``, in words."""
    scale, digits, unit = (1, 3, "") if name.startswith(PROBE) else (100, 2, " points")
    ends = " to ".join(f"{scale * effect:.{digits}f}" for effect in sorted({min(effects), max(effects)}))
    beyond = f" above the tolerated loss of {-100 * TOLERATED:g}" if name == ACCURACY else ""
    return f"{ends}{unit}{beyond}"


def _words(rows: Mapping[str, Criterion]) -> str:
    parts = []
    for name, row in rows.items():
        if deciding(name) and name != "effective rank":
            scale, unit = (1, "") if name.startswith(PROBE) else (100, " points")
            low, high = (scale * end for end in row.interval)
            digits = 3 if scale == 1 else 2
            parts.append(f"{name} {scale * row.value:+.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})")
    return "; ".join(parts)
