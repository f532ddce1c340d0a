"""Losses and rates of a run in its metrics files and beside its progress bar, and a warning when it is slow."""

import math
import time
from functools import cached_property

import numpy as np
import torch

from hrfr_fast.runtime.device import fastest_precision
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.progress import console
from hrfr_fast.training import advice
from hrfr_fast.training.build import RunSetup
from hrfr_fast.training.health import LossWatch
from hrfr_fast.training.losses import LossBuffer
from hrfr_fast.training.metrics import Metrics, NoMetrics
from hrfr_fast.training.speed import StepTimer
from hrfr_fast.training.state import TrainState

TIMED = 3  # steps that tell how long a run will take


class TrainingLog:
    """Losses, learning rate and speed of a run. ``board``: write to TensorBoard, too."""

    def __init__(self, setup: RunSetup, state: TrainState, timer: StepTimer, *, board: bool) -> None:
        self.setup, self.state, self.timer, self.board = setup, state, timer, board
        self.losses = LossBuffer()
        self.terms: tuple[str, ...] = ()
        """Names of the terms of the loss, where there are several; their losses stand beside the whole."""
        self.last_terms: dict[str, float] = {}
        """Means of the terms over the last line."""
        self.last_loss = math.nan
        """Mean of the last line; not a number before the first."""
        self.rate = math.nan
        """Learning rate of the last step."""
        self._step_ends: list[float] = []
        stream = setup.stream
        self._watch = LossWatch(stream.classes, setup.total_steps, stream.epoch_length / stream.batch_size)

    @cached_property
    def metrics(self) -> Metrics | NoMetrics:
        """The run's metrics files, opened when a resumed run knows where it goes on; of rank 0."""
        if not self.setup.ranks.is_main:
            return NoMetrics()
        due = self.state.epoch >= self.state.next_eval
        return Metrics(self.setup.run, self.state.samples, due=due, board=self.board)

    def add(self, loss: torch.Tensor, terms: dict[str, torch.Tensor]) -> None:
        """Keep a step's loss and its terms, scalars on the device."""
        self.terms = tuple(terms)
        self.losses.add(torch.stack([loss, *terms.values()]) if terms else loss)

    def begin(self) -> None:
        """Open the metrics files now: what a run that was killed wrote after its checkpoint is dropped, and comes again
        in the one that goes on."""
        _ = self.metrics

    def read(self, everything: bool = False) -> None:
        """Write a line for the losses that have arrived, on CUDA all but the newest; refuse to go on when one is not
        finite.

        ``everything``: the newest too, after waiting for the device, whose time then counts as training.
        """
        if everything and self.setup.compute.device.type == "cuda":
            with self.timer.blocked():
                torch.cuda.synchronize()
        if self.losses:
            throughput = self.timer.read().to_json()
            line = {**self.state.where(), "learning_rate": self.rate, **throughput}
            self.losses.close(line, self.state.parallel.mean)
        with self.timer.blocked():
            ready = self.losses.read(everything)
        for line, found in ready:
            losses = found[:, 0] if found.ndim > 1 else found
            means = found.mean(axis=0).tolist()[1:] if found.ndim > 1 else []
            self.last_terms = dict(zip(self.terms, means, strict=True))
            bad = np.flatnonzero(~np.isfinite(losses))
            if len(bad):
                step = line["step"] - len(losses) + int(bad[0]) + 1
                self._refuse(f"the loss is {float(losses[bad[0]])} at step {step:,}")
            self.last_loss = float(losses.mean())
            if self.setup.settings.budget.plateau:  # earlier phases train less, so their losses are no measure
                first = line["step"] - len(losses)
                self.state.plateau.losses += losses[max(0, self.setup.phases[-1].start - first) :].tolist()
            named = {f"loss_{name}": value for name, value in self.last_terms.items()}
            self.metrics.write("train", **line, loss=self.last_loss, **named)
            for warning in self._watch.see(line["step"], losses) if self.setup.ranks.is_main else ():
                tries = advice.after_divergence(self.setup.settings)
                console.print(f"warning: {warning}. {tries}", markup=False, highlight=False)

    def read_all(self) -> None:
        """Read every loss, and refuse to go on where one, or by now a weight, is not finite: the last step may have
        ruined weights whose loss nobody will see before they are verified or kept."""
        self.read(everything=True)
        if not self.state.is_finite():
            self._refuse(f"some weights are not finite after step {self.state.step:,}")

    def _refuse(self, what: str) -> None:
        last = self.setup.checkpoint("last.safetensors")
        good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        tries = advice.after_divergence(self.setup.settings)
        raise HrfrError(f"{what}; {good}. {tries}")

    def note(self, accuracy: float | None) -> str:
        """What stands beside the progress bar."""
        terms = ", ".join(f"{name} {value:.2f}" for name, value in self.last_terms.items())
        terms = f" ({terms})" if len(self.last_terms) > 1 else ""
        loss = f"loss {self.last_loss:.3f}{terms} · " if math.isfinite(self.last_loss) else ""  # none is read yet
        last = self.timer.last
        speed = f" · {last.images_per_second:,.0f} images/s ({last.limit})" if last else ""
        best = f" · accuracy {accuracy:.1%}" if accuracy is not None else ""
        return f"{loss}lr {self.rate:.4f}{speed}{best}"

    def tell_if_slow(self) -> None:
        """On a CPU, after TIMED steps: what this run will take, where that is long."""
        if self.setup.compute.device.type != "cpu" or len(self._step_ends) > TIMED:
            return
        self._step_ends.append(time.perf_counter())  # the first step compiles and warms up
        if len(self._step_ends) <= TIMED:
            return
        told = advice.of_a_slow_run(
            self.setup.settings, self.setup.stream.batch_size,
            (self._step_ends[-1] - self._step_ends[0]) / TIMED, self.setup.total_steps - self.state.step,
            fastest=fastest_precision(on_cuda=False), resumed=self.state.step > len(self._step_ends),
            inherits=bool(self.setup.parents),
        )  # fmt: skip
        if told:
            console.print(told, markup=False, highlight=False)

    def close(self) -> None:
        """Make the lines durable; the next line opens the files again."""
        if "metrics" in self.__dict__:
            self.metrics.close()
            del self.metrics
