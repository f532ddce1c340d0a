"""Launching of the squeeze-and-excitation kernels in ``gate_triton``."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hrfr_fast.model.kernels import gate_triton as kernels
from hrfr_fast.model.kernels.launching import launch
from hrfr_fast.model.kernels.norm_launch import Norm, Statistics, triton_type

TILE = 2048
"""Values of each matrix that a program holds at a time: 16 a thread of 4 warps."""


class Gate(NamedTuple):
    """Each image's gate, and what its backward pass needs; float32 (float64 of float64 maps)."""

    centred: Tensor
    """[images, C]: the image's means less the batch's."""
    pooled: Tensor
    """[images, C]: BN's means over the image's pixels."""
    hidden: Tensor
    """[images, H]: after ReLU."""
    gate: Tensor
    """[images, C]."""


class GateGradients(NamedTuple):
    """What ``gate_gradients`` finds."""

    totals: Tensor
    """[2, images, C]: what each image adds to the sums of g and of g (x - mean)."""
    pooled: Tensor
    """[images, C]: by BN's means over the image's pixels."""
    squeeze: Tensor
    excite: Tensor


def gates(found: Statistics, norm: Norm, squeeze: Tensor, excite: Tensor) -> Gate:
    """Of maps whose images' statistics are ``found``; squeeze [H, C] and excite [C, H]."""
    groups, (inner, channels) = found.groups, squeeze.shape
    wide = [found.means.new_empty(groups.images, channels) for _ in range(3)]
    result = Gate(wide[0], wide[1], found.means.new_empty(groups.images, inner), wide[2])
    launch(
        kernels.gate_kernel, (groups.images,),
        found.means, *norm, squeeze.contiguous(), excite.contiguous(), *result,
        groups.size, groups.splits, groups.length, **_tile(inner, channels), SUM=triton_type(found.means),
    )  # fmt: skip
    return result


def gate_gradients(
    sums: Tensor, splits: int, norm: Norm, squeeze: Tensor, excite: Tensor, factor: Tensor | None, gate: Gate
) -> GateGradients:
    """From the sums that ``norm_launch.gradient_sums`` leaves of each image in ``splits`` groups."""
    images, channels = gate.gate.shape
    inner = len(squeeze)
    by_excited, by_pooled = (sums.new_empty(images, channels) for _ in range(2))
    by_hidden, totals = sums.new_empty(images, inner), sums.new_empty(2, images, channels)
    launch(
        kernels.gate_gradients_kernel, (images,),
        sums, norm.inverse_std, norm.weight, norm.bias, squeeze.contiguous(), excite.contiguous(), gate.centred,
        gate.hidden, gate.gate, norm.mean if factor is None else factor, by_excited, by_hidden, by_pooled, totals,
        images, splits, **_tile(inner, channels), FACTORED=factor is not None, SUM=triton_type(sums),
    )  # fmt: skip
    device = "cpu" if sums.is_meta else sums.device.type  # on the meta device launches are only counted
    with torch.autocast(device, enabled=False):
        by_squeeze, by_excite = by_hidden.t() @ gate.pooled, by_excited.t() @ gate.hidden
    return GateGradients(totals, by_pooled, by_squeeze.to(squeeze.dtype), by_excite.to(excite.dtype))


def _tile(inner: int, channels: int) -> dict[str, int]:
    wide = triton.next_power_of_2(channels)
    tall = min(triton.next_power_of_2(inner), max(1, TILE // wide))
    return {"C": channels, "H": inner, "BC": wide, "BH": tall, "num_warps": 4}
