"""Collection of a study's results: facts of its runs and data, and the comparison of the regimes by their scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.analysis.finding import Finding
from hrfr_fast.evaluation.evaluate import caveats
from hrfr_fast.evaluation.views import LR36
from hrfr_fast.format.reader import PairSet
from hrfr_fast.model.checkpoint import read_metadata, weights_path
from hrfr_fast.model.lineage import data_note, pairs_digest
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.version import __version__
from hrfr_fast.study.compare import HR_HR, HR_LR, Comparison, ScoredRuns, compare, level_of, units_of
from hrfr_fast.study.findings import findings_of
from hrfr_fast.study.plan import StudyPlan, StudyRun
from hrfr_fast.study.remedies.collect import remedies_of
from hrfr_fast.study.remedies.results import RemediesResult
from hrfr_fast.study.remedy import remedy_of
from hrfr_fast.study.results import (
    AnalysisFigure,
    AnalysisResult,
    DataFacts,
    OtherPairs,
    PairFacts,
    RegimeResult,
    SplitFacts,
    StudyResults,
)  # fmt: skip
from hrfr_fast.study.score import FACES, RunScores, main_pairs, read_run_scores
from hrfr_fast.study.space import SpaceResult, space_of


def collect_results(plan: StudyPlan, findings: Sequence[Finding], unanswered: Mapping[str, str]) -> StudyResults:
    """Results of a study whose runs are all trained and scored.

    Args:
        findings: answers of the embedding analyses.
        unanswered: question -> why the embeddings do not answer it.

    Raises:
        UsageError: fewer than ten genuine or impostor test pairs, which 10 folds need.
    """
    results = StudyResults(
        hrfr_fast=__version__,
        preset=plan.preset.model_dump(mode="json"),
        seeds=list(plan.seeds),
        data=_data_facts(plan),
        regimes=_regimes(plan),
        contrasts=[],
        findings=[_analysis_result(finding, plan.out) for finding in findings],
        unanswered=dict(unanswered),
        claims=[],
    )
    pairs = main_pairs(plan.packed)
    if pairs is not None:
        results = _with_comparison(results, plan, pairs)
    return replace(results, claims=findings_of(results))


def _with_comparison(results: StudyResults, plan: StudyPlan, pairs: PairSet) -> StudyResults:
    scored = {label: {run.seed: _scores(run.directory) for run in plan.of(label)} for label in plan.labels}
    comparison = compare(pairs, scored)
    verifications = comparison.verifications()
    regimes = {label: replace(regime, verification=verifications[label]) for label, regime in results.regimes.items()}
    space = _space(plan, scored)
    return replace(
        results,
        regimes=regimes,
        contrasts=comparison.contrasts(plan, regimes),
        dose=comparison.doses(plan),
        space=space,
        remedy=remedy_of(*_criterion_data(plan, comparison, space)),
        remedies=_remedies(plan, comparison, space),
    )


def _scores(run: Path) -> RunScores:
    scores = read_run_scores(run)
    assert scores is not None, f"{run} is scored before results are collected"
    return scores


def _space(plan: StudyPlan, scored: ScoredRuns) -> SpaceResult | None:
    faces = plan.packed.splits.get(FACES)
    if not faces:
        return None
    spaces = {label: {seed: scores.space for seed, scores in seeds.items()} for label, seeds in scored.items()}
    return space_of(spaces, faces.labels)


def _criterion_data(plan: StudyPlan, comparison: Comparison, space: SpaceResult | None) -> tuple[Any, ...]:
    """The arguments of ``remedy_of``."""
    faces = plan.packed.splits.get(FACES)
    probes = {
        label: {seed: scores.probe for seed, scores in seeds.items()} for label, seeds in comparison.scored.items()
    }
    tar = {label: rates["0.01"] for label, rates in comparison.rates[HR_LR].items()}
    ranks = {label: regime.effective_rank for label, regime in space.regimes.items()} if space else {}
    labels = faces.labels if faces else None
    return comparison.outcomes[HR_HR], tar, comparison.units, probes, labels, ranks


def _remedies(plan: StudyPlan, comparison: Comparison, space: SpaceResult | None) -> RemediesResult | None:
    if plan.preset.remedies is None:
        return None
    *_, probes, labels, ranks = _criterion_data(plan, comparison, space)
    return remedies_of(plan, comparison, probes, labels, ranks)


def _data_facts(plan: StudyPlan) -> DataFacts:
    packed, pairs = plan.packed, main_pairs(plan.packed)
    return DataFacts(
        path=str(packed.path),
        digest=packed.digest,
        synthetic="synthetic" in packed.manifest.get("provenance", {}),
        splits={
            name: SplitFacts(pictures=split.samples, identities=split.identities, pixels=split.size)
            for name, split in packed.splits.items()
        },
        pairs=None if pairs is None else _pair_facts(pairs),
    )


def _pair_facts(pairs: PairSet) -> PairFacts:
    notes = list(caveats(pairs))
    if pairs.split.size <= LR36:
        notes.append("its images have low resolution: no view of them shows a high one")
    genuine = float(pairs.same.mean())
    return PairFacts(
        name=pairs.name, pairs=len(pairs), pixels=pairs.split.size, identities=units_of(pairs), level=level_of(pairs),
        notes=notes, guessing=max(genuine, 1 - genuine),
    )  # fmt: skip


def _regimes(plan: StudyPlan) -> dict[str, RegimeResult]:
    """By label, without verification."""
    regimes: dict[str, RegimeResult] = {}
    for label in plan.labels:  # parents come first
        regimes[label] = _regime(plan, label, regimes)
    return regimes


def _regime(plan: StudyPlan, label: str, parents: Mapping[str, RegimeResult]) -> RegimeResult:
    runs = plan.of(label)
    first, regime = runs[0], runs[0].regime
    steps_by_seed = {str(run.seed): _steps(run) for run in runs}
    steps, batch_size = round(float(np.mean(list(steps_by_seed.values())))), first.batch_size
    own = steps * batch_size if regime.phases else 0
    inherited = max((parents[name].pictures_seen for name in regime.parents if name in parents), default=0)
    return RegimeResult(
        regime=regime.name, summary=regime.summary, stage=first.stage, dose=first.dose,
        input_size=regime.input_size, control_of=regime.control_of or "", budget=regime.budget, steps=steps,
        batch_size=batch_size, steps_by_seed=steps_by_seed, plateau=_plateau(runs),
        runs={str(run.seed): str(run.directory.relative_to(plan.out)) for run in runs},
        data_note=data_note(_metadata(first), plan.packed), other_pairs=_other_pairs(runs, plan),
        pictures_seen=own + inherited,
    )  # fmt: skip


def _other_pairs(runs: Sequence[StudyRun], plan: StudyPlan) -> dict[str, OtherPairs]:
    """Of the pair sets that every seed verified itself."""
    by_seed = [own_results(run, plan) for run in runs]
    names = sorted(set.intersection(*(set(results) for results in by_seed)))
    return {
        name: OtherPairs(
            kind=by_seed[0][name]["kind"],
            accuracy=float(np.mean([results[name]["accuracy"] for results in by_seed])),
            first_seed_interval=tuple(by_seed[0][name]["accuracy_ci"]),
            pairs=by_seed[0][name]["pairs"],
        )
        for name in names
    }


def own_results(run: StudyRun, plan: StudyPlan) -> dict[str, Any]:
    """The run's own results.json, without pair sets that have changed since. Raises UsageError for a damaged one."""
    path = run.directory / "results.json"
    try:
        results: dict[str, Any] = parsed_json(path.read_bytes())
        if not all(_is_result(result) for result in results.values()):
            raise ValueError("a result is incomplete")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path}: missing or damaged ({error}), as in a folder that was copied in part; copy it again, or remove"
            f" {run.directory} to train it anew"
        ) from None
    seen = _metadata(run)["data"].get("pairs", {})
    now = {name: pairs_digest(entry) for name, entry in plan.packed.manifest["pairs"].items()}
    return {name: result for name, result in results.items() if seen.get(name, now.get(name)) == now.get(name)}


def _is_result(result: object) -> bool:
    """Whether it has what ``OtherPairs`` takes, with numbers that are some."""
    if not isinstance(result, dict) or not isinstance(result.get("kind"), str) or type(result.get("pairs")) is not int:
        return False
    interval = result.get("accuracy_ci")
    numbers = [result.get("accuracy"), *(interval if isinstance(interval, list) and len(interval) == 2 else [None])]
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def _steps(run: StudyRun) -> int:
    """Steps taken: fewer than planned where a plateau ended the run."""
    return int(_metadata(run)["step"])


def _metadata(run: StudyRun) -> dict[str, Any]:
    return read_metadata(weights_path(run.directory))


def _plateau(runs: Sequence[StudyRun]) -> str | None:
    """See ``RegimeResult.plateau``; "reached" needs every seed."""
    if runs[0].regime.budget != "highres":
        return None
    if not runs[0].settings.budget.plateau:
        return "not watched"
    return "reached" if all(_steps(run) < run.steps for run in runs) else "not reached"


def _analysis_result(finding: Finding, out: Path) -> AnalysisResult:
    figures = [AnalysisFigure(str(figure.path.relative_to(out)), figure.caption) for figure in finding.figures]
    return AnalysisResult(finding.key, finding.question, finding.answer, finding.numbers, figures)
