"""Training steps timed in rounds: fed by an engine, or on one batch that is already on the device."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrfr_fast.engines.base import Batch, Engine
    from hrfr_fast.runtime.device import Compute
    from hrfr_fast.training.trainer import Trainer

ENDLESS = 10**7  # steps: a run long enough that --compile auto compiles on CUDA


@dataclass
class TimedSteps:
    """A way to take training steps, or to make batches for them, and the rates that it reached."""

    name: str
    steps: Callable[[int], None]
    """Takes the given number of steps and waits for the device."""
    batch_size: int
    before: Callable[[], object] = lambda: None
    """What is done before each round and not timed."""
    details: dict[str, Any] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    """Images a second of each round."""
    cores: list[float] = field(default_factory=list)
    """CPU seconds of this process for each second of a round."""
    count: int = 1
    """Steps in a round."""
    clock: Callable[[], float] = time.perf_counter

    @property
    def images_per_second(self) -> float:
        return median(self.rates)

    @property
    def cores_busy(self) -> float:
        """The median over rounds of ``cores``."""
        return median(self.cores)

    def calibrate(self, seconds: float, least: int = 2) -> None:
        """Warm up (compile, capture, fill caches) and choose ``count`` so that a round lasts ``seconds``.

        Args:
            seconds: of a round.
            least: steps of the warm-up, of the trial after it, and of a round, however long they take.
        """
        self.steps(least)
        began = self.clock()
        self.steps(least)
        self.count = max(least, round(least * seconds / (self.clock() - began)))

    def round(self) -> None:
        """Take ``count`` steps and keep their rate."""
        self.before()
        began, computed = self.clock(), time.process_time()
        self.steps(self.count)
        elapsed = self.clock() - began
        self.rates.append(self.count * self.batch_size / elapsed)
        self.cores.append((time.process_time() - computed) / elapsed)


def whole_run(trainer: "Trainer", engine: "Engine") -> TimedSteps:
    """The trainer's own loop body over an engine's batches, log lines included; verification left out."""
    batches = engine.batches(0, ENDLESS * trainer.setup.stream.batch_size)
    return _trainer_steps(trainer, f"whole run, {engine.name}", iter(batches))


def constant_batch(trainer: "Trainer") -> TimedSteps:
    """The same step, captured and compiled alike, on one batch that is already on the device."""
    batch = next(iter(trainer.setup.engine.batches(0, trainer.setup.stream.batch_size)))
    return _trainer_steps(trainer, "constant batch", repeat(batch))


def _trainer_steps(trainer: "Trainer", name: str, batches: "Iterator[Batch]") -> TimedSteps:
    def steps(count: int) -> None:
        for _ in range(count):
            logged_step(trainer, next(batches))
        wait(trainer.setup.compute)

    return TimedSteps(name, steps, trainer.setup.stream.batch_size)


def logged_step(trainer: "Trainer", batch: "Batch") -> None:
    """One step of the trainer, with a line of metrics where one is due."""
    trainer.step(batch)
    if trainer.state.step % trainer.setup.settings.logging.log_every == 0:
        trainer.log.read()


def wait(compute: "Compute") -> None:
    """Wait until the device has finished its queued work."""
    import torch

    if compute.device.type == "cuda":
        torch.cuda.synchronize()
