"""Training, in the order in which it happens: open the data, build the model, take steps, verify, report.

The loop keeps no state but ``samples`` consumed, the weights and the optimiser's momentum: order and augmentation
are functions of integers, so a run resumes mid-epoch and, on a CPU, ends in the same bits as if it had never stopped.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hrfr_fast.engines.base import Batch, Engine
from hrfr_fast.engines.choice import choose_engine, resident_pixels
from hrfr_fast.evaluation.evaluate import PairResult, evaluate_pairs, verifiable
from hrfr_fast.format.reader import PairSet, open_packed
from hrfr_fast.model import checkpoint
from hrfr_fast.model.lineage import changed_run_data, data_note, data_record, pairs_as_known_to
from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.device import choose_compute, fastest_precision
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.files import write_json, writing
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.progress import console, progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.version import __version__
from hrfr_fast.runtime.words import counted
from hrfr_fast.sampling.two_view_stream import TwoViewStream
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training import advice
from hrfr_fast.training.batch_size import largest_batch, says_out_of_memory
from hrfr_fast.training.build import (
    build_classifier,
    build_embedder,
    find_parents,
    people_digest,
    refuse_other_people,
    shape_metadata,
    shape_of,
    with_inherited_shape,
)
from hrfr_fast.training.compiling import compile_choice
from hrfr_fast.training.cuda_graph import graphs_choice
from hrfr_fast.training.losses import LossBuffer
from hrfr_fast.training.metrics import Metrics
from hrfr_fast.training.optim import build_optimizer, learning_rate, set_learning_rate
from hrfr_fast.training.phases import ScheduledPhase, release, schedule_phases
from hrfr_fast.training.plateau import Plateau
from hrfr_fast.training.profile import StepProfiler
from hrfr_fast.training.resuming import (
    how_to_go_on,
    refuse_mixture,
    result_settings,
    resume_command,
    resumed_settings,
    with_absolute_paths,
)
from hrfr_fast.training.speed import StepTimer, Throughput, matrix_rate, training_flops
from hrfr_fast.training.step import TrainStep
from hrfr_fast.training.stream import build_stream, training_splits

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress, TaskID
    from torch import optim

    from hrfr_fast.training.step import Objective

TIMED = 3  # steps that tell how long a run will take


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
    """Train one regime and verify its last checkpoint.

    Args:
        settings: what to train; relative paths are taken from the current directory.
        resume: continue the run in ``settings.run_directory`` from its last checkpoint, with the settings saved
            there (only what changes speed alone may differ: see ``resuming.py``).

    Raises:
        UsageError: unknown regime, missing split or parent, a run directory that holds a run or is in use, a resumed
            run whose data changed.
        HrfrError: the loss is no longer finite, or a batch does not fit the GPU; says at which step and what to do.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint is written and the message holds the resume command.
        DamageFound: with ``verify_checksums``, a record that does not match its checksum; a shard that shrinks.
        CannotWrite: a full disk; says which checkpoint is kept, and how to go on.
    """
    run = settings.run_directory
    with directory_lock(run), writing(run, lambda: how_to_go_on(run)):
        if resume:
            settings = resumed_settings(settings)
        elif (run / "checkpoints" / "last.state.pt").exists():
            raise UsageError(f"{run} holds a run already: continue it with --resume, or choose another --out")
        with StopFlag() as stop, Trainer(settings, show_progress) as trainer:
            if resume:
                trainer.restore()
            trainer.start()
            trainer.loop(stop)
            return trainer.finish(stop)


class Trainer:
    """One run's model, optimiser, data and position. Use through ``train``."""

    def __init__(self, settings: TrainSettings, show_progress: bool) -> None:
        import torch

        self.run = settings.run_directory
        self.show_progress = show_progress
        self.compute = choose_compute(settings.device, settings.precision)
        settings = replace(settings, precision=self.compute.precision)  # a resumed run must not choose again
        self.packed = open_packed(settings.data)
        self.regime = regime_named(settings.regime)
        self.parents = find_parents(self.regime, settings)
        training_splits(self.packed, self.regime, settings)  # refuses where one is missing
        self.origin = {
            "data": data_record(self.packed, self.regime.sources, self.run),
            "parents": [parent.to_json(self.run) for parent in self.parents],
        }
        pair_sets = [pairs_as_known_to(self.origin, pairs, self.packed) for pairs in self.packed.pairs.values()]
        self.pair_sets = verifiable(pair_sets, console.print)
        if not self.pair_sets:
            console.print(f"warning: {settings.data} has no pairs to verify on: nothing will tell what this run learns")
        settings = with_inherited_shape(settings, self.regime, self.parents)
        self.backbone_settings = shape_of(settings, self.regime, self.parents)
        self.settings = settings
        self.keep_statistics = self._keeps_statistics()
        self._build()
        if not settings.batch_size:
            self.settings = replace(settings, batch_size=self._largest_batch())
        self.stream = build_stream(self.packed, self.settings, self.settings.batch_size)
        self.objective = self._objective()
        self.engine: Engine = choose_engine(self.settings, self.stream, self.compute, console.print)
        epoch_steps = self.stream.epoch_length / self.settings.batch_size
        steps = settings.steps or max(1, math.ceil(settings.epochs * epoch_steps))
        self.stretches = schedule_phases(self.regime.phases, steps)
        self.total_steps = steps if self.stretches else 0
        self.phase = -1
        self.optimizer: optim.SGD | None = None
        self.take_step: TrainStep
        self.scaler = torch.amp.GradScaler(self.compute.device.type, enabled=self.compute.scaled)
        self.plateau = Plateau(settings.plateau)
        self.step = 0
        self.next_eval = self._next_eval()
        self.best_accuracy = -1.0
        self.last_accuracy: float | None = None
        self.losses = LossBuffer()
        self.clock, self.how = self._clock_and_choices()
        self.profiler = StepProfiler(self.settings.profile, self.run / "profile", self.compute.device)
        self.last_loss, self.rate = math.nan, math.nan
        self.step_ends: list[float] = []
        self.metrics: Metrics | None = None

    def _clock_and_choices(self) -> tuple[StepTimer, dict[str, str]]:
        """What measures steps, and how they are to be executed."""
        settings = self.settings
        if self.stretches:
            self._release(self.stretches[-1].phase.train)  # the longest: what is frozen costs no backward pass
        flops, peak = 0.0, None
        if self.compute.device.type == "cuda":
            flops = training_flops(self.backbone, self.stream.size)
            flops += 6.0 * settings.embedding_size * self.stream.classes
            peak = matrix_rate(self.compute)
        whole_run = flops * settings.batch_size * self.total_steps
        choices = {
            "compile": compile_choice(
                settings.compile, self.compute, whole_run, peak, checkpointing=settings.activation_checkpointing
            ),
            "graphs": graphs_choice(settings.graphs, self.compute),
        }
        return StepTimer(self.compute, settings.batch_size, flops, peak), choices

    def _build(self) -> None:
        """Embedder and head, decided by the seed and the parents."""
        import torch

        torch.manual_seed(self.settings.seed)
        self.backbone = build_embedder(
            self.backbone_settings, self.parents, self.compute, checkpointing=self.settings.activation_checkpointing
        )
        splits = training_splits(self.packed, self.regime, self.settings)
        self.people = people_digest(splits)
        classes = sum(split.identities for split in splits)
        if self.regime.inherit_head:
            refuse_other_people(self.parents[0], classes, self.people)
        self.head = build_classifier(self.settings, self.regime, classes, self.parents, self.compute)

    def _objective(self) -> "Objective":
        """The head's loss, with the pull between two views where the regime or the settings ask for one."""
        given = self.settings.consistency
        consistency = given if given >= 0 else self.regime.consistency
        if not isinstance(self.stream, TwoViewStream):
            if given > 0:
                raise UsageError(f"consistency is {given}; regime {self.regime.name} has no second view to pull to")
            return self.head
        if not consistency:
            return self.head
        from hrfr_fast.training.objective import ConsistencyLoss

        return ConsistencyLoss(self.head, self.stream.pairs // self.settings.accumulate, consistency)

    def _largest_batch(self) -> int:
        if self.regime.phases:
            self._release(max(self.regime.phases, key=lambda phase: len(phase.train)).train)
        splits = training_splits(self.packed, self.regime, self.settings)
        resident = resident_pixels(self.settings.engine, splits, self.compute)
        found = largest_batch(
            self.backbone, self.head, self.regime.input_size, self.compute, self.settings.accumulate, resident
        )
        if self.compute.device.type == "cuda":
            del self.backbone, self.head
            self._build()  # the trial moved BatchNorm's statistics
            console.print(f"batch size {found}: the largest that fits")
        return found

    # ---- phases -------------------------------------------------------------------------------------------------

    def _enter_phase(self, number: int) -> None:
        """Release the phase's parts; an optimiser without momentum, and a step of its own."""
        phase = self.stretches[number].phase
        self._release(phase.train)
        if self.phase >= 0:  # what could not be compiled or captured in the phase before is not tried again
            self.how = {"compile": self.take_step.compile, "graphs": self.take_step.graphs}
        self.optimizer = build_optimizer(
            [self.backbone, self.head],
            lr=self.settings.learning_rate * phase.rate,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        self.take_step = TrainStep(
            self.backbone, self.objective, self.optimizer, self.scaler, self.compute,
            accumulate=self.settings.accumulate, clip_gradient=self.settings.clip_gradient,
            say=console.print, **self.how,
        )  # fmt: skip
        self.phase = number

    def _release(self, parts: tuple[str, ...]) -> None:
        release(self.backbone, self.head, parts, keep_statistics=self.keep_statistics)

    def _keeps_statistics(self) -> bool:
        policy = self.settings.batchnorm if self.settings.batchnorm != "regime" else self.regime.batchnorm
        if policy == "frozen" and not self.parents:
            raise UsageError(f"batchnorm frozen keeps a parent's statistics; regime {self.regime.name} has no parent")
        return policy == "frozen"

    def _stretch(self) -> tuple[int, ScheduledPhase]:
        """Number and extent of the phase that the next step belongs to."""
        return next((n, one) for n, one in enumerate(self.stretches) if self.step < one.stop)

    def _rate_now(self, stretch: ScheduledPhase) -> float:
        """The next step's rate: of its phase's own schedule, or the plateaus' where the last phase watches for them."""
        settings, steps = self.settings, stretch.stop - stretch.start
        base = settings.learning_rate * stretch.phase.rate
        done, warmup = self.step - stretch.start, round(settings.warmup * steps)
        if settings.plateau and stretch is self.stretches[-1]:
            return base * self.plateau.factor * min(1.0, (done + 1) / max(1, warmup))
        return learning_rate(done, steps, base=base, warmup_steps=warmup, schedule=settings.schedule)

    # ---- the loop -----------------------------------------------------------------------------------------------

    @property
    def samples(self) -> int:
        return self.step * self.settings.batch_size

    @property
    def epoch(self) -> float:
        return self.samples / self.stream.epoch_length

    def start(self) -> None:
        """Say what will happen, and leave the resolved settings in the run directory."""
        (self.run / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.metrics = self._open_records()
        faces = " + ".join(f"{split.samples:,} {split.name}" for split in self.stream.splits)
        people, steps = counted(self.stream.classes, "identity"), counted(self.total_steps, "step")
        console.print(
            f"[bold]{self.regime.name}[/]: {faces} faces of {people} at {self.stream.size} px, {steps} of "
            f"{self.settings.batch_size} on {self.compute}"
        )
        for parent in self.parents:
            console.print(f"from {parent.weights} ({parent.metadata['regime']}, step {parent.metadata['step']:,})")
            if note := data_note(parent.metadata, self.packed):
                console.print(f"note on {parent.weights}: {note}", markup=False, highlight=False)

    def _open_records(self) -> Metrics:
        """Settings and regime as files, and what the lines of metrics go to."""
        with_absolute_paths(self.settings).save(self.run / "settings.toml")
        self.regime.save(self.run / "regime.toml")
        return Metrics(self.run, self.samples)

    def loop(self, stop: StopFlag) -> None:
        """Steps until the budget is spent, or the third plateau; verifies, logs and saves on the way."""
        saved = time.monotonic()
        with progress_bar(self.show_progress) as bar:
            task = bar.add_task(self.regime.name, total=self.total_steps, completed=self.step, note="")
            stop_at = self.total_steps * self.settings.batch_size
            for batch in self.clock.batches(self.engine.batches(self.samples, stop_at)):
                if self.epoch >= self.next_eval:  # before the next step: a resumed run verifies what a stop left out
                    self._log(everything=True)
                    with self.clock.paused():
                        self._verify_on_the_way()
                if self.plateau.over:
                    console.print(f"{self.settings.plateau} verifications without a gain, for the third time: done")
                    break
                self._one_step(batch)
                self._tell_if_slow()
                if self.step % self.settings.log_every == 0 or self.step == self.total_steps:
                    self._log(everything=self.step == self.total_steps)
                self._show(bar, task)
                if stop:
                    self.save()
                    raise self._interrupted(stop)
                if time.monotonic() - saved > 60 * self.settings.save_minutes:
                    self._log(everything=True)
                    with self.clock.paused():
                        self.save()
                    saved = time.monotonic()

    def _interrupted(self, stop: StopFlag) -> Interrupted:
        return Interrupted(
            f"stopped at step {self.step:,} of {self.total_steps:,}; continue with\n  {resume_command(self.run)}",
            stop.signal_number or 2,
        )

    def _one_step(self, batch: Batch) -> None:
        number, stretch = self._stretch()
        if number != self.phase:
            self._enter_phase(number)
        assert self.optimizer is not None, "a phase has one"
        self.rate = self._rate_now(stretch)
        set_learning_rate(self.optimizer, self.rate)
        self.losses.add(self._taken(batch))
        self.profiler.step()
        self.step += 1

    def _taken(self, batch: Batch) -> "torch.Tensor":
        """The loss of one step, compiled or captured first where it has to be; a batch too large is told in words."""
        try:
            if self.take_step.prepares_next:
                with self.clock.paused():
                    self.take_step.prepare(batch)
            return self.take_step(batch, self.step)
        except RuntimeError as error:
            if not says_out_of_memory(error):
                raise
            raise HrfrError(
                f"step {self.step + 1:,} does not fit the GPU's memory ({str(error).splitlines()[0]}); "
                f"{advice.after_out_of_memory(self.settings)}"
            ) from None

    def _next_eval(self) -> float:
        every = self.settings.eval_every
        return (math.floor(self.epoch / every + 1e-9) + 1) * every if every else math.inf

    def _show(self, bar: "Progress", task: "TaskID") -> None:
        best = f" · accuracy {self.last_accuracy:.1%}" if self.last_accuracy is not None else ""
        last = self.clock.last
        speed = f" · {last.images_per_second:,.0f} images/s ({last.limit})" if last else ""
        loss = f"loss {self.last_loss:.3f} · " if math.isfinite(self.last_loss) else ""  # none is read yet
        note = f"{loss}lr {self.rate:.4f}{speed}{best}"
        bar.update(task, completed=self.step, note=note)

    def _tell_if_slow(self) -> None:
        """On a CPU, after TIMED steps: what this run will take, where that is long."""
        if self.compute.device.type != "cpu" or len(self.step_ends) > TIMED:
            return
        self.step_ends.append(time.perf_counter())  # the first step compiles and warms up
        if len(self.step_ends) <= TIMED:
            return
        told = advice.of_a_slow_run(
            self.settings, (self.step_ends[-1] - self.step_ends[0]) / TIMED, self.total_steps - self.step,
            fastest=fastest_precision(on_cuda=False), resumed=self.step > len(self.step_ends),
            inherits=bool(self.parents),
        )  # fmt: skip
        if told:
            console.print(told, markup=False, highlight=False)

    def _log(self, everything: bool = False) -> None:
        """Read losses, on CUDA all but the newest stretch; refuse to go on when one is not finite.

        ``everything``: the newest too, after waiting for the device, whose time then counts as training.
        """
        import torch

        if everything and self.compute.device.type == "cuda":
            with self.clock.blocked():
                torch.cuda.synchronize()
        if self.losses:
            speed = self.clock.read().to_json()
            self.losses.close({**self._where(), "learning_rate": self.rate, **speed})
        with self.clock.blocked():
            ready = self.losses.read(everything)
        for line, losses in ready:
            bad = np.flatnonzero(~np.isfinite(losses))
            if len(bad):
                self._diverged(line["step"] - len(losses) + int(bad[0]) + 1, float(losses[bad[0]]))
            self.last_loss = float(losses.mean())
            if self.settings.plateau:
                self.plateau.losses += losses.tolist()
            self._metrics().write("train", **line, loss=self.last_loss)

    def _diverged(self, step: int, loss: float) -> None:
        last = self.run / "checkpoints" / "last.safetensors"
        good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        tries = advice.after_divergence(self.settings)
        raise HrfrError(f"the loss is {loss} at step {step:,}; {good}. {tries}")

    def _metrics(self) -> Metrics:
        assert self.metrics is not None, "start() comes first"
        return self.metrics

    def _where(self) -> dict[str, Any]:
        return {"step": self.step, "samples": self.samples, "epoch": round(self.epoch, 4)}

    # ---- verification and checkpoints ---------------------------------------------------------------------------

    def _verify(self, pair_sets: list[PairSet], resamples: int) -> dict[str, PairResult]:
        results = evaluate_pairs(self.backbone, self.stream.size, pair_sets, self.compute, resamples=resamples)
        for name, result in results.items():
            values = result.verification.to_json()
            wanted = ("accuracy", "auc", "eer") + (("accuracy_ci",) if resamples else ())
            self._metrics().write(
                "verification", **self._where(), pairs=name, pairs_kind=result.pairs.kind,
                **{key: values[key] for key in wanted},
            )  # fmt: skip
        return results

    def _verify_on_the_way(self) -> None:
        """Verify without intervals; a development set, where there is one, chooses ``best`` and tells plateaus."""
        self._log(everything=True)
        self.next_eval = self._next_eval()
        chosen = self._selection_set()
        results = self._verify(self.pair_sets, resamples=0)
        self._keep_best(results)
        if self.pair_sets:
            self.last_accuracy = results[chosen or self.pair_sets[0].name].verification.accuracy
        if not self.stretches or self._stretch()[1] is self.stretches[-1]:
            self.plateau.look(1 - results[chosen].verification.accuracy if chosen else None)

    def _selection_set(self) -> str | None:
        """The pair set that chooses ``best``: development pairs only, of high resolution where there are any."""
        names = [pairs.name for pairs in self.pair_sets if pairs.kind == "development"]
        return min(names, key=lambda name: ("highres" not in name, name), default=None)

    def _keep_best(self, results: dict[str, PairResult]) -> None:
        chosen = self._selection_set()
        if chosen and results[chosen].verification.accuracy > self.best_accuracy:
            self.best_accuracy = results[chosen].verification.accuracy
            self._save_weights("best", selected_on=chosen, accuracy=self.best_accuracy)

    def _save_weights(self, name: str, **more: Any) -> None:
        metadata = {
            "regime": self.regime.name,
            "backbone": shape_metadata(self.backbone_settings),
            "head": {"name": self.settings.head, "classes": self.stream.classes, "people": self.people},
            **self.origin,
            "hrfr_fast": __version__,
            **self._where(),
            **more,
        }
        checkpoint.save_weights(self._checkpoint(f"{name}.safetensors"), self.backbone, self.head, metadata)

    def _checkpoint(self, name: str) -> Path:
        return self.run / "checkpoints" / name

    def save(self) -> None:
        """Write the state to resume from, then the weights."""
        self.save_state()
        self._save_weights("last")

    def save_state(self) -> None:
        """Write all that ``restore`` needs, after a look at the losses: none may be unread and maybe infinite."""
        import torch

        self._log(everything=True)
        state = {
            "step": self.step,
            "phase": self.phase,
            "next_eval": self.next_eval,
            "plateau": self.plateau.state(),
            "best_accuracy": self.best_accuracy,
            "data_digest": self.packed.digest,
            "origin": self.origin,
            "settings": result_settings(self.settings),
            "backbone": self.backbone.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.compute.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state()
        checkpoint.save_state(self._checkpoint("last.state.pt"), state)

    def restore(self) -> None:
        """Continue from ``last.state.pt``, or from the start where none was written yet."""
        import torch

        path = self._checkpoint("last.state.pt")
        if not path.exists():
            console.print(f"{self.run}: stopped before its first checkpoint, starting again")
            return
        state = checkpoint.load_state(path, self.compute.device)
        origin = state.get("origin", {"data": {"digest": state["data_digest"]}})
        if other := changed_run_data(origin, self.packed.manifest):
            raise UsageError(
                f"{self.packed.path} has changed since {self.run} was started ({', '.join(other)}); "
                "train a new run on it, or say with --data where the data of the run are now"
            )
        refuse_mixture(self.run, state, self.settings, self.total_steps)
        if state["data_digest"] != self.packed.digest:
            console.print(
                f"note: {self.packed.path} has changed since {self.run} was started, but not in what it is trained on",
                markup=False, highlight=False,
            )  # fmt: skip
        if state["phase"] >= 0:
            self._enter_phase(state["phase"])
        self.backbone.load_state_dict(state["backbone"])
        self.head.load_state_dict(state["head"])
        if self.optimizer and state["optimizer"]:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state and self.compute.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu())
        self.step, self.best_accuracy = state["step"], state["best_accuracy"]
        self.next_eval, self.plateau = state["next_eval"], Plateau(**state["plateau"])

    def finish(self, stop: StopFlag) -> TrainResult:
        """The last checkpoint, its verification with intervals, the pictures and the report.

        Raises Interrupted between two pair sets; the checkpoint is written by then.
        """
        from hrfr_fast.training.run_figures import write_curves
        from hrfr_fast.training.run_report import write_run_report

        self.save()
        results: dict[str, PairResult] = {}
        for pairs in self.pair_sets:
            if stop:
                raise self._interrupted(stop)
            results |= self._verify([pairs], resamples=2000)
        self._keep_best(results)
        if not self._checkpoint("best.safetensors").exists():
            # Without development pairs nothing may be selected: best is last, and says so.
            self._save_weights("best", selected_on=None)
        write_json(self.run / "results.json", {name: result.to_json() for name, result in results.items()})
        self._metrics().close()
        self.metrics = None
        write_curves(self.run, {name: result.verification for name, result in results.items()})
        report = write_run_report(self.run)
        return TrainResult(self.run, self.step, self.last_loss, results, report, self.clock.whole())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.profiler.close()
        self.engine.close()
        if self.metrics is not None:
            self.metrics.close()
