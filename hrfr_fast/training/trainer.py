"""Training, in the order in which it happens: open the data, build the model, take steps, verify, report.

The loop keeps no state but ``samples`` consumed, the weights and the optimiser's momentum: order and augmentation
are functions of integers, so a run resumes mid-epoch and, on a CPU, ends in the same bits as if it had never stopped.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrfr_fast import __version__
from hrfr_fast.data.order import Order, draws_for_share
from hrfr_fast.data.shards import Packed, PairSet, open_packed
from hrfr_fast.engines import choose_engine
from hrfr_fast.engines.base import Batch, Engine, Stream
from hrfr_fast.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.evaluation.evaluate import PairResult, evaluate_pairs
from hrfr_fast.files import write_json
from hrfr_fast.progress import console, progress_bar
from hrfr_fast.regimes import regime_named
from hrfr_fast.settings import TrainSettings, load_settings
from hrfr_fast.stopping import StopFlag
from hrfr_fast.training import checkpoint
from hrfr_fast.training.compiling import compile_choice
from hrfr_fast.training.device import choose_compute
from hrfr_fast.training.graph import graphs_choice
from hrfr_fast.training.losses import Losses
from hrfr_fast.training.metrics import Metrics
from hrfr_fast.training.optim import build_optimizer, learning_rate, set_learning_rate
from hrfr_fast.training.profile import StepProfiler
from hrfr_fast.training.speed import Speed, StepClock, matrix_rate, training_flops
from hrfr_fast.training.step import TrainStep

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch import nn

    from hrfr_fast.model.backbone import IRSE18


SPEED_SETTINGS = ("out", "device", "engine", "compile", "graphs", "profile")


@dataclass(frozen=True)
class TrainResult:
    """Where the run lies and what its last checkpoint reached on each pair set."""

    run: Path
    steps: int
    loss: float
    results: dict[str, PairResult]
    report: Path
    speed: Speed
    """Of the whole run; verification, checkpoints and preparation do not count."""

    @property
    def images_per_second(self) -> float:
        return self.speed.images_per_second


def train(settings: TrainSettings, *, resume: bool = False, show_progress: bool = True) -> TrainResult:
    """Train one regime and verify its last checkpoint.

    Args:
        settings: what to train; relative paths are taken from the current directory.
        resume: continue the run in ``settings.run_directory`` from its last checkpoint, with the settings saved
            there (only what changes speed alone may differ: see resumed_settings).

    Raises:
        UsageError: unknown regime, missing split, a run directory in use, a resumed run whose data changed.
        HrfrError: the loss is no longer finite; says at which step and what to do.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint is written and the message holds the resume command.
        DamageFound: with ``verify_checksums``, a record that does not match its checksum.
    """
    run = settings.run_directory
    if resume:
        settings = resumed_settings(settings)
    elif (run / "checkpoints" / "last.state.pt").exists():
        raise UsageError(f"{run} holds a run already: continue it with --resume, or choose another --out")
    with StopFlag() as stop, Trainer(settings, show_progress) as trainer:
        if resume:
            trainer.restore()
        trainer.start()
        trainer.loop(stop)
        return trainer.finish()


def resumed_settings(given: TrainSettings) -> TrainSettings:
    """The settings a run was started with; what only changes speed is taken as given now."""
    path = given.run_directory / "settings.toml"
    if not path.exists():
        raise UsageError(f"{given.run_directory}: nothing to resume, there is no settings.toml")
    saved = load_settings(path)
    return replace(saved, **{name: getattr(given, name) for name in SPEED_SETTINGS})


def build_stream(packed: Packed, settings: TrainSettings, batch_size: int) -> Stream:
    """The regime's splits, order and augmentation over ``packed``. Raises UsageError for a missing split."""
    regime = regime_named(settings.regime)
    for name in regime.sources:
        if name not in packed.splits:
            raise UsageError(f"{packed.path}: regime {regime.name} is trained on {name}, which is not packed there")
    splits = tuple(packed.splits[name] for name in regime.sources)
    second = splits[1].samples if len(splits) > 1 else 0
    share = None if settings.highres_share < 0 else settings.highres_share
    draws = draws_for_share(share, splits[0].samples, second) if second else None
    order = Order(settings.seed, splits[0].samples, second, draws)
    return Stream(splits, order, settings.augment, regime.input_size, batch_size)


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
        torch.manual_seed(settings.seed)
        self.backbone, self.head = self._build(settings)
        self.settings = replace(settings, batch_size=settings.batch_size or self._largest_batch(settings))
        self.stream = build_stream(self.packed, self.settings, self.settings.batch_size)
        self.engine: Engine = choose_engine(self.settings, self.stream, self.compute, console.print)
        self.optimizer = build_optimizer(
            [self.backbone, self.head],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(self.compute.device.type, enabled=self.compute.scaled)
        epoch_steps = self.stream.order.epoch_length / self.settings.batch_size
        self.total_steps = settings.steps or max(1, math.ceil(settings.epochs * epoch_steps))
        self.step = 0
        self.best_accuracy = -1.0
        self.last_accuracy: float | None = None
        self.losses = Losses()
        self.clock, self.take_step = self._how_to_step()
        self.profiler = StepProfiler(self.settings.profile, self.run / "profile", self.compute.device)
        self.last_loss, self.rate = math.nan, math.nan
        self.metrics: Metrics | None = None

    def _how_to_step(self) -> tuple[StepClock, TrainStep]:
        """How steps are executed, and what measures them."""
        settings = self.settings
        flops, peak = 0.0, None
        if self.compute.device.type == "cuda":
            flops = training_flops(self.backbone, self.stream.size)
            flops += 6.0 * settings.embedding_size * self.stream.classes
            peak = matrix_rate(self.compute)
        whole_run = flops * settings.batch_size * self.total_steps
        step = TrainStep(
            self.backbone, self.head, self.optimizer, self.scaler, self.compute,
            accumulate=settings.accumulate, clip_gradient=settings.clip_gradient,
            compile=compile_choice(settings.compile, self.compute, whole_run, peak),
            graphs=graphs_choice(settings.graphs, self.compute), say=console.print,
        )  # fmt: skip
        return StepClock(self.compute, settings.batch_size, flops, peak), step

    def _build(self, settings: TrainSettings) -> "tuple[IRSE18, nn.Module]":
        from hrfr_fast.model.backbone import BackboneSettings, build_backbone
        from hrfr_fast.model.heads import build_head

        self.backbone_settings = BackboneSettings(
            input_size=self.regime.input_size,
            width=settings.width,
            embedding_size=settings.embedding_size,
            dropout=settings.dropout,
        )
        backbone = build_backbone(self.backbone_settings)
        backbone.activation_checkpointing = settings.activation_checkpointing
        classes = build_stream(self.packed, settings, 1).classes
        head = build_head(
            settings.head,
            settings.embedding_size,
            classes,
            scale=settings.scale or None,
            margin=settings.margin if settings.margin >= 0 else None,
        )
        return self.compute.place(backbone), head.to(self.compute.device)

    def _largest_batch(self, settings: TrainSettings) -> int:
        """128 (32 px) or 64 (144 px) on a CPU; on CUDA the largest power of two up to 1024 whose step fits."""
        import torch

        if self.compute.device.type == "cpu":
            return 128 if self.regime.input_size <= 64 else 64
        size, batch_size = self.regime.input_size, 1024
        while batch_size > settings.accumulate:
            try:
                images = torch.zeros(
                    batch_size // settings.accumulate, 3, size, size,
                    dtype=self.compute.image_dtype, device=self.compute.device,
                ).to(memory_format=torch.channels_last)  # fmt: skip
                with self.compute.autocast():
                    embeddings = self.backbone(images)
                self.head(embeddings, torch.zeros(len(images), dtype=torch.int64, device=images.device)).backward()
                break
            except torch.cuda.OutOfMemoryError:
                batch_size //= 2
        self.backbone.zero_grad(set_to_none=True)
        self.head.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        self.backbone, self.head = self._build(settings)  # the trial moved BatchNorm's statistics
        console.print(f"batch size {batch_size}: the largest that fits")
        return batch_size

    # ---- the loop -----------------------------------------------------------------------------------------------

    @property
    def samples(self) -> int:
        return self.step * self.settings.batch_size

    @property
    def epoch(self) -> float:
        return self.samples / self.stream.order.epoch_length

    def start(self) -> None:
        """Say what will happen, and leave the resolved settings in the run directory."""
        (self.run / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.settings.save(self.run / "settings.toml")
        self.metrics = Metrics(self.run, self.samples)
        faces = " + ".join(f"{split.samples:,} {split.name}" for split in self.stream.splits)
        console.print(
            f"[bold]{self.regime.name}[/]: {faces} faces of {self.stream.classes:,} identities at "
            f"{self.stream.size} px, {self.total_steps:,} steps of {self.settings.batch_size} on {self.compute}"
        )

    def loop(self, stop: StopFlag) -> None:
        """Steps until the budget is spent; verifies, logs and saves on the way."""
        self.backbone.train()
        self.head.train()
        next_eval = self._next_eval()
        saved = time.monotonic()
        with progress_bar(self.show_progress) as bar:
            task = bar.add_task(self.regime.name, total=self.total_steps, completed=self.step, note="")
            stop_at = self.total_steps * self.settings.batch_size
            for batch in self.clock.batches(self.engine.batches(self.samples, stop_at)):
                self._one_step(batch)
                if self.step % self.settings.log_every == 0 or self.step == self.total_steps:
                    self._log(everything=self.step == self.total_steps)
                self._show(bar, task)
                if stop:
                    self.save()
                    raise Interrupted(
                        f"stopped at step {self.step:,} of {self.total_steps:,}; continue with\n  "
                        f"hrfr-fast train --out {self.run} --resume",
                        stop.signal_number or 2,
                    )
                if self.epoch >= next_eval and self.step < self.total_steps:
                    self._log(everything=True)
                    with self.clock.paused():
                        self._verify_on_the_way()
                    next_eval = self._next_eval()
                if time.monotonic() - saved > 60 * self.settings.save_minutes:
                    self._log(everything=True)
                    with self.clock.paused():
                        self.save()
                    saved = time.monotonic()

    def _one_step(self, batch: Batch) -> None:
        self.rate = learning_rate(
            self.step,
            self.total_steps,
            base=self.settings.learning_rate,
            warmup_steps=round(self.settings.warmup * self.total_steps),
            schedule=self.settings.schedule,
        )
        set_learning_rate(self.optimizer, self.rate)
        if self.take_step.prepares_next:
            with self.clock.paused():
                self.take_step.prepare(batch)
        self.losses.add(self.take_step(batch, self.step))
        self.profiler.step()
        self.step += 1

    def _next_eval(self) -> float:
        every = self.settings.eval_every
        return (math.floor(self.epoch / every + 1e-9) + 1) * every if every else math.inf

    def _show(self, bar: "Progress", task: "TaskID") -> None:
        best = f" · accuracy {self.last_accuracy:.1%}" if self.last_accuracy is not None else ""
        last = self.clock.last
        speed = f" · {last.images_per_second:,.0f} images/s ({last.limit})" if last else ""
        note = f"loss {self.last_loss:.3f} · lr {self.rate:.4f}{speed}{best}"
        bar.update(task, completed=self.step, note=note)

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
            self._metrics().write("train", **line, loss=self.last_loss)

    def _diverged(self, step: int, loss: float) -> None:
        last = self.run / "checkpoints" / "last.safetensors"
        good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        raise HrfrError(
            f"the loss is {loss} at step {step:,}; {good}. Try a lower --learning-rate, a longer --warmup, "
            f"a smaller --margin or --scale, or --precision fp32 to see whether the number format is to blame."
        )

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
        """Verify without intervals; a development set, where there is one, chooses ``best``."""
        self._log(everything=True)
        pair_sets = list(self.packed.pairs.values())
        if not pair_sets:
            return
        results = self._verify(pair_sets, resamples=0)
        self._keep_best(results)
        main = self._selection_set() or pair_sets[0].name
        self.last_accuracy = results[main].verification.accuracy

    def _selection_set(self) -> str | None:
        """The pair set that chooses ``best``: development pairs only, of high resolution where there are any."""
        names = [name for name, pairs in self.packed.pairs.items() if pairs.kind == "development"]
        return min(names, key=lambda name: ("highres" not in name, name), default=None)

    def _keep_best(self, results: dict[str, PairResult]) -> None:
        chosen = self._selection_set()
        if chosen and results[chosen].verification.accuracy > self.best_accuracy:
            self.best_accuracy = results[chosen].verification.accuracy
            self._save_weights("best", selected_on=chosen, accuracy=self.best_accuracy)

    def _save_weights(self, name: str, **more: Any) -> None:
        metadata = {
            "regime": self.regime.name,
            "backbone": asdict(self.backbone_settings),
            "head": {"name": self.settings.head, "classes": self.stream.classes},
            "data": {"path": str(self.packed.path.resolve()), "digest": self.packed.digest},
            "hrfr_fast": __version__,
            **self._where(),
            **more,
        }
        checkpoint.save_weights(self._checkpoint(f"{name}.safetensors"), self.backbone, self.head, metadata)

    def _checkpoint(self, name: str) -> Path:
        return self.run / "checkpoints" / name

    def save(self) -> None:
        """Write the state to resume from, then the weights. Never called with an unread, maybe infinite, loss."""
        import torch

        self._log(everything=True)
        state = {
            "step": self.step,
            "best_accuracy": self.best_accuracy,
            "data_digest": self.packed.digest,
            "backbone": self.backbone.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.compute.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state()
        checkpoint.save_state(self._checkpoint("last.state.pt"), state)
        self._save_weights("last")

    def restore(self) -> None:
        """Continue from ``last.state.pt``, or from the start where none was written yet."""
        import torch

        path = self._checkpoint("last.state.pt")
        if not path.exists():
            console.print(f"{self.run}: stopped before its first checkpoint, starting again")
            return
        state = checkpoint.load_state(path, self.compute.device)
        if state["data_digest"] != self.packed.digest:
            raise UsageError(f"{self.packed.path} has changed since {self.run} was started; train a new run on it")
        self.backbone.load_state_dict(state["backbone"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state and self.compute.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu())
        self.step, self.best_accuracy = state["step"], state["best_accuracy"]

    def finish(self) -> TrainResult:
        """The last checkpoint, its verification with intervals, the pictures and the report."""
        from hrfr_fast.report.plots import write_curves
        from hrfr_fast.report.run_report import write_run_report

        self.save()
        results = self._verify(list(self.packed.pairs.values()), resamples=2000)
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

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.profiler.close()
        self.engine.close()
        if self.metrics is not None:
            self.metrics.close()
