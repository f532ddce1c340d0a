"""Does crossres144 close the gap of true resolution without costing accuracy? The criterion, fixed beforehand.

Over at least three seeds, against highlow144 and on the same faces: the probe that guesses the true resolution gets
worse, on a degradation that was never trained on; TAR at FAR 1e-2 of high- against low-resolution faces gets better,
both with paired intervals that exclude 0; the accuracy on high-resolution pairs loses less than 0.5 points, the
interval's lower end included; and the space has not collapsed: in every seed its effective rank is at least half of the
other's. Otherwise it is undecided, or failed where an interval shows the opposite or the space has collapsed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.compare import Estimate, Outcomes
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS
from hrfr_fast.study.space import probe_area

REMEDY = "crossres144"
AGAINST = ("highlow144", "crossres144-views")
"""The reference of the criterion, and the control: the same pictures without the pull."""
TOLERATED = -0.005
COLLAPSED = 0.5
"""Of the other regime's effective rank: with less the gap was closed by giving up directions that tell people apart."""
Probes = Mapping[str, Mapping[int, Mapping[str, NDArray[np.float64]]]]


def remedy_of(
    accuracy: Mapping[str, Outcomes],
    tar: Mapping[str, Estimate],
    units: int,
    probes: Probes,
    identities: NDArray[np.int64] | None,
    ranks: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any] | None:
    """The criterion's four quantities against each of AGAINST that is there; None without the remedy.

    Args:
        accuracy: regime -> decisions on the HR-HR pairs. tar: regime -> TAR at FAR 1e-2, HR-LR.
        units: identities of the pairs.
        probes: regime -> seed -> "<kind> <view>" -> scores [2N], see ``judge.RunScores``.
        identities: int64 [N] of the probed pictures.
        ranks: regime -> seed -> effective rank of the probed pictures' embeddings.

    Returns:
        ``probe_auc`` (regime -> kind and view -> summary), ``against`` (regime -> quantity -> summary of the paired
        difference, with ``met``: "yes", "no", "opposite"), and ``verdict``: "success", "failed" or "undecided".
    """
    areas = probe_areas(probes, identities) if identities is not None else {}
    people = len(np.unique(identities)) if identities is not None else 0
    result: dict[str, Any] = {
        "probe_auc": {label: {k: one.summary(people) for k, one in kinds.items()} for label, kinds in areas.items()},
        "against": {},
        "verdict": "undecided",
    }
    if REMEDY not in accuracy:
        return result if areas else None
    for other in AGAINST:
        if other in accuracy:
            result["against"][other] = _against(other, accuracy, tar, units, areas, people, ranks or {})
    if AGAINST[0] in result["against"]:
        result["verdict"] = _verdict(result["against"][AGAINST[0]], len(accuracy[REMEDY].accuracy.seeds))
    return result


def probe_areas(probes: Probes, identities: NDArray[np.int64]) -> dict[str, dict[str, Estimate]]:
    """Regime -> "<kind> <view>" -> ``probe_area`` of its seeds."""
    result: dict[str, dict[str, Estimate]] = {}
    for label, seeds in probes.items():
        known = {seed: scores for seed, scores in seeds.items() if scores}
        for kind in next(iter(known.values()), {}):
            one = probe_area({seed: scores[kind] for seed, scores in known.items()}, identities)
            result.setdefault(label, {})[kind] = one
    return result


def _against(
    other: str,
    accuracy: Mapping[str, Outcomes],
    tar: Mapping[str, Estimate],
    units: int,
    areas: Mapping[str, Mapping[str, Estimate]],
    people: int,
    ranks: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for kind, area in areas.get(REMEDY, {}).items():
        if kind in areas.get(other, {}):
            one = area.minus(areas[other][kind]).summary(people, rate=False)
            rows[f"probe AUC, {kind}"] = one | {"met": _met([-one["interval"][1], -one["interval"][0]], 0.0)}
    one = tar[REMEDY].minus(tar[other]).summary(units, rate=False)
    rows["TAR at FAR 1e-2, HR-LR"] = one | {"met": _met(one["interval"], 0.0)}
    one = accuracy[REMEDY].accuracy.minus(accuracy[other].accuracy).summary(units, rate=False)
    rows["accuracy, HR-HR"] = one | {"met": _met(one["interval"], TOLERATED)}
    if REMEDY in ranks and other in ranks:
        rows["effective rank"] = _ratio(ranks[REMEDY], ranks[other])
    return rows


def _ratio(mine: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """One effective rank over the other by seed; the "interval" is their range, for three seeds give no more."""
    ratios = {seed: mine[seed] / theirs[seed] for seed in sorted(set(mine) & set(theirs))}
    least, most = min(ratios.values()), max(ratios.values())
    met = "yes" if least >= COLLAPSED else "opposite"
    return {"value": float(np.mean(list(ratios.values()))), "interval": [least, most], "by_seed": ratios, "met": met}


def _met(interval: list[float], bound: float) -> str:
    low, high = interval
    return "yes" if low > bound else "opposite" if high < bound else "no"


def _verdict(rows: Mapping[str, Any], seeds: int) -> str:
    deciding = [one["met"] for name, one in rows.items() if "LR36" not in name]  # the degradation never trained on
    probed = any(name.startswith("probe") for name in rows)
    if seeds < FEWEST_SEEDS or not probed:
        return "undecided"
    if "opposite" in deciding:
        return "failed"
    return "success" if all(met == "yes" for met in deciding) else "undecided"
