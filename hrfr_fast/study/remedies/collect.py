"""Collection of what a study of remedies has found: verdicts, calibration, costs and what is recommended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrfr_fast.evaluation.compare import Estimate
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.words import plural
from hrfr_fast.study.compare import HR_HR, HR_LR, Comparison, level_of
from hrfr_fast.study.plan import StudyPlan
from hrfr_fast.study.remedies import judge
from hrfr_fast.study.remedies.calibration import CHOSEN_ON, Rates, calibration
from hrfr_fast.study.remedies.choice import LOW, development_summaries, evidence_estimates, read_choice
from hrfr_fast.study.remedies.costs import cost_of
from hrfr_fast.study.remedies.plan import REMEDY
from hrfr_fast.study.remedies.public_sets import public_results
from hrfr_fast.study.remedies.results import Calibration, CalibrationRow, Choice, JudgedRemedy, RemediesResult
from hrfr_fast.study.remedies.stages import CHOICE, DEGRADATION
from hrfr_fast.study.remedies.unseen import unseen_part
from hrfr_fast.study.score import RunScores
from hrfr_fast.study.summary import Summary, summarize

ACROSS = "HR-LR36"
"""View of a sharp face against one at 36 px, among those by resolution."""


def remedies_of(
    plan: StudyPlan,
    comparison: Comparison,
    probes: Mapping[str, Mapping[int, Mapping[str, Any]]],
    identities: Any,
    ranks: Mapping[str, Mapping[str, float]],
) -> RemediesResult:
    """All that is judged in ``plan``, a study of remedies whose runs are scored on the test faces.

    Args:
        probes, identities, ranks: as ``remedy.remedy_of`` takes them.
    """
    remedies, choice = plan.preset.remedies, read_choice(plan.out / CHOICE)
    if remedies is None or choice is None:
        raise HrfrError(f"{plan.out / CHOICE} is gone; the same command chooses anew")
    base = remedies.base
    tar = {label: rates["0.01"] for label, rates in comparison.rates[HR_LR].items()}
    found = judge.measured(comparison.outcomes[HR_HR], tar, comparison.units, probes, identities, ranks)
    rows = judge.verdicts(found, base, _controls(plan, choice), remedies.family)
    best = judge.recommended(rows, choice.ranking)
    labels = [base, *(row.label for row in rows)]
    level = plural(level_of(comparison.pairs))
    return RemediesResult(
        base=base,
        family=remedies.family,
        choice=choice,
        degradation=_matched(plan.out, "settings"),
        degradation_evidence=_matched(plan.out, "evidence"),
        judged=_judged(plan, rows, base),
        recommended=best,
        statement=judge.statement(rows, base, best, comparison.units, len(plan.seeds), level)
        + judge.without_gap(found, base),
        calibration=_calibrations(comparison, labels, base),
        development=development_summaries(plan, labels),
        unseen=unseen_part(plan, labels),
        public=public_results(plan, labels, base, remedies.public),
    )


def _controls(plan: StudyPlan, choice: Choice) -> dict[str, str]:
    """Remedy -> label of its control's runs, the variant that was chosen; of the best together the best of them; ""
    for none."""
    assert plan.preset.remedies is not None
    shown = [label for label in plan.labels if plan.of(label)[0].stage == REMEDY]
    own = {
        label: (candidate.name, candidate.control)
        for candidate in plan.preset.remedies.candidates
        for label, _ in candidate.variants()
        if label in shown
    }
    chosen = {name: label for label, (name, _) in own.items()}
    best = next(iter(choice.together), "")
    return {label: chosen.get(own[label][1], "") if label in own else best for label in shown}


def _matched(out: Path, what: str) -> dict[str, Any]:
    """ "settings" or "evidence" of the matched degradation; empty where none was matched."""
    path = out / DEGRADATION
    try:
        found: dict[str, Any] = parsed_json(path.read_bytes())[what] if path.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged ({error!r}); remove it, and it is made anew") from None
    return found


def _judged(plan: StudyPlan, rows: list[judge.Verdict], base: str) -> list[JudgedRemedy]:
    native, units = evidence_estimates(plan, [base, *(row.label for row in rows)], LOW)
    return [
        JudgedRemedy(
            label=row.label, summary=plan.of(row.label)[0].regime.summary, control=_control_of(row, base),
            verdict=row.verdict, p=row.p, p_holm=row.p_holm, against=row.against, detectable=row.detectable,
            native=summarize(native[row.label].minus(native[base]), units, rate=False),
            cost=cost_of(plan, row.label, base),
        )
        for row in rows
    ]  # fmt: skip


def _control_of(row: judge.Verdict, base: str) -> str:
    return next((other for other in row.against if other != base), "")


def _calibrations(comparison: Comparison, labels: list[str], base: str) -> dict[str, dict[str, Calibration]]:
    """By what the threshold was chosen on, and label; over the seeds that have the curve by resolution."""
    pairs = comparison.pairs
    sharp = str(pairs.split.size)
    rates: dict[str, dict[str, Rates]] = {}
    for label in labels:
        views = {seed: _views(scores, sharp) for seed, scores in comparison.scored[label].items()}
        most = max(len(one) for one in views.values())
        rates[label] = calibration({seed: one for seed, one in views.items() if len(one) == most}, pairs, sharp)
    units = comparison.units
    return {
        on: {
            label: _calibration(found[on], rates[base][on].spread if base in rates and label != base else None, units)
            for label, found in rates.items()
        }
        for on in CHOSEN_ON
    }


def _views(scores: RunScores, sharp: str) -> dict[str, Any]:
    """Cosines by test resolution, rising, and across resolutions."""
    found = {str(pixels): cosines for pixels, cosines in sorted(scores.by_resolution.items())}
    return found | {sharp: scores.by_view[HR_HR], ACROSS: scores.by_view[HR_LR]}


def _calibration(rates: Rates, base: Estimate | None, units: int) -> Calibration:
    change: Summary | None = None
    if base is not None:
        change = summarize(rates.spread.minus(base), units, rate=False)
    rows = [
        CalibrationRow(view, summarize(far, units), summarize(rates.frr[view], units))
        for view, far in rates.far.items()
    ]
    return Calibration(rows, summarize(rates.spread, units), change)
