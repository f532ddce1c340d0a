"""Training, in the order in which it happens: build what the run needs, take steps, verify, report.

Order and augmentation are functions of integers, so a run resumes mid-epoch and, on a CPU, ends in the same bits as if
it had never stopped.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from rich.markup import escape

from hrfr_fast.engines.base import Batch
from hrfr_fast.engines.stalls import told_when_stalled
from hrfr_fast.evaluation.evaluate import PairResult
from hrfr_fast.format.manifest import incomplete
from hrfr_fast.format.split_findings import split_warnings
from hrfr_fast.model.lineage import data_note
from hrfr_fast.runtime.determinism import deterministic
from hrfr_fast.runtime.errors import HrfrError, Interrupted
from hrfr_fast.runtime.files import write_json, writing
from hrfr_fast.runtime.progress import console, progress_bar
from hrfr_fast.runtime.ranks import current_ranks
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.words import counted
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training import advice
from hrfr_fast.training.agreement import Agreement
from hrfr_fast.training.batch_size import says_out_of_memory
from hrfr_fast.training.build import RunSetup, build
from hrfr_fast.training.data_parallel import is_sharded
from hrfr_fast.training.job import begins_or_resumes, job
from hrfr_fast.training.log import TrainingLog
from hrfr_fast.training.optim import set_learning_rate
from hrfr_fast.training.profile import StepProfiler
from hrfr_fast.training.resuming import how_to_go_on, resume_command, resumed_settings, with_absolute_paths
from hrfr_fast.training.speed import StepTimer, Throughput
from hrfr_fast.training.state import TrainState
from hrfr_fast.training.tuning import count_trained
from hrfr_fast.training.validation import Validation


@dataclass(frozen=True)
class TrainResult:
    """Where the run lies and what its last checkpoint reached on each pair set."""

    run: Path
    steps: int
    loss: float
    results: dict[str, PairResult]
    report: Path
    speed: Throughput
    """Of the whole run; verification, checkpoints and preparation do not count."""


def train(settings: TrainSettings, *, resume: bool = False, show_progress: bool = True) -> TrainResult:
    """Train one regime and verify its last checkpoint; as one of torchrun's ranks, together with the others.

    Ranks that torchrun has started again, after one had ended with an error, go on from the last checkpoint.

    Args:
        settings: what to train; relative paths are taken from the current directory.
        resume: continue the run in ``settings.run_directory`` from its last checkpoint, with the settings saved
            there (only what changes speed alone may differ: see ``resuming.py``).

    Raises:
        UsageError: unknown regime, missing split or parent, a run directory that holds a run or is in use, a resumed
            run whose data changed.
        HrfrError: the loss or a weight is no longer finite, or a batch does not fit the GPU; says at which step and
            what to do.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint is written and the message holds the resume command.
        DamageFound: with ``verify_checksums``, a record that does not match its checksum; a shard that shrinks.
        CannotWrite: a full disk; says which checkpoint is kept, and how to go on.
        ReportedElsewhere: of several ranks, on all but the one that raises one of these.
    """
    ranks, run = current_ranks(), settings.run_directory
    with job(ranks, settings) as stop, writing(run, lambda: how_to_go_on(run, ranks)):
        resume = begins_or_resumes(run, resume, ranks)
        if resume:
            settings = resumed_settings(settings)
        with (
            deterministic(settings.execution.deterministic),
            Trainer(build(settings, ranks), show_progress and ranks.is_main) as trainer,
        ):
            if resume:
                trainer.state.restore()
            trainer.start()
            trainer.loop(stop)
            return trainer.finish(stop)


class Trainer:
    """The training loop of one run.

    Args:
        setup: of the run; its engine is closed with the trainer.
        show_progress: draw a progress bar.
        records: write what is meant for others than this run: settings, weights, TensorBoard. Measurements do without.
    """

    def __init__(self, setup: RunSetup, show_progress: bool, *, records: bool = True) -> None:
        self.setup, self.show_progress, self.records = setup, show_progress, records
        self.state = TrainState(setup)
        self.agreement = Agreement(setup.ranks)
        execution, logging = setup.execution, setup.settings.logging
        peak = execution.peak * setup.ranks.count if execution.peak else None  # rates are those of all ranks together
        self.timer = StepTimer(setup.compute, setup.stream.batch_size, execution.flops, peak)
        self.log = TrainingLog(setup, self.state, self.timer, board=records)
        self.validation = Validation(setup, self.state)
        self.profiler = StepProfiler(
            (logging.profile or 0) * setup.ranks.is_main, setup.run / "profile", setup.compute.device
        )

    def start(self) -> None:
        """Say what will happen, and leave the resolved settings in the run directory."""
        setup = self.setup
        if not setup.ranks.is_main:
            return
        (setup.run / "checkpoints").mkdir(parents=True, exist_ok=True)
        if self.records:
            with_absolute_paths(setup.settings).save(setup.run / "settings.toml")
            setup.regime.save(setup.run / "regime.toml")
        splits = " + ".join(f"{split.samples:,} {split.name}" for split in setup.stream.splits)
        faces = splits if splits.endswith(" faces") else f"{splits} faces"
        people, steps = counted(setup.stream.classes, "identity"), counted(setup.total_steps, "step")
        over = f", {setup.ranks.count} ranks with {setup.stream.batch_size // setup.ranks.count} each"
        over = over if setup.ranks.distributed else ""
        console.print(
            f"[bold]{escape(setup.regime.name)}[/]: {faces} of {people} at {setup.stream.size} px, {steps} of "
            f"{setup.stream.batch_size} on {setup.compute}{over}",
            markup=True,
        )
        if note := incomplete(setup.packed.path, setup.packed.manifest):
            console.print(f"note: {setup.packed.path} is {note}", markup=False, highlight=False)
        for line in split_warnings(setup.packed.manifest, setup.regime.sources):
            console.print(f"warning: {line}", markup=False, highlight=False)
        for parent in setup.parents:
            came = f"from {parent.weights} ({parent.metadata.get('regime')}, step {parent.metadata.get('step')})"
            console.print(came, markup=False, highlight=False)
            if note := data_note(parent.metadata, setup.packed):
                console.print(f"note on {parent.weights}: {note}", markup=False, highlight=False)
        if setup.teacher is not None:
            teacher = setup.teacher
            console.print(f"taught by {teacher.weights} ({teacher.metadata['regime']})", markup=False, highlight=False)
        if setup.parents and setup.phases:
            console.print(f"--tune {setup.settings.tuning.tune} {count_trained(setup.backbone)}", highlight=False)

    def loop(self, stop: StopFlag) -> None:
        """Steps until the budget is spent, or the third plateau; verifies, logs and saves on the way."""
        setup, state, logging = self.setup, self.state, self.setup.settings.logging
        saved = time.monotonic()
        self.log.begin()
        with progress_bar(self.show_progress) as bar:
            task = bar.add_task(setup.regime.name, total=setup.total_steps, completed=state.step, note="")
            last_sample = setup.total_steps * setup.stream.batch_size
            for batch in self.timer.batches(self._watched_batches(last_sample)):
                if state.epoch >= state.next_eval:  # before the step: a resumed run verifies what a stop left out
                    self.log.read_all()
                    with self.timer.paused():
                        self.verify()
                if state.plateau.over:
                    patience = setup.settings.budget.plateau
                    console.print(f"{patience} verifications without a gain, for the third time: done")
                    break
                self.step(batch)
                self.log.tell_if_slow()
                if state.step % logging.log_every == 0 or state.step == setup.total_steps:
                    self.log.read(everything=state.step == setup.total_steps)
                bar.update(task, completed=state.step, note=self.log.note(self.validation.shown_accuracy))
                due = time.monotonic() - saved > 60 * logging.save_minutes
                asked = self.agreement.exchange((stop.signal_number or 2) if stop else 0, due)
                if asked.signal:
                    self.save()
                    raise self._interrupted(asked.signal)
                if asked.save:
                    self.log.read(everything=True)
                    with self.timer.paused():
                        self.save()
                    saved = time.monotonic()
            self.agreement.last()

    def _watched_batches(self, last_sample: int) -> Iterator[Batch]:
        """The batches from here on, with a warning where the disk stalls."""
        batches = self.setup.engine.batches(self.state.samples, last_sample)

        def say(message: str) -> None:
            console.print(message, markup=False, highlight=False)

        return told_when_stalled(batches, self.setup.stream, self.state.samples, say)

    def step(self, batch: Batch) -> None:
        """Take the next step, on ``batch``; the first of a phase freezes what the phase does not train."""
        state = self.state
        number, phase = state.phase_of_next_step()
        if state.take_step is None or number != state.phase:
            state.enter_phase(number)
        assert state.take_step is not None and state.optimizer is not None, "a phase has both"
        self.log.rate = state.learning_rate(phase)
        set_learning_rate(state.optimizer, self.log.rate)
        try:
            if state.take_step.prepares_next:
                with self.timer.paused():
                    state.take_step.prepare(batch)
            loss: torch.Tensor = state.take_step(batch, state.step)
        except RuntimeError as error:
            if not says_out_of_memory(error):
                raise
            raise HrfrError(
                f"step {state.step + 1:,} does not fit the GPU's memory ({str(error).splitlines()[0]}); "
                f"{advice.after_out_of_memory(self.setup.settings)}"
            ) from None
        if state.average:
            state.average.update(state.step)
        if state.references is not None:
            state.references.update(state.step, state.parallel)
        self.log.add(loss, state.take_step.terms())
        self.profiler.step()
        self.timer.step()
        state.step += 1

    def verify(self) -> None:
        """A look at the pairs on the way: all ranks embed, rank 0 scores, and the others wait for what it finds."""
        self.state.average_statistics()
        if self.setup.ranks.is_main:
            self.validation.on_the_way(self.log.metrics)
        else:
            self.validation.embed_for_main()
        self.validation.write_best()
        self.state.take_over_findings()

    def save(self) -> None:
        """Write the state to resume from, then the weights, after a look at losses and weights: all must be finite."""
        self.log.read_all()
        self.state.save()
        if self.records and (self.setup.ranks.is_main or is_sharded(self.setup.head)):
            self.validation.save_weights("last")
        self.state.parallel.wait()  # whoever ends now would take rank 0 with it, before the files are whole

    def _interrupted(self, signal_number: int) -> Interrupted:
        return Interrupted(
            f"stopped at step {self.state.step:,} of {self.setup.total_steps:,}; continue with\n  "
            f"{resume_command(self.setup.run, self.setup.ranks)}",
            signal_number,
        )

    def finish(self, stop: StopFlag) -> TrainResult:
        """The last checkpoint; on rank 0 its verification with intervals, the figures and the report.

        Raises Interrupted between two pair sets; the checkpoint is written by then.
        """
        from hrfr_fast.training.run_figures import write_curves
        from hrfr_fast.training.run_report import write_run_report

        run, validation = self.setup.run, self.validation
        self.save()
        results: dict[str, PairResult] = {}
        if not self.setup.ranks.is_main:
            validation.embed_for_main(last=True)
            validation.write_best()
            report = run / "report" / "report.html"
            return TrainResult(run, self.state.step, self.log.last_loss, results, report, self.timer.whole())
        for pairs in self.setup.pair_sets:
            if stop:
                raise self._interrupted(stop.signal_number or 2)
            results |= validation.verify([pairs], self.log.metrics, resamples=2000)
        validation.keep_best(results)
        if not validation.best_due and not self.setup.checkpoint("best.safetensors").exists():
            validation.best_due = {"selected_on": None}  # nothing may be selected on others: best is last, and says so
        validation.write_best()
        write_json(run / "results.json", {name: result.to_json() for name, result in results.items()})
        self.log.close()
        write_curves(run, {name: result.verification for name, result in results.items()})
        report = write_run_report(run)
        return TrainResult(run, self.state.step, self.log.last_loss, results, report, self.timer.whole())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.profiler.close()
        self.setup.engine.close()
        self.log.close()
