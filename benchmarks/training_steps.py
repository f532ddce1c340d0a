"""The training steps that are compared: ours over an engine or on one constant batch, and the eager step."""

from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING

from benchmarks.peers.eager_step import EagerStep
from benchmarks.step_timing import TimedSteps, free_memory, peak_bytes, wait
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from hrfr_fast.engines.base import Batch, Engine
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.training.trainer import Trainer

ENDLESS = 10**7  # steps: a run long enough that --compile auto compiles on CUDA


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
            trainer.step(next(batches))
            if trainer.state.step % trainer.setup.settings.logging.log_every == 0:
                trainer.log.read()
        wait(trainer.setup.compute)

    return TimedSteps(name, steps, trainer.setup.stream.batch_size)


def best_eager_steps(trainer: "Trainer", batch_sizes: tuple[int, ...], seconds: float) -> TimedSteps:
    """The eager step at its fastest batch size, measured before ours takes memory; those too large are printed."""
    import torch

    tried: dict[int, TimedSteps] = {}
    for size in batch_sizes:
        before = free_memory(trainer.setup.compute)
        try:
            eager = eager_steps(trainer, size)
            eager.calibrate(seconds)
            eager.round()
            eager.details["peak_bytes"] = peak_bytes(trainer.setup.compute, before)
            tried[size] = eager
        except torch.cuda.OutOfMemoryError:
            print(f"the eager step does not fit with {size} images")
        eager.steps = _freed
    best = max(tried.values(), key=lambda eager: eager.images_per_second)
    best.details |= {"tried": {size: eager.images_per_second for size, eager in tried.items()}, "in_turns": False}
    free_memory(trainer.setup.compute)
    return best


def eager_steps_beside_ours(trainer: "Trainer", best: TimedSteps, seconds: float) -> TimedSteps:
    """The fastest eager step, set up again to take turns with ours; where both do not fit, the one measured before."""
    import torch

    try:
        eager = eager_steps(trainer, best.batch_size)
        eager.calibrate(seconds)
    except torch.cuda.OutOfMemoryError:
        free_memory(trainer.setup.compute)
        return best
    eager.details = best.details | {"in_turns": True}
    return eager


def _freed(count: int) -> None:
    raise RuntimeError("the memory of these steps was freed")


def eager_steps(trainer: "Trainer", batch_size: int) -> TimedSteps:
    """The eager step of a plain trainer, on one constant batch."""
    step = EagerStep(plain_shape(trainer), trainer.setup.stream.classes, trainer.setup.compute, batch_size)

    def steps(count: int) -> None:
        for _ in range(count):
            step()
        wait(trainer.setup.compute)

    return TimedSteps(f"eager NCHW {step.precision}, batch {batch_size}", steps, batch_size)


def plain_shape(trainer: "Trainer") -> "BackboneSettings":
    """The settings of the regime's one backbone. Raises UsageError for a fused model, which has no roofline here."""
    from hrfr_fast.model.backbone import BackboneSettings

    if not isinstance(trainer.setup.shape, BackboneSettings):
        raise UsageError(f"--regime {trainer.setup.regime.name}: a fused model; measure a regime of one backbone")
    return trainer.setup.shape
