"""What of a parent's weights a run trains: all of them, the output layer alone, or low-rank adapters beside them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hrfr_fast.regimes import Phase, Regime
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.words import counted
from hrfr_fast.settings import TrainSettings, TuningSettings

if TYPE_CHECKING:
    from torch import nn

INHERITED = ("body", "output")
"""Parts that come from parents where there are some."""


def as_the_regime_tunes(settings: TrainSettings, regime: Regime) -> TrainSettings:
    """``settings`` with ``tune`` as the regime says, where they leave it to the regime."""
    return settings.replaced(tune=regime.tune) if settings.tuning.tune == "regime" else settings


def refuse_without_parent(tuning: TuningSettings, regime: Regime) -> None:
    """Raise UsageError where there are no weights of a parent that ``tuning`` could keep."""
    if tuning.tune != "full" and not (regime.parents and regime.phases):
        reason = "is not trained" if regime.parents else "has no parent, so it would stay random"
        raise UsageError(
            f"--tune {tuning.tune} keeps the weights of a parent; regime {regime.name} {reason}. Leave --tune out, or "
            "name a regime that starts from another, as lowres144-finetuned"
        )


def tuned_phases(tuning: TuningSettings, regime: Regime) -> tuple[Phase, ...]:
    """The regime's phases, without the body where the output layer alone is to train.

    Raises:
        UsageError: a phase would train nothing, or no part with adapters is ever trained.
    """
    refuse_without_parent(tuning, regime)
    if tuning.tune == "lora" and not adapted_parts(tuning, regime):
        raise UsageError(
            f"--tune lora with --lora-layers {tuning.lora_layers}: regime {regime.name} trains no such part; "
            "leave --tune out"
        )
    if tuning.tune != "output":
        return regime.phases
    phases = [(phase, tuple(part for part in phase.train if part != "body")) for phase in regime.phases]
    if not all(train for _, train in phases):
        raise UsageError(f"--tune output: a phase of regime {regime.name} trains the body alone; leave --tune out")
    return tuple(phase.replaced(train=train) for phase, train in phases)


def adapted_parts(tuning: TuningSettings, regime: Regime) -> tuple[str, ...]:
    """The parts of the model that get adapters: those of ``--lora-layers`` that some phase trains."""
    if tuning.tune != "lora":
        return ()
    wanted = INHERITED if tuning.lora_layers == "all" else (tuning.lora_layers,)
    return tuple(part for part in wanted if any(part in phase.train for phase in regime.phases))


def add_tuning(backbone: Any, tuning: TuningSettings, regime: Regime) -> None:
    """Give ``backbone``, which holds its parents' weights, the adapters that ``tuning`` asks for.

    Raises UsageError where no layer is large enough for their rank.
    """
    from hrfr_fast.model.lora import add_adapters

    parts = adapted_parts(tuning, regime)
    modules = [module for part in parts for module in backbone.parts[part]]
    if parts and not add_adapters(modules, tuning.lora_rank, tuning.lora_alpha or tuning.lora_rank):
        raise UsageError(f"--lora-rank {tuning.lora_rank}: no layer is larger than that; give a smaller one")


@dataclass(frozen=True)
class Trained:
    """How many numbers of a network train."""

    trained: int
    all: int

    def __str__(self) -> str:
        beside = f"{100 * self.trained / self.all:.3g} % of the network's {self.all:,}"
        return f"trains {counted(self.trained, 'parameter')} ({beside}) and the head"


def count_trained(backbone: "nn.Module") -> Trained:
    """The parameters that take gradients, and all; those of adapters count as trained but not as the network's."""
    from hrfr_fast.model.lora import adapters

    added = sum(parameter.numel() for part in adapters(backbone) for parameter in part.parameters())
    trained = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
    return Trained(trained, sum(parameter.numel() for parameter in backbone.parameters()) - added)


def tuning_metadata(tuning: TuningSettings) -> dict[str, Any]:
    """Entry ``tuning`` of a checkpoint's metadata; nothing for a run that trains all its weights."""
    values = {name: value for name, value in dict(tuning).items() if value is not None}
    return {} if tuning.tune == "full" else {"tuning": values if tuning.tune == "lora" else {"tune": tuning.tune}}
