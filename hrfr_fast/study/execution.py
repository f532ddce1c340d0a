"""Execution of a study's runs in the order of the plan, parents before children, whoever executes a single one."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hrfr_fast.format.reader import Packed
from hrfr_fast.runtime.errors import CannotWrite, HrfrError, Interrupted
from hrfr_fast.runtime.lock import directory_lock, on_behalf_of
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import given_cores
from hrfr_fast.runtime.words import counted
from hrfr_fast.study.cost import TimeLeft
from hrfr_fast.study.plan import StudyPlan, StudyRun
from hrfr_fast.study.remedies.development import is_scored_on_development, score_development
from hrfr_fast.study.schedule import startable
from hrfr_fast.study.score import is_scored, score_run
from hrfr_fast.study.states import begin, status, threads_of

GO_ON = "the same `hrfr-fast study` command continues there"


@dataclass(frozen=True)
class RunTask:
    """One run to train and score, with all that this takes but the packed data."""

    run: StudyRun
    study: Path
    """Directory of the study, whose holder is whom the run's directory is locked for."""
    device: str
    resolutions: tuple[int, ...]
    identify: bool
    probe: bool
    threads: int = 0
    """To compute with; 0: as many as the run was begun with, or ``cores`` where that says nothing."""
    cores: int = 0
    """That it is given; 0: all of the machine."""
    tests: bool = True
    """Score it on the test faces."""
    remedies: bool = False
    """It is one of a study of remedies: score it on development faces, too; the space is not aligned."""


@dataclass(frozen=True)
class Executed:
    """A run that was trained and scored: in so many seconds, and where ("" for this machine)."""

    run: StudyRun
    seconds: float
    where: str = ""


class Executor(Protocol):
    """Whoever executes single runs. An error of a run is raised by ``start`` or ``executed``."""

    def places(self) -> int:
        """How many runs can be executed at once."""

    def estimates(self, plan: StudyPlan, runs: list[StudyRun]) -> dict[Path, float]:
        """As ``cost.estimates``, timed where the runs will be executed."""

    def start(self, task: RunTask) -> None:
        """Execute a run, or begin to."""

    def executed(self) -> list[Executed]:
        """Started runs that were executed since the last call; waits a moment for them where there are none."""

    def stop(self) -> None:
        """Have every started run write its checkpoint and end."""


def execute_runs(
    plan: StudyPlan, states: dict[Path, str], executor: Executor, stop: StopFlag, threads: int = 0
) -> None:
    """Train and score all runs of ``plan``.

    Args:
        states: ``status`` by directory.
        threads: of each run; 0: see ``RunTask.threads``.

    Raises:
        Interrupted: ``stop`` was set; what was started is stopped with a checkpoint.
        HrfrError: of a run, which it names; the others are stopped with a checkpoint.
    """
    finished: set[Path] = set()
    started: dict[Path, StudyRun] = {}
    try:
        unfinished = [run for run in plan.runs if states[run.directory] != "finished"]
        time_left = TimeLeft(executor.estimates(plan, unfinished))
        while len(finished) < len(plan.runs):
            places = executor.places()
            for run in startable(plan.runs, finished, started):
                if len(started) >= places:
                    break
                stop_here(stop, plan)
                if not (plan.preset.remedies and not plan.tests and states[run.directory] == "finished"):
                    _announce(run, plan, states[run.directory], time_left.seconds(places))
                started[run.directory] = run
                executor.start(task_of(run, plan, threads))
            for done in executor.executed():
                del started[done.run.directory]
                finished.add(done.run.directory)
                time_left.executed(done.run, done.seconds)
                if done.where:
                    _tell(done, plan, len(finished), len(started), time_left.seconds(places))
            stop_here(stop, plan)
    except BaseException:
        executor.stop()
        raise


def task_of(run: StudyRun, plan: StudyPlan, threads: int = 0) -> RunTask:
    """The task of executing ``run`` as ``plan`` wants it."""
    detailed = plan.detailed(run)
    return RunTask(
        run, plan.out, plan.device, resolutions=plan.preset.sides if detailed else (), identify=detailed,
        probe=plan.probed(run), threads=threads, tests=plan.tests, remedies=plan.preset.remedies is not None,
    )  # fmt: skip


def is_done(task: RunTask, packed: Packed) -> bool:
    """Whether the run is trained and scored: then ``execute`` would do nothing."""
    directory = task.run.directory
    if status(task.run, packed) != "finished" or (task.remedies and not is_scored_on_development(directory, packed)):
        return False
    return not task.tests or is_scored(
        directory, packed, resolutions=task.resolutions, identify=task.identify, probe=task.probe,
        align=not task.remedies,
    )  # fmt: skip


def execute(task: RunTask, packed: Packed, *, show_progress: bool, patience: float = 0.0) -> None:
    """Train the run, or continue it from its last checkpoint, and score it; what is done already is not done again.

    Args:
        patience: seconds to wait for the run's directory where another process still holds it.

    Raises:
        HrfrError: see ``train``; names the run.
        Interrupted: Ctrl-C or SIGTERM while it trains; a checkpoint is written.
    """
    run = task.run
    state = status(run, packed)
    threads = task.threads or threads_of(run) or task.cores
    if state == "begun" and threads != threads_of(run):
        console.print(
            f"note: {run} was begun with {_threads(threads_of(run))} and continues with {_threads(threads)}: its last"
            " bits will be those of neither"
        )
    with on_behalf_of(task.study, patience), given_cores(threads):
        if state != "finished":
            _train(run, packed, threads, resume=state == "begun", show_progress=show_progress)
        _score(task, packed)


def _threads(count: int) -> str:
    return counted(count, "thread") if count else "all cores of a machine"


def _train(run: StudyRun, packed: Packed, threads: int, *, resume: bool, show_progress: bool) -> None:
    from hrfr_fast.training.trainer import train

    if not resume:
        begin(run, packed, threads)
    try:
        train(run.settings, resume=resume, show_progress=show_progress)
    except Interrupted as stopped:
        raise Interrupted(f"stopped during {run}; {GO_ON}", stopped.exit_code - 128) from None
    except CannotWrite as error:
        raise CannotWrite(f"{run}: {error.what}") from error
    except HrfrError as error:
        raise type(error)(f"{run}: {error}") from None


def _score(task: RunTask, packed: Packed) -> None:
    from hrfr_fast.runtime.device import choose_compute
    from hrfr_fast.settings import load_settings

    directory = task.run.directory
    precision = load_settings(directory / "settings.toml").execution.precision
    compute = choose_compute(task.device, precision)
    with directory_lock(directory):
        if task.remedies:
            score_development(directory, packed, compute)
        if task.tests:
            score_run(
                directory, packed, compute, resolutions=task.resolutions, identify=task.identify, probe=task.probe,
                align=not task.remedies,
            )  # fmt: skip


class InThisProcess:
    """Executor of one run after the other, here."""

    def __init__(self, packed: Packed, show_progress: bool) -> None:
        self.packed, self.show_progress = packed, show_progress
        self._executed: list[Executed] = []

    def places(self) -> int:
        return 1

    def estimates(self, plan: StudyPlan, runs: list[StudyRun]) -> dict[Path, float]:
        from hrfr_fast.study.cost import estimates

        return estimates(plan, runs)

    def start(self, task: RunTask) -> None:
        began = time.monotonic()
        execute(task, self.packed, show_progress=self.show_progress)
        self._executed.append(Executed(task.run, time.monotonic() - began))

    def executed(self) -> list[Executed]:
        done, self._executed = self._executed, []
        return done

    def stop(self) -> None:
        """Nothing: an error ends what is executed here."""


_STATES = {"finished": " is finished already", "begun": " continues", "new": ""}
"""What is printed after a run's name."""


def _announce(run: StudyRun, plan: StudyPlan, state: str, seconds: float) -> None:
    left = "" if state == "finished" or not seconds else f" (about {_duration(seconds)} left)"
    number = plan.runs.index(run) + 1
    console.print(f"[bold]{number} of {len(plan.runs)}[/]: ", end="", markup=True)
    console.print(f"{run}{_STATES[state]}{left}")


def _tell(done: Executed, plan: StudyPlan, finished: int, started: int, seconds: float) -> None:
    """One line on a run that was executed elsewhere, and on all."""
    waiting = len(plan.runs) - finished - started
    left = f", about {_duration(seconds)} left" if seconds else ""
    console.print(
        f"{done.run}: finished on {done.where} after {_duration(done.seconds)}; {finished} of {len(plan.runs)} runs"
        f" finished, {started} started, {waiting} waiting{left}",
        highlight=False,
    )


def stop_here(stop: StopFlag, plan: StudyPlan) -> None:
    """Raise Interrupted when a signal has arrived."""
    if stop:
        raise Interrupted(f"stopped; {plan.out} is kept, and {GO_ON}", stop.signal_number or 2)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return counted(minutes, "minute") if minutes < 90 else f"{minutes / 60:.1f} hours"
