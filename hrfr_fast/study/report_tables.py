"""Tables of a study's report: what stands in their cells."""

from collections.abc import Mapping
from typing import Any

from hrfr_fast.analysis.alignment import CPD, LINEAR, NONE
from hrfr_fast.model.lineage import UNKNOWN
from hrfr_fast.reporting.page import Table
from hrfr_fast.study.plan import APART
from hrfr_fast.study.remedy import Criterion
from hrfr_fast.study.results import OtherPairs, RegimeResult, StudyResults
from hrfr_fast.study.summary import Interval, Summary

MET = {"yes": "met", "no": "not met", "opposite": "the opposite"}


def tables_of(results: StudyResults) -> dict[str, Any]:
    """By the name that the template knows them by; ``other_pairs`` are several with titles."""
    return {
        "accuracy": _accuracy(results),
        "cross": _cross(results),
        "other_pairs": _other_pairs(results),
        "identification": _identification(results),
        "dose": _dose(results),
        "space": _space(results),
        "unanswered": Table(("question", "why"), list(results.unanswered.items()), wide=(1,)),
        "runs": _runs(results),
    }


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def with_interval(rate: Summary) -> str:
    """A rate in percent, and in a second line its interval."""
    return f"{percent(rate.value)}\n{_ends(rate.interval)}"


def _ends(interval: Interval) -> str:
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _points(change: Summary) -> str:
    low, high = change.interval
    return f"{100 * change.value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _area(area: Summary) -> str:
    low, high = area.interval
    return f"{area.value:.3f}\n{low:.3f} to {high:.3f}"


def _accuracy(results: StudyResults) -> Table:
    rows = []
    for label, result in results.verified(apart=False).items():
        spread = result.accuracy.seed_spread
        rows.append(
            (
                label, with_interval(result.accuracy), percent(result.fold_spread),
                "one seed" if spread is None else percent(spread), with_interval(result.auc),
                with_interval(result.eer),
                *(with_interval(result.tar_at_far[far]) for far in ("0.1", "0.01", "0.001")),
            )
        )  # fmt: skip
    head = (
        "regime", "accuracy", "10-fold spread", "seed spread", "AUC", "EER",
        "TAR at FAR 0.1", "0.01", "0.001",
    )  # fmt: skip
    return Table(head, rows)


def exploratory_differences(results: StudyResults) -> Table:
    """The significant ones, largest first."""
    found = [contrast for contrast in results.contrasts if not contrast.fixed and contrast.significant]
    rows = []
    for contrast in sorted(found, key=lambda contrast: -abs(contrast.difference)):
        names = [contrast.a, contrast.b]
        sign = 1 if contrast.difference > 0 else -1
        better, worse = names[::sign]
        low, high = sorted(100 * sign * end for end in contrast.interval)
        seen = [f"{results.regimes[label].pictures_seen:,}" for label in (better, worse)]
        points = f"{100 * abs(contrast.difference):.2f} ({low:.2f} to {high:.2f})"
        rows.append((better, worse, points, f"{contrast.p:.2g}", " and ".join(seen) if contrast.budgets else "as many"))
    return Table(("better", "worse", "points (95 % interval)", "p", "images seen in training"), rows)


def criteria(rows: Mapping[str, Criterion]) -> Table:
    """The remedy's criterion against one reference."""
    cells = [(name, _change(name, criterion), MET[criterion.met]) for name, criterion in rows.items()]
    return Table(("quantity", "points", "criterion"), cells)


def _change(name: str, criterion: Criterion) -> str:
    if name != "effective rank":
        return _points(criterion)
    low, high = criterion.interval
    return f"{criterion.value:.2f} times ({low:.2f} to {high:.2f} over seeds)"


def _cross(results: StudyResults) -> Table:
    rows = []
    for label, result in results.verified(apart=False).items():
        views = result.cross_resolution
        tars = [(views[view].tar_at_far or {})["0.01"] for view in ("HR-HR", "HR-LR")]
        rows.append((label, *map(with_interval, views.values()), *map(with_interval, tars)))
    return Table(("regime", "accuracy HR-HR", "HR-LR", "LR-LR", "TAR at FAR 0.01 HR-HR", "HR-LR"), rows)


def _other_pairs(results: StudyResults) -> list[dict[str, Any]]:
    """A table of the development pairs and one of the test pairs that the regimes are not compared on."""
    main = results.data.pairs.name if results.data.pairs else None
    found = [(name, pairs.kind) for regime in results.regimes.values() for name, pairs in regime.other_pairs.items()]
    names = sorted({name for name, _ in found if name != main})
    tests = {name for name, kind in found if kind == "test"}
    shown = {label: regime for label, regime in results.regimes.items() if regime.stage not in APART}
    parts = []
    for title, text, chosen in (
        ("Development pairs", "Pairs of held-out training people, mean over seeds. dev-lowres are real low-resolution "
         "faces: compare them with the simulated LR-LR above, which shows other people.",
         [name for name in names if name not in tests]),
        ("Other test pairs", "Test pairs that the regimes are not compared on, mean over seeds.",
         [name for name in names if name in tests]),
    ):  # fmt: skip
        rows = [(label, *(_other(regime.other_pairs.get(name)) for name in chosen)) for label, regime in shown.items()]
        if chosen:
            parts.append({"title": title, "text": text, "table": Table(("regime", *chosen), rows)})
    return parts


def _other(pairs: OtherPairs | None) -> str:
    if pairs is None:
        return ""
    seen = "\nperhaps of people seen in training" if pairs.kind == UNKNOWN else ""
    return f"{percent(pairs.accuracy)}\nfirst seed {_ends(pairs.first_seed_interval)}{seen}"


def _identification(results: StudyResults) -> Table:
    rows = []
    for label, result in results.verified().items():
        found = result.identification
        if found:
            rates = [found.of(view).rate(rank) for view in ("HR", "LR") for rank in (1, 5)]
            cells = [f"{percent(rate)}\n{_ends(interval)}" for rate, interval in rates]
            rows.append((label, *cells, f"{found.probes:,} among {found.gallery:,}"))
    return Table(("regime", "HR rank 1", "rank 5", "LR rank 1", "rank 5", "probes"), rows)


def _dose(results: StudyResults) -> Table:
    rows = [
        (dose.regime, dose.kind.replace("_", " "), percent(dose.dose, 0), with_interval(dose))
        for dose in results.dose or []
    ]
    return Table(("regime", "what is dosed", "dose", "accuracy"), rows)


def _space(results: StudyResults) -> Table:
    rows = []
    for label, space in (results.space.regimes if results.space else {}).items():
        methods, ranks = space.methods, list(space.effective_rank.values())
        if methods:
            rows.append(
                (
                    label, *(_area(methods[name].probe_auc) for name in (NONE, CPD, LINEAR)),
                    *(_points(methods[name].accuracy_gain) for name in (CPD, LINEAR)),
                    with_interval(space.overlap), f"{min(ranks):.1f} to {max(ranks):.1f}",
                )
            )  # fmt: skip
    head = (
        "regime", "probe AUC as it is", "after CPD", "after a linear map", "points gained by CPD",
        "by a linear map", "overlap HR-LR", "effective rank",
    )  # fmt: skip
    return Table(head, rows)


def _runs(results: StudyResults) -> Table:
    rows = [
        (label, regime.summary, regime.stage, f"{regime.input_size} px", regime.budget,
         f"{_steps(regime)} x {regime.batch_size}", f"{len(regime.runs)}", regime.first_run)
        for label, regime in results.regimes.items()
    ]  # fmt: skip
    head = ("regime", "trained on", "part", "input", "budget", "steps x batch", "seeds", "first run")
    return Table(head, rows, wide=(1,))


def _steps(regime: RegimeResult) -> str:
    least, most = (limit(regime.steps_by_seed.values()) for limit in (min, max))
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
