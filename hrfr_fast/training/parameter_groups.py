"""Which weights decay, and at which share of the learning rate each layer is trained."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

RATE_FACTOR = "rate_factor"
"""Key of a group: its learning rate is the schedule's times this."""


def parameter_groups(
    modules: "Iterable[nn.Module]", *, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters of ``modules`` as an optimiser's groups.

    Tensors of two dimensions and more (convolutions, linear layers, the head's class vectors) decay; vectors (norms,
    PReLU, biases) and what a module calls ``undecayed`` (the positions of a transformer) do not: pulling a BatchNorm
    scale to 0 only changes the effective learning rate.

    ``layer_decay``: factor of the rate from each layer of a backbone to the one below it: 1 for the output layer and
    everything that is in no backbone, layer_decay for the last block, down to layer_decay^(blocks + 1) for the stem
    (Clark et al., "ELECTRA", ICLR 2020; Bao et al., "BEiT", ICLR 2022, appendix).
    """
    modules = list(modules)
    kept_out = _undecayed(modules)
    factors = _rate_factors(modules, layer_decay)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                decays = parameter.ndim >= 2 and id(parameter) not in kept_out
                groups.setdefault((decays, factors.get(id(parameter), 1.0)), []).append(parameter)
    return [
        {"params": groups[decays, factor], "weight_decay": weight_decay if decays else 0.0, RATE_FACTOR: factor}
        for decays, factor in sorted(groups, reverse=True)
    ]


def _undecayed(modules: "list[nn.Module]") -> set[int]:
    parts = (part for module in modules for part in module.modules())
    return {id(getattr(part, name)) for part in parts for name in getattr(part, "undecayed", ())}


def _rate_factors(modules: "list[nn.Module]", layer_decay: float) -> dict[int, float]:
    from hrfr_fast.model.backbone import Backbone

    factors: dict[int, float] = {}
    for backbone in (part for module in modules for part in module.modules() if isinstance(part, Backbone)):
        layers = [backbone.stem, *backbone.body, backbone.output]
        for above, layer in enumerate(reversed(layers)):
            factors |= {id(parameter): layer_decay**above for parameter in layer.parameters()}
    return factors
