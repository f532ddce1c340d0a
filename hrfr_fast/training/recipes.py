"""How a network is trained where the settings leave it open: its optimiser, rate, decay and stochastic depth."""

from collections.abc import Callable, Iterable
from typing import Any

from hrfr_fast.model.backbones.table import BACKBONES, VisionTransformer
from hrfr_fast.settings import TrainSettings

OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"learning_rate": 0.1, "weight_decay": 5e-4},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.1},
}
"""arcface_torch's rates and decays: of its configurations for residual networks, and of those for transformers."""
TRANSFORMER_DROP_PATH = 0.05
"""arcface_torch's ``vit_s_dp005`` and ``vit_b_dp005``."""


def with_recipe(
    settings: TrainSettings,
    networks: Iterable[str],
    *,
    fused: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> TrainSettings:
    """``settings`` with an optimiser, a learning rate, a weight decay and a stochastic depth.

    Args:
        networks: names of the backbones that are trained, among ``BACKBONES``.
        fused: their bodies stay frozen, so that stochastic depth has no effect.
        say: told what was chosen, unless that is plain SGD.
    """
    names = sorted(set(networks))
    transformer = any(isinstance(BACKBONES[name], VisionTransformer) for name in names)
    asked = settings.optimizer.optimizer
    optimizer = asked if asked != "auto" else "adamw" if transformer else "sgd"
    found: dict[str, Any] = {
        "optimizer": optimizer,
        **OPTIMIZERS[optimizer],
        "drop_path": TRANSFORMER_DROP_PATH if transformer and not fused else 0.0,
    }
    given = settings.flat()
    chosen = {name: value for name, value in found.items() if given[name] in (None, "auto")}
    text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in chosen.items())
    if chosen and optimizer != "sgd":
        say(f"{' + '.join(names)}, where nothing else is set: {text}")
    return settings.replaced(**chosen)
