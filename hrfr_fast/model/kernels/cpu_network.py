"""An improved residual network on a CPU, with the layers between convolutions as kernels of our own, and convolutions
and a linear layer as products where that is faster.

The modules hold the weights and say what trains, in which mode, with which adapters, as ever; only how they are
computed is another.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrfr_fast.model.backbones.base import frozen_statistics
from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone, IRBlock, SqueezeExcite
from hrfr_fast.model.kernels.batch_norm import as_tensors
from hrfr_fast.model.kernels.cpu_convolution import convolved, fits
from hrfr_fast.model.kernels.cpu_norm import gated_sum, normalise
from hrfr_fast.model.kernels.cpu_product import linear


def embed(backbone: ImprovedResNetBackbone, images: Tensor) -> Tensor:
    """[B, embedding_size] of normalised images [B, 3, S, S]: what ``Backbone.forward`` computes."""
    maps = run_layers(cast(nn.Sequential, backbone.stem), images)
    for number, block in enumerate(cast("list[IRBlock]", list(backbone.body))):
        given = (maps, *backbone.branch_factors(number, maps))
        if backbone.activation_checkpointing and backbone.training:
            maps = checkpoint(
                run_block, block, *given, use_reentrant=False, preserve_rng_state=False,
                context_fn=frozen_statistics(block),
            )  # fmt: skip
        else:
            maps = run_block(block, *given)
    for layer in cast(nn.Sequential, backbone.output):
        plain = type(layer) is nn.Linear and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        maps = linear(maps, cast(nn.Linear, layer)) if plain else layer(maps)
    return maps


def run_block(block: IRBlock, maps: Tensor, factors: Tensor | None = None) -> Tensor:
    """What ``block`` makes of ``maps``."""
    layers = list(block.residual)
    last = layers.pop()
    gate = last if isinstance(last, SqueezeExcite) else None
    first, *middle, last = layers if gate else [*layers, last]
    residual, bypass = maps, maps
    if _fits(first, maps):
        residual, bypass = normalise(maps, as_tensors(first), bypass=True)
        residual = run_layers(middle, residual)
    else:
        residual = run_layers([first, *middle], residual)
    shortcut = (
        run_layers(block.shortcut, bypass) if isinstance(block.shortcut, nn.Sequential) else block.shortcut(bypass)
    )
    if factors is None and _fits(last, residual) and shortcut.dtype == residual.dtype:
        gates = [part.weight.flatten(1) for part in (gate.squeeze, gate.excite)] if gate else []
        return gated_sum(residual, as_tensors(last), shortcut, *gates)
    residual = run_layers([last], residual)
    if gate is not None:
        residual = gate(residual)
    if factors is not None:
        residual = residual * factors[0].view(-1, 1, 1, 1)
    return residual + shortcut


def run_layers(layers: "list[nn.Module] | nn.Sequential", maps: Tensor) -> Tensor:
    """What ``layers`` make of ``maps``, one after the other; each BatchNorm together with the activation after it."""
    waiting = list(layers)
    while waiting:
        layer = waiting.pop(0)
        if not _fits(layer, maps):
            maps = convolved(cast(nn.Conv2d, layer), maps) if fits(layer, maps) else layer(maps)
            continue
        slope = None
        if waiting and isinstance(waiting[0], nn.PReLU | nn.ReLU):
            activation = waiting.pop(0)
            slope = activation.weight if isinstance(activation, nn.PReLU) else torch.zeros(maps.shape[1])
        maps = normalise(maps, as_tensors(layer), slope)[0]
    return maps


def _fits(layer: nn.Module, maps: Tensor) -> bool:
    """Whether the kernels can compute ``layer``: an ordinary BatchNorm of their number formats."""
    return type(layer) is nn.BatchNorm2d and maps.dtype in (torch.float32, torch.bfloat16) and maps.numel() > 0
