"""Low-rank adapters: W + (alpha / r) B A in place of the weight W of a convolution or linear layer, with W frozen.

Hu et al., "LoRA", ICLR 2022, section 4.1: A [r, in] is random, B [out, r] starts at zero, so that the first step
computes what the weights alone compute, to the bit. A convolution's weight is taken as the matrix [out, k * k * in].
(The authors' loralib takes it as [out * k, in * k] with rank r * k, which has k times as many numbers for one r.)
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """The parametrisation of one weight: [out, in] or [out, in, k, k], float32.

    Args:
        weight: whose shape and device it takes.
        rank: r, at least 1 and below both sides of the matrix.
        alpha: the change is multiplied with alpha / rank.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as loralib, and as torch initialises linear layers

    def forward(self, weight: Tensor) -> Tensor:
        device = "cpu" if weight.is_meta else weight.device.type  # on the meta device operations are only counted
        with torch.autocast(device, enabled=False):
            change = self.up @ self.down
            if weight.ndim == 4:  # in the order of memory of channels-last weights
                channels_out, channels_in, height, width = weight.shape
                change = change.view(channels_out, height, width, channels_in).permute(0, 3, 1, 2)
            return torch.add(weight, change, alpha=self.scale)


def add_adapters(modules: Iterable[nn.Module], rank: int, alpha: float) -> int:
    """Give the convolutions and linear layers in ``modules`` an adapter each; how many were given one.

    Layers without groups only, and only those whose matrix has more than ``rank`` rows and columns: elsewhere an
    adapter would be no smaller than the layer. Draws from torch's global generator.
    """
    count = 0
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1:
                weight = layer.weight
                if min(len(weight), weight[0].numel()) > rank:
                    parametrize.register_parametrization(layer, "weight", LowRank(weight, rank, alpha))
                    count += 1
    return count


def adapters(module: nn.Module) -> Iterator[LowRank]:
    """The adapters in ``module``."""
    return (part for part in module.modules() if isinstance(part, LowRank))


def merged_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """``module.state_dict()`` with every adapter added to its weight: of the module without adapters."""
    marker, merged = "parametrizations.", {}
    for name, tensor in module.state_dict().items():
        place, found, rest = name.rpartition(marker)
        parameter, _, part = rest.partition(".")
        if not found:
            merged[name] = tensor
        elif part == "original":
            merged[place + parameter] = getattr(module.get_submodule(place.removesuffix(".")), parameter).detach()
    return merged
