"""The phases of a regime over the steps of a run, and which parts of the model each of them trains."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hrfr_fast.regimes import Phase
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.words import counted

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ScheduledPhase:
    """A phase and its steps: from ``start`` on, below ``stop``."""

    phase: Phase
    start: int
    stop: int


def schedule_phases(phases: Sequence[Phase], steps: int) -> list[ScheduledPhase]:
    """The phases over 0 .. steps - 1, each with its share. Raises UsageError when one would get no step."""
    scheduled, done, share = [], 0, 0.0
    for phase in phases:
        share += phase.share
        stop = round(share * steps)
        if stop <= done:
            short = f"{counted(steps, 'step')}: too few for {len(phases)} phases"
            raise UsageError(f"{short}, one would get none; raise --steps")
        scheduled.append(ScheduledPhase(phase, done, stop))
        done = stop
    return scheduled


def set_trainable(
    backbone: Any, head: "nn.Module", parts: Sequence[str], *, keep_statistics: bool, adapters_only: bool = False
) -> None:
    """Train only ``parts``: gradients and training mode for them, evaluation mode for the rest.

    BatchNorm in evaluation mode normalises by its running statistics and leaves them alone, so a frozen part computes
    exactly what it computed in the checkpoint it came from. ``keep_statistics``: the same for the layers that train in
    ``body`` and ``output``; their scales and shifts still train. ``adapters_only``: of these two parts nothing but the
    low-rank adapters trains, and one of them without any stays frozen whole, statistics included.
    """
    from hrfr_fast.model.lora import adapters

    backbone.train()
    for name, modules in (backbone.parts | {"head": [head]}).items():
        inherited = adapters_only and name in ("body", "output")
        trains = name in parts and not (inherited and not any(True for part in modules for _ in adapters(part)))
        for module in modules:
            module.requires_grad_(trains)
            module.train(trains)
            if keep_statistics and name in ("body", "output"):
                for norm in batchnorms(module):
                    norm.eval()
            if inherited:
                module.requires_grad_(False)
                for adapter in adapters(module):
                    adapter.requires_grad_(trains)


def batchnorms(module: "nn.Module") -> Iterator["nn.Module"]:
    """Every BatchNorm layer in ``module``."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return (part for part in module.modules() if isinstance(part, _BatchNorm))
