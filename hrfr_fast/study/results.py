"""From scores to results: what the study found, as one tree of plain values."""

import json
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.finding import Finding
from hrfr_fast.evaluation.compare import Estimate, Outcomes, all_contrasts, resample_outcomes
from hrfr_fast.evaluation.evaluate import caveats
from hrfr_fast.evaluation.rates import resampled_rates
from hrfr_fast.evaluation.resolution import CROSS_RESOLUTION_VIEWS
from hrfr_fast.evaluation.verification import Verification, verify
from hrfr_fast.evaluation.views import LR36
from hrfr_fast.format.reader import PairSet
from hrfr_fast.model.checkpoint import read_metadata, weights_path
from hrfr_fast.model.lineage import data_note, pairs_digest
from hrfr_fast.runtime.version import __version__
from hrfr_fast.study.claims import claims_of
from hrfr_fast.study.judge import FACES, RunScores, main_pairs, read_run_scores
from hrfr_fast.study.plan import APART, StudyPlan, StudyRun
from hrfr_fast.study.remedy import remedy_of
from hrfr_fast.study.space import space_of

HR_HR, HR_LR = "HR-HR", "HR-LR"
FORMAT = "hrfr-fast study 1"
NO_HIGHRES = {"lowres144-finetuned": "lowres144-continued"}
"""Dosed regime -> the run that has had as many steps and no high resolution; lowres144 for all others."""
Scores = dict[str, dict[int, NDArray[np.float64]]]


def gather(plan: StudyPlan, findings: Sequence[Finding], unanswered: Mapping[str, str]) -> dict[str, Any]:
    """Everything the report shows, as plain JSON values; rates are shares in [0, 1], intervals [low, high].

    Args:
        unanswered: question -> why the embeddings were not asked it.

    Raises:
        UsageError: fewer test pairs than the ten of each kind that folds need.
    """
    judged = {label: {job.seed: _judged(job.run) for job in plan.of(label)} for label in plan.labels}
    results: dict[str, Any] = {
        "format": FORMAT,
        "hrfr_fast": __version__,
        "preset": plan.preset.model_dump(mode="json"),
        "seeds": list(plan.seeds),
        "data": _data(plan),
        "regimes": {label: _facts(plan, label) for label in plan.labels},
        "contrasts": [],
        "findings": [_finding(one, plan.out) for one in findings],
        "unanswered": dict(unanswered),
    }
    _count_pictures(plan, results["regimes"])
    pairs = main_pairs(plan.packed)
    if pairs is not None:
        _compare(plan, pairs, judged, results)
    results["claims"] = claims_of(results)
    cleaned: dict[str, Any] = json.loads(json.dumps(results))
    return cleaned


def _compare(
    plan: StudyPlan, pairs: PairSet, judged: Mapping[str, Mapping[int, RunScores]], results: dict[str, Any]
) -> None:
    """Add rates, intervals, contrasts, curves, doses and the remedy's criterion, all on the main test pairs."""
    units = units_of(pairs)
    crossed = {view: _scores(judged, attrgetter("by_view"), view) for view in CROSS_RESOLUTION_VIEWS}
    verified = {view: _verified(scores, pairs) for view, scores in crossed.items()}
    found = {view: _outcomes(verified[view], pairs) for view in CROSS_RESOLUTION_VIEWS}
    rates = {view: _rates(crossed[view], verified[view], pairs) for view in (HR_HR, HR_LR)}
    for label, entry in results["regimes"].items():
        entry |= _verification(verified[HR_HR][label], found[HR_HR][label], rates[HR_HR][label], units)
        entry["cross_resolution"] = {
            view: found[view][label].accuracy.summary(units)
            | ({"tar_at_far": _tars(rates[view][label], units)} if view in rates else {})
            for view in CROSS_RESOLUTION_VIEWS
        }
        entry["identification"] = _first(one.identification for one in judged[label].values())
    _resolution_curves(judged, pairs, results)
    compared = {label: found[HR_HR][label] for label in plan.labels if plan.of(label)[0].stage not in APART}
    results["contrasts"] = [
        one.to_json() | {"budgets": budgets_differ(results["regimes"][one.a], results["regimes"][one.b])}
        for one in all_contrasts(compared, units, level=level_of(pairs))
    ]
    results["dose"] = _doses(plan, found[HR_HR], units)
    faces = plan.packed.splits.get(FACES)
    if faces:
        spaces = {label: {seed: one.space for seed, one in seeds.items()} for label, seeds in judged.items()}
        results["space"] = space_of(spaces, faces.labels)
    ranks = {label: one["effective_rank"] for label, one in results.get("space", {"regimes": {}})["regimes"].items()}
    results["remedy"] = remedy_of(
        found[HR_HR], {label: rates[HR_LR][label]["0.01"] for label in plan.labels}, units,
        {label: {seed: one.probe for seed, one in seeds.items()} for label, seeds in judged.items()},
        faces.labels if faces else None, ranks,
    )  # fmt: skip


def _judged(run: Path) -> RunScores:
    found = read_run_scores(run)
    assert found is not None, f"{run} was judged before tables are made"
    return found


def _data(plan: StudyPlan) -> dict[str, Any]:
    packed, pairs = plan.packed, main_pairs(plan.packed)
    content: dict[str, Any] = {
        "path": str(packed.path),
        "digest": packed.digest,
        "synthetic": "synthetic" in packed.manifest.get("provenance", {}),
        "splits": {
            name: {"pictures": split.samples, "identities": split.identities, "pixels": split.size}
            for name, split in packed.splits.items()
        },
        "pairs": None,
    }
    if pairs is not None:
        content["pairs"] = {
            "name": pairs.name, "pairs": len(pairs), "pixels": pairs.split.size, "identities": units_of(pairs),
            "level": level_of(pairs), "notes": caveats(pairs),
            "guessing": float(max(pairs.same.mean(), 1 - pairs.same.mean())),
        }  # fmt: skip
        if pairs.split.size <= LR36:
            content["pairs"]["notes"].append("its pictures have low resolution: no view of them shows a high one")
    return content


def units_of(pairs: PairSet) -> int:
    """What the bootstrap draws from: the number of identities, or of pairs where identities are not known."""
    return len(pairs) if pairs.identities is None else len(np.unique(pairs.identities))


def level_of(pairs: PairSet) -> str:
    """What those units are: "identity" or "pair"."""
    return "pair" if pairs.identities is None else "identity"


def _facts(plan: StudyPlan, label: str) -> dict[str, Any]:
    jobs = plan.of(label)
    first = jobs[0]
    runs = {str(job.seed): str(job.run.relative_to(plan.out)) for job in jobs}
    own = {job.seed: _own_results(job, plan) for job in jobs}
    others = sorted({name for result in own.values() for name in result})
    return {
        "regime": first.regime.name, "summary": first.regime.summary, "stage": first.stage, "dose": first.dose,
        "input_size": first.regime.input_size, "control_of": first.regime.control_of, "budget": first.regime.budget,
        "steps": round(float(np.mean([_steps(job) for job in jobs]))), "batch_size": first.batch_size,
        "steps_by_seed": {str(job.seed): _steps(job) for job in jobs}, "plateau": _plateau(jobs),
        "runs": runs, "data_note": data_note(_metadata(first), plan.packed),
        "other_pairs": {
            name: {
                "kind": own[first.seed][name]["kind"],
                "accuracy": float(np.mean([result[name]["accuracy"] for result in own.values()])),
                "first_seed_interval": own[first.seed][name]["accuracy_ci"],
                "pairs": own[first.seed][name]["pairs"],
            }
            for name in others if all(name in result for result in own.values())
        },
    }  # fmt: skip


def _own_results(job: StudyRun, plan: StudyPlan) -> dict[str, Any]:
    """What a run verified itself, but for pair sets that have changed since."""
    results: dict[str, Any] = json.loads((job.run / "results.json").read_text(encoding="utf-8"))
    seen = _metadata(job)["data"].get("pairs", {})
    here = {name: pairs_digest(entry) for name, entry in plan.packed.manifest["pairs"].items()}
    return {name: one for name, one in results.items() if seen.get(name, here.get(name)) == here.get(name)}


def _steps(job: StudyRun) -> int:
    """Taken, which is fewer than planned where a plateau ended the run."""
    return int(_metadata(job)["step"])


def _metadata(job: StudyRun) -> dict[str, Any]:
    return read_metadata(weights_path(job.run))


def _plateau(jobs: Sequence[StudyRun]) -> str | None:
    """Whether training went on until it no longer helped: "reached" in every seed, "not reached" or "not watched"; None
    for regimes whose budget is no matter of that."""
    if jobs[0].regime.budget != "highres":
        return None
    if not jobs[0].settings.budget.plateau:
        return "not watched"
    return "reached" if all(_steps(job) < job.steps for job in jobs) else "not reached"


def _count_pictures(plan: StudyPlan, regimes: Mapping[str, dict[str, Any]]) -> None:
    """Add "pictures_seen", by the longest line of training that led to a model: a parent's and its own."""
    for label, entry in regimes.items():  # parents come first
        job = plan.of(label)[0]
        own = entry["steps"] * entry["batch_size"] if job.regime.phases else 0
        entry["pictures_seen"] = own + max(
            (regimes[parent]["pictures_seen"] for parent in job.regime.parents if parent in regimes), default=0
        )


def budgets_differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """A sentence where one of two regimes has seen over a tenth more pictures than the other; else nothing."""
    seen = [a["pictures_seen"], b["pictures_seen"]]
    if max(seen) <= 1.1 * min(seen):
        return ""
    return (
        f"Their budgets differ: {seen[0]:,} and {seen[1]:,} pictures seen in training, those of what they start from "
        "included."
    )


def _finding(one: Finding, out: Path) -> dict[str, Any]:
    figures = [{"file": str(figure.path.relative_to(out)), "caption": figure.caption} for figure in one.figures]
    return {
        "key": one.key, "question": one.question, "answer": one.answer, "numbers": one.numbers, "figures": figures,
    }  # fmt: skip


def _scores(judged: Mapping[str, Mapping[int, RunScores]], group: Any, key: str | int) -> Scores:
    """Label -> seed -> the scores under ``key`` of what ``group`` takes from a RunScores, where there are some."""
    return {
        label: {seed: group(one)[key] for seed, one in seeds.items() if key in group(one)}
        for label, seeds in judged.items()
    }


def _verified(scores: Scores, pairs: PairSet) -> dict[str, dict[int, Verification]]:
    return {
        label: {seed: verify(one, pairs.same, pairs.identities, resamples=0) for seed, one in seeds.items()}
        for label, seeds in scores.items()
        if seeds
    }


def _outcomes(verified: Mapping[str, Mapping[int, Verification]], pairs: PairSet) -> dict[str, Outcomes]:
    correct = {label: {seed: one.correct for seed, one in seeds.items()} for label, seeds in verified.items()}
    return resample_outcomes(correct, pairs.same, pairs.identities) if correct else {}


def _rates(
    scores: Scores, verified: Mapping[str, Mapping[int, Verification]], pairs: PairSet
) -> dict[str, dict[str, Estimate]]:
    """Label -> "auc", "eer", "0.1" ... (TAR at that FAR) -> estimate."""
    result: dict[str, dict[str, Estimate]] = {}
    for label, seeds in scores.items():
        resampled = [resampled_rates(seeds[seed], pairs.same, pairs.identities) for seed in sorted(seeds)]
        whole = [verified[label][seed] for seed in sorted(seeds)]
        plain = [{"auc": one.auc, "eer": one.eer} | one.tar_at_far for one in whole]
        result[label] = {
            name: Estimate(
                tuple(sorted(seeds)),
                np.array([values[name] for values in plain]),
                np.stack([one[name] for one in resampled], axis=1),
            )
            for name in plain[0]
        }
    return result


def _verification(
    verified: Mapping[int, Verification], found: Outcomes, rates: Mapping[str, Estimate], units: int
) -> dict[str, Any]:
    folds = np.array([one.folds for one in verified.values()])
    first = next(iter(verified.values()))
    return {
        "accuracy": found.accuracy.summary(units),
        "auc": rates["auc"].summary(units),
        "eer": rates["eer"].summary(units),
        "tar_at_far": _tars(rates, units),
        "folds": {str(seed): one.folds for seed, one in verified.items()},
        "fold_spread": float(folds.std(axis=1, ddof=1).mean()),
        "warnings": first.warnings,
    }


def _tars(rates: Mapping[str, Estimate], units: int) -> dict[str, Any]:
    return {name: one.summary(units) for name, one in rates.items() if name not in ("auc", "eer")}


def _resolution_curves(judged: Mapping[str, Mapping[int, RunScores]], pairs: PairSet, results: dict[str, Any]) -> None:
    """Accuracy by test resolution, of the seeds that have the curve."""
    sides = sorted({side for seeds in judged.values() for one in seeds.values() for side in one.by_side})
    for entry in results["regimes"].values():
        entry["by_resolution"] = []
    for side in sides:
        scores = _scores(judged, attrgetter("by_side"), side)
        for label, found in _outcomes(_verified(scores, pairs), pairs).items():
            row = {"pixels": side} | found.accuracy.summary(units_of(pairs))
            results["regimes"][label]["by_resolution"].append(row)


def _doses(plan: StudyPlan, found: Mapping[str, Outcomes], units: int) -> list[dict[str, Any]]:
    """Accuracy by dose: the dosed runs, and as ends of the scale the runs without and with all highres identities."""
    rows: list[dict[str, Any]] = []
    for label in plan.labels:
        job = plan.of(label)[0]
        if job.dose:
            ((kind, value),) = job.dose.items()
            rows.append({"regime": job.regime.name, "kind": kind, "dose": value, "label": label})
    rows += [row for row in anchors(plan, rows) if row["label"] in found]
    return [
        row | found[str(row["label"])].accuracy.summary(units)
        for row in sorted(rows, key=lambda row: (row["regime"], row["kind"], row["dose"]))
    ]


def anchors(plan: StudyPlan, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs of the study itself that are a dose: none, all, and highres as it comes."""
    ends: list[dict[str, Any]] = []
    for regime, kind in sorted({(row["regime"], row["kind"]) for row in rows}):
        job = plan.of(regime)[0]
        without = NO_HIGHRES.get(regime, "")
        if without not in plan.labels:
            without = "lowres144"
        ends.append({"regime": regime, "kind": kind, "dose": 0.0, "label": without})
        if kind == "highres_identities":
            ends.append({"regime": regime, "kind": kind, "dose": 1.0, "label": regime})
        elif job.regime.highres_share is None:
            low, high = (plan.packed.splits[split].samples for split in job.regime.sources)
            ends.append({"regime": regime, "kind": kind, "dose": high / (low + high), "label": regime})
    return ends


def _first(values: Any) -> Any:
    return next((value for value in values if value is not None), None)
