"""An improved residual network whose layers between convolutions are the GPU's kernels.

The network's modules hold the weights and say what is trained, in which mode, with which adapters, as ever; only how
they are computed is another. Every sum of a block also measures its result for the BatchNorm after it.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrfr_fast.model.backbones.base import frozen_statistics
from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone, IRBlock, SqueezeExcite
from hrfr_fast.model.backbones.subsample import Subsample
from hrfr_fast.model.kernels.batch_norm import as_tensors
from hrfr_fast.model.kernels.norm import gated_sum, normalise
from hrfr_fast.model.kernels.norm_launch import Statistics
from hrfr_fast.model.kernels.rounded_weights import rounded_weights
from hrfr_fast.model.kernels.stem import computes, stem

STEM_KERNELS = True
"""Whether the stem's convolution is computed by our kernels where they can; off to compare, and cuDNN's is used."""


def embed(backbone: ImprovedResNetBackbone, images: Tensor) -> Tensor:
    """[B, embedding_size] of normalised images [B, 3, S, S]: what ``Backbone.forward`` computes."""
    if backbone.activation_checkpointing and backbone.training:
        return _embed(backbone, images)  # blocks are computed again in the backward pass, with the weights of then
    others = {layer for part in backbone.modules() if isinstance(part, SqueezeExcite) for layer in part.modules()}
    if _computes_stem(backbone, images):
        others.add(cast(nn.Sequential, backbone.stem)[0])  # its kernels round as they read
    with rounded_weights((layer for layer in backbone.modules() if layer not in others), images.device):
        return _embed(backbone, images)


def _embed(backbone: ImprovedResNetBackbone, images: Tensor) -> Tensor:
    blocks = cast("list[IRBlock]", list(backbone.body))
    norms = [block.residual[0] for block in blocks] + [cast(nn.Sequential, backbone.output)[0]]
    maps, known = _run_stem(backbone, images, norms[0].training)
    for number, block in enumerate(blocks):
        measure, factors = norms[number + 1].training, backbone.branch_factors(number, maps)
        if backbone.activation_checkpointing and backbone.training:
            maps, known = checkpoint(
                run_block, block, maps, known, measure, *factors,
                use_reentrant=False, preserve_rng_state=False, context_fn=frozen_statistics(block),
            )  # fmt: skip
        else:
            maps, known = run_block(block, maps, known, measure, *factors)
    maps = normalise(maps, as_tensors(norms[-1]), known=known)[0]
    return cast(Tensor, cast(nn.Sequential, backbone.output)[1:](maps))


def _run_stem(backbone: ImprovedResNetBackbone, images: Tensor, measure: bool) -> tuple[Tensor, Statistics | None]:
    """What the stem makes of ``images``; with ``measure`` its statistics."""
    convolution, norm, activation = cast(nn.Sequential, backbone.stem)
    slope: Any = activation.weight if isinstance(activation, nn.PReLU) else None
    kind = "relu" if slope is None else "prelu"
    if _computes_stem(backbone, images):
        return stem(images, cast(Tensor, convolution.weight), as_tensors(norm), kind, slope, measure=measure)
    maps, _, known = normalise(convolution(images), as_tensors(norm), kind, slope, measure=measure)
    return maps, known


def _computes_stem(backbone: ImprovedResNetBackbone, images: Tensor) -> bool:
    return STEM_KERNELS and computes(cast(nn.Sequential, backbone.stem)[0], images)


def run_block(
    block: IRBlock, maps: Tensor, known: Statistics | None, measure: bool, factors: Tensor | None = None
) -> tuple[Tensor, Statistics | None]:
    """What ``block`` makes of ``maps``, whose statistics are ``known``; with ``measure`` its statistics."""
    layers: list[Any] = list(block.residual)
    gate = layers.pop() if isinstance(layers[-1], SqueezeExcite) else None
    first, convolution, *middle, activation, strided, last = layers
    projected = isinstance(block.shortcut, nn.Sequential)
    skip = cast(nn.Sequential, block.shortcut)[0] if projected else block.shortcut
    stride = cast(int, skip.stride) if isinstance(skip, Subsample) else 1
    residual, bypass, _ = normalise(maps, as_tensors(first), known=known, bypass=stride)
    residual = convolution(residual)
    if middle:
        residual = normalise(residual, as_tensors(middle[0]), "prelu", activation.weight)[0]
    else:
        residual = activation(residual)
    shortcut = bypass
    if projected:
        _, project, norm = cast(nn.Sequential, block.shortcut)
        bypass = bypass.contiguous(memory_format=torch.channels_last)
        shortcut = normalise(project(bypass), as_tensors(norm))[0]
    squeeze, excite = (gate.squeeze.weight.flatten(1), gate.excite.weight.flatten(1)) if gate else (None, None)
    factor = None if factors is None else factors[0]
    return gated_sum(strided(residual), as_tensors(last), shortcut, squeeze, excite, factor, measure=measure)
