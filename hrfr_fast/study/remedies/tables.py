"""Tables of remedies: rows for CSV files, and what stands in the report's cells."""

from collections.abc import Mapping
from typing import Any

from hrfr_fast.reporting.page import Table
from hrfr_fast.runtime.words import plural
from hrfr_fast.study.remedies.choice import HIGH, LOW, PROBE, TAR
from hrfr_fast.study.remedies.judge import ACCURACY
from hrfr_fast.study.remedies.results import Cost, Evidence, Gain, JudgedRemedy, RemediesResult
from hrfr_fast.study.remedy import Criterion
from hrfr_fast.study.summary import Interval, Summary

AREA = "probe"
"""Begins the names of quantities that are areas and no shares of pairs."""
RANK = "effective rank"
MET = {"yes": "holds", "no": "not shown", "opposite": "the opposite"}


def tables_of(result: RemediesResult) -> dict[str, Any]:
    """By the name that the template knows them by; "controls" by remedy."""
    return {
        "overview": _overview(result),
        "costs": _costs(result),
        "choice": _choice(result),
        "criteria": {row.label: _criteria(row) for row in result.judged},
        "calibration": {on: _calibration(result, on) for on in result.calibration},
        "rejected": _rejected(result),
        "detectable": _detectable(result),
        "native": _native(result),
    }


def _overview(result: RemediesResult) -> Table:
    names = list(dict.fromkeys(name for row in result.judged for name in row.against[result.base]))
    shown = [name for name in names if "LR36" not in name]
    rows = [
        (
            row.label, row.verdict, f"{row.p_holm:.2g}",
            *(_cell(name, row.against[result.base].get(name)) for name in shown),
            _points(row.native) if row.native else "",
            *(_points(one.changes[row.label]) for one in result.public),
        )
        for row in result.judged
    ]  # fmt: skip
    public = [one.name for one in result.public]
    return Table(("remedy", "verdict", "p, Holm", *shown, "native LR accuracy (development)", *public), rows)


def _cell(name: str, change: Criterion | None) -> str:
    return "" if change is None else f"{_change(name, change)}\n{MET[change.met]}"


def _change(name: str, change: Summary) -> str:
    low, high = change.interval
    if name == RANK:
        return f"{change.value:.2f} times"
    if name.startswith(AREA):
        return f"{change.value:+.3f} ({low:+.3f} to {high:+.3f})"
    return _points(change)


def _points(change: Summary | Gain) -> str:
    low, high = change.interval
    return f"{100 * change.value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _criteria(row: JudgedRemedy) -> Table:
    """One remedy against the base and its control."""
    names = list(dict.fromkeys(name for rows in row.against.values() for name in rows))
    cells = [(name, *(_cell(name, rows.get(name)) for rows in row.against.values())) for name in names]
    return Table(("quantity", *(f"minus {other}" for other in row.against)), cells)


def _costs(result: RemediesResult) -> Table:
    rows = [(row.label, row.summary, *_cost(row.cost)) for row in result.judged]
    return Table(
        (
            "remedy",
            "what it is",
            "time of a step",
            "parameters",
            "time to embed",
            "wrong flag at test time",
            "trained first",
        ),
        rows,
        wide=(1,),
    )


def _cost(cost: Cost) -> tuple[str, ...]:
    times = [f"{ratio:.2f} times" if ratio else "not measured" for ratio in (cost.training_time, cost.test_time)]
    wrong = [f"{100 * change:+.1f} points, {name}" for name, change in cost.wrong_flag.items()]
    needs = ", ".join(cost.trained_first) or "nothing"
    return times[0], f"{cost.parameters:.4g} times", times[1], "\n".join(wrong) or "needs none", needs


def _choice(result: RemediesResult) -> Table:
    ranked = {label: str(place) for place, label in enumerate(result.choice.ranking, 1)}
    quantities = (TAR, PROBE, LOW, HIGH)
    rows = [
        (
            ranked.get(one.label, "out"), one.label, f"{100 * one.score:+.2f}",
            *(_gain(one, name) for name in quantities), f"{one.rank_ratio:.2f} times", one.why_not,
        )
        for one in sorted(result.choice.evidence, key=lambda one: (bool(one.why_not), -one.score))
    ]  # fmt: skip
    return Table(("rank", "remedy", "score", *quantities, "effective rank", "why out"), rows, wide=(8,))


def _gain(one: Evidence, name: str) -> str:
    return _points(one.gains[name]) if name in one.gains else ""


def _calibration(result: RemediesResult, on: str) -> Table:
    found = result.calibration[on]
    views = [row.view for calibration in list(found.values())[:1] for row in calibration.rows]
    rows = []
    for label, one in found.items():
        cells = [f"{100 * row.far.value:.2f}\n{_ends(row.far.interval)}" for row in one.rows]
        change = _points(one.spread_change) if one.spread_change else ""
        rows.append((label, *cells, f"{100 * one.spread.value:.2f}\n{_ends(one.spread.interval)}", change))
    head = [f"{view} px" if view.isdecimal() else view for view in views]
    return Table(("FAR in %", *head, "greatest - least", "that minus the base's"), rows)


def _rejected(result: RemediesResult) -> Table:
    """FRR with the threshold of all resolutions together."""
    found = result.calibration.get("all", {})
    rows = [
        (label, *(f"{100 * row.frr.value:.1f}\n{_ends(row.frr.interval)}" for row in one.rows))
        for label, one in found.items()
    ]
    views = [row.view for one in list(found.values())[:1] for row in one.rows]
    return Table(("FRR in %", *(f"{view} px" if view.isdecimal() else view for view in views)), rows)


def _ends(interval: Interval) -> str:
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f}"


def _detectable(result: RemediesResult) -> Table:
    names = list(dict.fromkeys(name for row in result.judged for name in row.detectable))
    rows = [(row.label, *(_effect(name, row.detectable.get(name)) for name in names)) for row in result.judged]
    heads = [f"{name} (above the bound)" if name == ACCURACY else name for name in names]
    return Table(("remedy", *heads), rows)


def _effect(name: str, effect: float | None) -> str:
    if effect is None:
        return ""
    return f"{effect:.3f}" if name.startswith(AREA) else f"{100 * effect:.2f} points"


def _native(result: RemediesResult) -> Table:
    quantities = (LOW, HIGH, TAR)
    rows = [
        (
            label, *(_share(found[name]) for name in quantities),
            *(_share(one.values[label]) for one in result.public),
        )
        for label, found in result.development.items()
    ]  # fmt: skip
    heads = [f"{one.name} ({one.decisions:,} of {one.units:,} {plural(one.level)})" for one in result.public]
    return Table(("regime", *(f"{name} (development)" for name in quantities), *heads), rows)


def _share(found: Summary) -> str:
    return f"{100 * found.value:.1f} %\n{_ends(found.interval)}"


def csv_rows(result: RemediesResult) -> dict[str, list[dict[str, Any]]]:
    """Rows of the CSV files, by name."""
    return {
        "remedies": [
            {"remedy": row.label, "verdict": row.verdict, "p": row.p, "p_holm": row.p_holm, "against": other,
             "quantity": name, "met": change.met, **_flat(change), "detectable": row.detectable.get(name)}
            for row in result.judged
            for other, changes in row.against.items()
            for name, change in changes.items()
        ],
        "remedies_choice": [
            {"remedy": one.label, "score": one.score, "why_not": one.why_not, "quantity": name, "gain": gain.value,
             "low": gain.interval[0], "high": gain.interval[1]}
            for one in result.choice.evidence
            for name, gain in one.gains.items()
        ],
        "remedies_calibration": [
            {"threshold": on, "regime": label, "view": row.view, **_flat(row.far, "far"), **_flat(row.frr, "frr")}
            for on, found in result.calibration.items()
            for label, one in found.items()
            for row in one.rows
        ],
        "remedies_public": [
            {"set": one.name, "regime": label, **_flat(value, "share"),
             **(_flat(one.changes[label]) if label in one.changes else {})}
            for one in result.public
            for label, value in one.values.items()
        ],
        "remedies_cost": [
            {"remedy": row.label, "training_time": row.cost.training_time, "parameters": row.cost.parameters,
             "test_time": row.cost.test_time, "trained_first": " ".join(row.cost.trained_first)}
            for row in result.judged
        ],
    }  # fmt: skip


def _flat(change: Summary, name: str = "change") -> Mapping[str, float]:
    return {name: change.value, f"{name}_low": change.interval[0], f"{name}_high": change.interval[1]}
