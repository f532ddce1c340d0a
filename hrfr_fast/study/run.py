"""Execution of a study: train what is not trained yet, score every run, analyse the embeddings, write the report.

The state of a study is what lies on disk, so the same command continues one that was stopped or killed: finished runs
are reused when settings and data are the same, an unfinished run is resumed from its last checkpoint.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrfr_fast.analysis.finding import Finding
from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.reader import Packed, open_packed
from hrfr_fast.regimes import Regime, is_checkpoint
from hrfr_fast.runtime.errors import CannotWrite, HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.files import write_json, writing
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.settings import SPEED_ONLY, TrainSettings
from hrfr_fast.study.cost import TimeLeft, estimates
from hrfr_fast.study.plan import StudyPlan, StudyRun, make_plan
from hrfr_fast.study.presets import preset_named
from hrfr_fast.study.score import score_run
from hrfr_fast.training.recipes import with_recipe
from hrfr_fast.training.tuning import as_the_regime_tunes

SAME = "study-job.json"
"""In each run directory: the settings it was asked for and the digest of its data."""
NOT_COMPARED = (*SPEED_ONLY, "data", "out")
"""Settings that may differ where two runs are the same; the data are compared by digest."""
_GO_ON = "the same `hrfr-fast study` command continues there"


def run_study(
    regimes: list[str],
    data: str | Path = "packed",
    out: str | Path = "study",
    *,
    preset: str = "full",
    seeds: int = 0,
    device: str = "auto",
    dose: bool = False,
    show_progress: bool = True,
) -> Path:
    """Run, or continue, a study; returns its report.

    Args:
        regimes: names, .toml files, or "all".
        data: directory written by ``hrfr-fast pack``.
        preset: a name or a .toml file, see ``presets.py``.
        seeds: how many; 0: as the preset says.
        dose: add the dose-response stage.

    Raises:
        UsageError: see ``make_plan``; a run in ``out`` that was made with other settings or data; ``out`` is in use.
        CannotWrite: a full disk; everything finished is kept, and the same command continues.
        Interrupted: Ctrl-C or SIGTERM; everything so far is on disk, and the same command continues.
        HrfrError: a run failed; says which.
    """
    plan = planned(regimes, data, out, preset=preset, seeds=seeds, device=device, dose=dose)
    with directory_lock(plan.out), writing(plan.out, lambda: f"What is finished is kept, and {_GO_ON}"):
        return _run(plan, show_progress)


def _run(plan: StudyPlan, show_progress: bool) -> Path:
    """The whole study, while its directory is locked."""
    states = [status(run, plan.packed) for run in plan.runs]  # refuses a run that does not fit before hours are spent
    with StopFlag() as stop:
        time_left = TimeLeft(plan, _unfinished(plan, states))
        for number, (run, state) in enumerate(zip(plan.runs, states, strict=True), 1):
            _stop_here(stop, plan)
            left = "" if state == "finished" else f" (about {_duration(time_left.seconds)} left)"
            console.print(f"[bold]{number} of {len(plan.runs)}[/]: {run}{_STATES[state]}{left}")
            if state == "finished":
                _score(run, plan)
                continue
            with time_left.doing(run):
                _train(run, plan, resume=state == "begun", show_progress=show_progress)
                _score(run, plan)
        _stop_here(stop, plan)
        findings, unanswered = _analyse(plan, show_progress)
        _stop_here(stop, plan)
    return _report(plan, findings, unanswered)


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
    """The plan of ``run_study`` with the same arguments."""
    return make_plan(regimes, preset_named(preset), open_packed(data), out, seeds=seeds, device=device, dose=dose)


_STATES = {"finished": " is finished already", "begun": " continues", "new": ""}
"""What is printed after a run's name."""


def status(run: StudyRun, packed: Packed) -> str:
    """ "new", "begun" or "finished". Raises UsageError when the directory holds a run of other settings or data."""
    path = run.directory / SAME
    if not path.exists():
        if (run.directory / "settings.toml").exists():
            raise UsageError(f"{run.directory} holds a run that is no part of this study; choose another --out")
        return "new"
    known, wanted = _known(path), identity_of(run, packed.digest)
    parents = known.pop("parents", {})
    if known["data_digest"] != packed.digest and _trained_on_the_same(run, packed):
        known["data_digest"] = packed.digest
    if known != wanted:
        difference = _difference(known, wanted)
        raise UsageError(f"{run.directory} was made with {difference}; choose another --out, or remove it")
    for name, weights in parents_of(run).items():
        if parents.get(name, weights) != weights:
            raise UsageError(
                f"{run.directory} started from another {name} than there is now; remove it, to train it anew"
            )
    if (run.directory / "report" / "report.html").exists():
        return "finished"
    return "begun" if (run.directory / "settings.toml").exists() else "new"


def _known(path: Path) -> dict[str, Any]:
    """The ``identity_of`` the run, as written when it was begun."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known["settings"] = _compared(TrainSettings().replaced(**known["settings"]), Regime(**known["regime"]))
        known["regime"] = Regime(**known["regime"]).model_dump(mode="json")
        return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"{path}: damaged ({error!r}); remove {path.parent}, to train it anew") from None


def _trained_on_the_same(run: StudyRun, packed: Packed) -> bool:
    """Whether ``packed`` has the training splits and development pairs of a run begun before it changed elsewhere."""
    from hrfr_fast.model.checkpoint import read_metadata
    from hrfr_fast.model.lineage import changed_run_data

    last = run.directory / "checkpoints" / "last.safetensors"
    return last.exists() and not changed_run_data(read_metadata(last), packed.manifest)


def identity_of(run: StudyRun, digest: str) -> dict[str, Any]:
    """What decides a run's result: settings, the regime's fields, the data."""
    settings, regime = _compared(run.settings, run.regime), run.regime.model_dump(mode="json")
    return {"settings": settings, "regime": regime, "data_digest": digest}


def _compared(settings: TrainSettings, regime: Regime) -> dict[str, Any]:
    """The settings that decide a result; what is not set as network and regime have it."""
    whole = as_the_regime_tunes(with_recipe(settings, [settings.model.backbone]), regime).flat()
    return {name: value for name, value in whole.items() if name not in NOT_COMPARED}


def parents_of(run: StudyRun) -> dict[str, str]:
    """Parent -> digest of its last checkpoint as it is now; "" where it has none yet."""
    from hrfr_fast.model.checkpoint import weights_path

    digests = {}
    for name in run.regime.parents:
        if is_checkpoint(name):
            continue
        try:
            digests[name] = file_digest(weights_path(run.directory.parent / name))
        except UsageError:
            digests[name] = ""
    return digests


def _difference(known: dict[str, Any], wanted: dict[str, Any]) -> str:
    if known["data_digest"] != wanted["data_digest"]:
        return "other data"
    for group in ("settings", "regime"):
        for name in sorted(set(known[group]) | set(wanted[group])):
            before, now = known[group].get(name), wanted[group].get(name)
            if before != now:
                return f"{name} {before!r}, and now it is {now!r}"
    return "other settings"


def _train(run: StudyRun, plan: StudyPlan, *, resume: bool, show_progress: bool) -> None:
    from hrfr_fast.training.trainer import train

    run.directory.mkdir(parents=True, exist_ok=True)
    if not resume:
        write_json(run.directory / SAME, identity_of(run, plan.packed.digest) | {"parents": parents_of(run)})
    try:
        train(run.settings, resume=resume, show_progress=show_progress)
    except Interrupted as stopped:
        raise Interrupted(f"stopped during {run}; {_GO_ON}", stopped.exit_code - 128) from None
    except CannotWrite as error:
        raise CannotWrite(f"{run}: {error.what}") from error
    except HrfrError as error:
        raise type(error)(f"{run}: {error}") from None


def _score(run: StudyRun, plan: StudyPlan) -> None:
    from hrfr_fast.runtime.device import choose_compute

    detailed = plan.detailed(run)
    with directory_lock(run.directory):
        score_run(
            run.directory, plan.packed, choose_compute(plan.device, _precision(run)),
            resolutions=plan.preset.sides if detailed else (), identify=detailed, probe=run.label in plan.preset.probed,
        )  # fmt: skip


def _precision(run: StudyRun) -> str:
    from hrfr_fast.settings import load_settings

    return load_settings(run.directory / "settings.toml").execution.precision


def _analyse(plan: StudyPlan, show_progress: bool) -> tuple[list[Finding], dict[str, str]]:
    """Answers of the embedding analyses for the preset's regimes, first seed; question -> why it has no answer."""
    from hrfr_fast.analysis.run import QUESTIONS, IncompleteAnalysis, analyze

    labels = [label for label in plan.preset.analysed if label in plan.labels]
    chosen: list[str | Path] = [plan.of(label)[0].directory for label in labels]
    # Filter kernels of one seed start equal; those of a second seed show how similar training alone makes them.
    kernels: list[str | Path] = [run.directory for label in labels[:2] for run in plan.of(label)[:2]]
    spheres: list[str | Path] = [run.directory for run in plan.runs if run.stage == "sphere"]
    other_questions = [question for question in QUESTIONS if question != "kernels"]
    findings: list[Finding] = []
    unanswered: dict[str, str] = {}
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


def _stop_here(stop: StopFlag, plan: StudyPlan) -> None:
    if stop:
        raise Interrupted(f"stopped; {plan.out} is kept, and {_GO_ON}", stop.signal_number or 2)


def _unfinished(plan: StudyPlan, states: list[str]) -> list[StudyRun]:
    return [run for run, state in zip(plan.runs, states, strict=True) if state != "finished"]


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
    seconds = estimates(plan, _unfinished(plan, states))
    return [
        PlannedRun(
            run.label, run.seed, run.stage, state, steps=run.steps if run.regime.phases else 0,
            batch_size=run.batch_size, seconds=seconds.get(run.directory, 0.0),
        )
        for run, state in zip(plan.runs, states, strict=True)
    ]  # fmt: skip


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
