"""The common eager step that ours is compared with."""

from typing import TYPE_CHECKING

from benchmarks.peers.eager_step import EagerStep
from benchmarks.step_timing import free_memory, peak_bytes
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.training.timed_steps import TimedSteps, wait

if TYPE_CHECKING:
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.training.trainer import Trainer


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
