"""Run a study: train what is not trained yet, judge every run, gather, analyse, report.

Everything is found again on disk, so a study that was stopped, or killed, continues with the same command: finished
runs are reused when settings and data are the same, a run in the middle is resumed from its last checkpoint.
"""

import json
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
from hrfr_fast.study.cost import Clock, estimates
from hrfr_fast.study.judge import judge
from hrfr_fast.study.plan import StudyPlan, StudyRun, make_plan
from hrfr_fast.study.presets import preset_named

SAME = "study-job.json"
"""In each run directory: the settings it was asked for and the digest of its data."""
NOT_COMPARED = (*SPEED_ONLY, "data", "out")
"""Settings that may differ where two runs are the same; the data are compared by digest."""


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
    """Everything, in a directory that is held."""
    states = [status(job, plan.packed) for job in plan.jobs]  # refuses before hours were spent
    with StopFlag() as stop:
        clock = Clock(plan, _unfinished(plan, states))
        for number, (job, state) in enumerate(zip(plan.jobs, states, strict=True), 1):
            _stop_here(stop, plan)
            left = "" if state == "finished" else f" (about {_duration(clock.left)} left)"
            console.print(f"[bold]{number} of {len(plan.jobs)}[/]: {job}{_IN_WORDS[state]}{left}")
            if state == "finished":
                _judge(job, plan)
                continue
            with clock.doing(job):
                _train(job, plan, resume=state == "begun", show_progress=show_progress)
                _judge(job, plan)
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


_IN_WORDS = {"finished": " is finished already", "begun": " goes on", "new": ""}


def status(job: StudyRun, packed: Packed) -> str:
    """ "new", "begun" or "finished". Raises UsageError when the directory holds a run of other settings or data."""
    path = job.run / SAME
    if not path.exists():
        if (job.run / "settings.toml").exists():
            raise UsageError(f"{job.run} holds a run that is no part of this study; choose another --out")
        return "new"
    known, wanted = _known(path), identity_of(job, packed.digest)
    parents = known.pop("parents", {})
    if known["data_digest"] != packed.digest and _trained_on_the_same(job, packed):
        known["data_digest"] = packed.digest
    if known != wanted:
        raise UsageError(f"{job.run} was made with {_difference(known, wanted)}; choose another --out, or remove it")
    for name, weights in parents_of(job).items():
        if parents.get(name, weights) != weights:
            raise UsageError(f"{job.run} started from another {name} than there is now; remove it, to train it anew")
    if (job.run / "report" / "report.html").exists():
        return "finished"
    return "begun" if (job.run / "settings.toml").exists() else "new"


def _known(path: Path) -> dict[str, Any]:
    """What ``identity_of`` was when the run was begun."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known["settings"] = _compared(TrainSettings().replaced(**known["settings"]))
        known["regime"] = Regime(**known["regime"]).model_dump(mode="json")
        return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"{path}: damaged ({error!r}); remove {path.parent}, to train it anew") from None


def _trained_on_the_same(job: StudyRun, packed: Packed) -> bool:
    """Whether ``packed`` has the training splits and development pairs of a run begun before it changed elsewhere."""
    from hrfr_fast.model.checkpoint import read_metadata
    from hrfr_fast.model.lineage import changed_run_data

    last = job.run / "checkpoints" / "last.safetensors"
    return last.exists() and not changed_run_data(read_metadata(last), packed.manifest)


def identity_of(job: StudyRun, digest: str) -> dict[str, Any]:
    """What makes two runs the same run: settings that change the result, the regime's fields, the data."""
    return {"settings": _compared(job.settings), "regime": job.regime.model_dump(mode="json"), "data_digest": digest}


def _compared(settings: TrainSettings) -> dict[str, Any]:
    return {name: value for name, value in settings.flat().items() if name not in NOT_COMPARED}


def parents_of(job: StudyRun) -> dict[str, str]:
    """Parent -> digest of the last checkpoint that it has now; "" where it has none yet."""
    from hrfr_fast.model.checkpoint import weights_path

    digests = {}
    for name in job.regime.parents:
        if is_checkpoint(name):
            continue
        try:
            digests[name] = file_digest(weights_path(job.run.parent / name))
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


def _train(job: StudyRun, plan: StudyPlan, *, resume: bool, show_progress: bool) -> None:
    from hrfr_fast.training.trainer import train

    job.run.mkdir(parents=True, exist_ok=True)
    if not resume:
        write_json(job.run / SAME, identity_of(job, plan.packed.digest) | {"parents": parents_of(job)})
    try:
        train(job.settings, resume=resume, show_progress=show_progress)
    except Interrupted as stopped:
        raise Interrupted(f"stopped during {job}; {_GO_ON}", stopped.exit_code - 128) from None
    except CannotWrite as error:
        raise CannotWrite(f"{job}: {error.what}") from error
    except HrfrError as error:
        raise type(error)(f"{job}: {error}") from None


_GO_ON = "the same `hrfr-fast study` command continues there"


def _judge(job: StudyRun, plan: StudyPlan) -> None:
    from hrfr_fast.runtime.device import choose_compute

    detailed = plan.detailed(job)
    with directory_lock(job.run):
        judge(
            job.run, plan.packed, choose_compute(plan.device, _precision(job)),
            sides=plan.preset.sides if detailed else (), identify=detailed, probe=job.label in plan.preset.probed,
        )  # fmt: skip


def _precision(job: StudyRun) -> str:
    from hrfr_fast.settings import load_settings

    return load_settings(job.run / "settings.toml").execution.precision


def _analyse(plan: StudyPlan, show_progress: bool) -> tuple[list[Finding], dict[str, str]]:
    """The embedding analyses of the preset's regimes, first seed: what was answered, and why the rest was not."""
    from hrfr_fast.analysis.run import QUESTIONS, IncompleteAnalysis, analyze

    labels = [label for label in plan.preset.analysed if label in plan.labels]
    chosen: list[str | Path] = [plan.of(label)[0].run for label in labels]
    # Kernels of one seed have one start; only those of another seed tell what training alone makes alike.
    kernels: list[str | Path] = [job.run for label in labels[:2] for job in plan.of(label)[:2]]
    spheres: list[str | Path] = [job.run for job in plan.jobs if job.stage == "sphere"]
    others = [question for question in QUESTIONS if question != "kernels"]
    findings: list[Finding] = []
    unanswered: dict[str, str] = {}
    for runs, folder, questions in (
        (chosen, "analysis", others),
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
    from hrfr_fast.study.report import write_study_report
    from hrfr_fast.study.results import gather
    from hrfr_fast.study.tables import write_tables

    results = gather(plan, findings, unanswered)
    write_tables(results, plan.out)
    return write_study_report(plan.out, results)


def _stop_here(stop: StopFlag, plan: StudyPlan) -> None:
    if stop:
        raise Interrupted(f"stopped; {plan.out} is kept, and {_GO_ON}", stop.signal_number or 2)


def _unfinished(plan: StudyPlan, states: list[str]) -> list[StudyRun]:
    return [job for job, state in zip(plan.jobs, states, strict=True) if state != "finished"]


def dry_run(plan: StudyPlan) -> list[dict[str, Any]]:
    """What would be done and how long it would take here; trains a few throw-away steps and changes nothing.

    Returns:
        One dict a job: ``label``, ``seed``, ``stage``, ``state``, ``steps``, ``batch_size``, ``seconds``.
    """
    states = [status(job, plan.packed) for job in plan.jobs]
    seconds = estimates(plan, _unfinished(plan, states))
    return [
        {
            "label": job.label, "seed": job.seed, "stage": job.stage, "state": state,
            "steps": job.steps if job.regime.phases else 0, "batch_size": job.batch_size,
            "seconds": seconds.get(job.run, 0.0),
        }
        for job, state in zip(plan.jobs, states, strict=True)
    ]  # fmt: skip


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
