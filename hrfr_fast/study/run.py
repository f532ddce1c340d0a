"""Execution of a study: train what is not trained yet, score every run, analyse the embeddings, write the report.

The state of a study is what lies on disk, so the same command continues one that was stopped or killed: finished runs
are reused when settings and data are the same, an unfinished run is resumed from its last checkpoint.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hrfr_fast.analysis.finding import Finding
from hrfr_fast.format.reader import open_packed
from hrfr_fast.runtime.cluster import check_on, connect
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import remove_leftovers, writing
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.study.cost import estimates
from hrfr_fast.study.execution import (
    GO_ON,
    Executor,
    InThisProcess,
    execute_runs,
    is_done,
    stop_here,
    task_of,
)
from hrfr_fast.study.plan import StudyPlan, make_plan
from hrfr_fast.study.presets import preset_named
from hrfr_fast.study.remedies.plan import Stages
from hrfr_fast.study.remedies.stages import known_plan, run_stages
from hrfr_fast.study.states import status

HERE = "here"


def run_study(
    regimes: list[str],
    data: str | Path = "packed",
    out: str | Path = "study",
    *,
    preset: str = "full",
    seeds: int = 0,
    device: str = "auto",
    dose: bool = False,
    on: str = "here",
    threads_per_run: int = 0,
    show_progress: bool = True,
) -> Path:
    """Run, or continue, a study; returns its report.

    Args:
        regimes: names, .toml files, or "all"; with a preset of remedies labels of those.
        data: directory written by ``hrfr-fast pack``.
        preset: a name or a .toml file, see ``presets.py``.
        seeds: how many; 0: as the preset says.
        dose: add the dose-response stage.
        on: "here": one run after the other in this process; else as many at once as a Ray cluster has places for, see
            ``runtime.cluster.connect``. Analyses and the report are made here in any case.
        threads_per_run: to train and score with on a CPU; 0: as many as a run was begun with, else all cores, or those
            that a cluster gives it (``schedule.share_of``).

    Raises:
        UsageError: see ``make_plan``; a run in ``out`` that was made with other settings or data; ``out`` is in use.
        CannotWrite: a full disk; everything finished is kept, and the same command continues.
        Interrupted: Ctrl-C or SIGTERM; everything so far is on disk, and the same command continues.
        HrfrError: a run failed, or was lost too often; says which.
    """
    plan = planned(regimes, data, out, preset=preset, seeds=seeds, device=device, dose=dose)
    if threads_per_run < 0:
        raise UsageError(f"--threads-per-run {threads_per_run}: it takes 0 (see --help) or more")
    if on != HERE:
        check_on(on)
    with directory_lock(plan.out), writing(plan.out, lambda: f"What is finished is kept, and {GO_ON}"):
        for folder in ("analysis", "figures", "tables"):
            remove_leftovers(plan.out / folder, below=True)
        with StopFlag() as stop:

            def execute_plan(part: StudyPlan) -> None:
                _execute(part, on, threads_per_run, stop, show_progress)

            if plan.preset.remedies:
                plan = run_stages(stages_of(plan, regimes), execute_plan)
            else:
                execute_plan(plan)
            findings, unanswered = _analyse(plan, show_progress)
            stop_here(stop, plan)
        return _report(plan, findings, unanswered)


def _execute(plan: StudyPlan, on: str, threads: int, stop: StopFlag, show_progress: bool) -> None:
    """Train and score all runs of ``plan``, wherever they are to be executed."""
    # Refuses a run that does not fit before hours are spent.
    states = {run.directory: status(run, plan.packed) for run in plan.runs}
    done = all(is_done(task_of(run, plan), plan.packed) for run in plan.runs)
    with _executor(HERE if done else on, plan, threads, stop, show_progress) as executor:
        execute_runs(plan, states, executor, stop, threads)


@contextmanager
def _executor(on: str, plan: StudyPlan, threads: int, stop: StopFlag, show_progress: bool) -> Iterator[Executor]:
    """Whoever executes single runs, for as long as the context lasts."""
    if on == HERE:
        yield InThisProcess(plan.packed, show_progress)
        return
    from hrfr_fast.study.on_ray import OnRay

    with connect(on) as cluster:
        yield OnRay(cluster, plan, threads, stop)


def planned(
    regimes: list[str],
    data: str | Path = "packed",
    out: str | Path = "study",
    *,
    preset: str = "full",
    seeds: int = 0,
    device: str = "auto",
    dose: bool = False,
) -> StudyPlan:
    """The plan of ``run_study`` with the same arguments; of remedies as far as it is known."""
    chosen, packed = preset_named(preset), open_packed(data)
    if chosen.remedies is None:
        return make_plan(regimes, chosen, packed, out, seeds=seeds, device=device, dose=dose)
    if dose:
        raise UsageError(f"preset {chosen.name} compares remedies; --dose is for a study of regimes")
    if seeds < 0:
        raise UsageError(f"--seeds {seeds}: it takes 0 (as the preset says) or more")
    numbers = tuple(range(seeds or chosen.seeds))
    return known_plan(Stages(chosen, packed, Path(out), numbers, device, _wanted(regimes)))


def stages_of(plan: StudyPlan, regimes: list[str]) -> Stages:
    """The stages of the study of remedies that ``plan`` is of. ``regimes``: see ``run_study``."""
    return Stages(plan.preset, plan.packed, plan.out, plan.seeds, plan.device, _wanted(regimes))


def _wanted(regimes: list[str]) -> tuple[str, ...]:
    """Labels of remedies; none where all are wanted."""
    return () if "all" in regimes else tuple(regimes)


def _analyse(plan: StudyPlan, show_progress: bool) -> tuple[list[Finding], dict[str, str]]:
    """Answers of the embedding analyses for the preset's regimes, first seed; question -> why it has no answer."""
    from hrfr_fast.analysis.run import QUESTIONS, IncompleteAnalysis, analyze

    labels = [label for label in plan.shown or plan.preset.analysed if label in plan.labels]
    chosen: list[str | Path] = [plan.of(label)[0].directory for label in labels]
    # Filter kernels of one seed start equal; those of a second seed show how similar training alone makes them.
    kernels: list[str | Path] = [run.directory for label in labels[:2] for run in plan.of(label)[:2]]
    spheres: list[str | Path] = [run.directory for run in plan.runs if run.stage == "sphere"]
    other_questions = [question for question in QUESTIONS if question != "kernels"]
    if plan.preset.remedies:  # the maps of the space, and the pairs that changed sides
        other_questions, kernels, spheres = ["resolution_gap", "failures"], [], []
    findings: list[Finding] = []
    unanswered: dict[str, str] = {}
    if len(chosen) < 2 and "drift" in other_questions:
        other_questions.remove("drift")
        unanswered["drift"] = "it compares two models, and one of this study's is analysed"
    for runs, folder, questions in (
        (chosen, "analysis", other_questions),
        (kernels, "analysis/kernels", ["kernels"]),
        (spheres, "analysis/sphere", ["sphere"]),
    ):  # fmt: skip
        if not runs:
            continue
        try:
            findings += analyze(
                runs, plan.out / folder, packed=plan.packed.path, device=plan.device, questions=questions,
                show_progress=show_progress,
            )  # fmt: skip
        except IncompleteAnalysis as error:
            console.print(f"warning: {error}", markup=False)
            findings += error.findings
        index = json.loads((plan.out / folder / "index.json").read_text(encoding="utf-8"))
        unanswered |= index["left_out"] | index["failed"]
    return findings, unanswered


def _report(plan: StudyPlan, findings: list[Finding], unanswered: dict[str, str]) -> Path:
    from hrfr_fast.study.collect import collect_results
    from hrfr_fast.study.report import write_study_report
    from hrfr_fast.study.tables import write_tables

    results = collect_results(plan, findings, unanswered)
    write_tables(results, plan.out)
    return write_study_report(plan.out, results)


@dataclass(frozen=True)
class PlannedRun:
    """One row of a dry run. ``state``: "new", "begun" or "finished"; ``seconds``: estimated, 0 for a finished run."""

    label: str
    seed: int
    stage: str
    state: str
    steps: int
    batch_size: int
    seconds: float


def dry_run(plan: StudyPlan) -> list[PlannedRun]:
    """State and estimated time of each run on this device; trains a few steps in a temporary directory."""
    states = [status(run, plan.packed) for run in plan.runs]
    seconds = estimates(plan, [run for run, state in zip(plan.runs, states, strict=True) if state != "finished"])
    return [
        PlannedRun(
            run.label, run.seed, run.stage, state, steps=run.steps if run.regime.phases else 0,
            batch_size=run.batch_size, seconds=seconds.get(run.directory, 0.0),
        )
        for run, state in zip(plan.runs, states, strict=True)
    ]  # fmt: skip
