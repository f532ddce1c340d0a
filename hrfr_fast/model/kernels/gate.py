"""Launching of the squeeze-and-excitation kernels in ``gate_triton``."""

from typing import NamedTuple

import triton
from torch import Tensor

from hrfr_fast.model.kernels import gate_triton as kernels
from hrfr_fast.model.kernels.launching import launch
from hrfr_fast.model.kernels.norm_launch import Norm, Statistics, triton_type

IMAGES, MEANS, TILE = 4, 2048, 4096
"""Images of a program at most, values that it has of them together, and of each matrix at a time: with 4 warps 16 and
32 a thread. Of the products of the two only sums are kept."""
ROWS, COLUMNS, IMAGES_EACH, MOST_SHARES, PROGRAMS = 32, 64, 32, 32, 128
"""Of the gradients by the matrices: rows and columns of a program, images that it reads at a time, and into how many
shares the batch is divided at most, so that there are about so many programs."""


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
    result, tile = Gate(wide[0], wide[1], found.means.new_empty(groups.images, inner), wide[2]), _tile(inner, channels)
    launch(
        kernels.gate_kernel, (triton.cdiv(groups.images, tile["IM"]),),
        found.means, *norm, squeeze.contiguous(), excite.contiguous(), *result,
        groups.images, groups.size, groups.splits, groups.length, **tile, SUM=triton_type(found.means),
    )  # fmt: skip
    return result


def gate_gradients(
    sums: Tensor, splits: int, norm: Norm, squeeze: Tensor, excite: Tensor, factor: Tensor | None, gate: Gate
) -> GateGradients:
    """From the sums that ``norm_launch.gradient_sums`` leaves of each image in ``splits`` groups."""
    images, channels = gate.gate.shape
    inner = len(squeeze)
    tile = _tile(inner, channels)
    by_excited, by_pooled = (sums.new_empty(images, channels) for _ in range(2))
    by_hidden, totals = sums.new_empty(images, inner), sums.new_empty(2, images, channels)
    launch(
        kernels.gate_gradients_kernel, (triton.cdiv(images, tile["IM"]),),
        sums, norm.inverse_std, norm.weight, norm.bias, squeeze.contiguous(), excite.contiguous(), gate.centred,
        gate.hidden, gate.gate, norm.mean if factor is None else factor, by_excited, by_hidden, by_pooled, totals,
        images, splits, **tile, FACTORED=factor is not None, SUM=triton_type(sums),
    )  # fmt: skip
    by_matrices = _matrix_gradients(by_hidden, by_excited, gate, squeeze, excite)
    return GateGradients(totals, by_pooled, *by_matrices)


def _matrix_gradients(
    by_hidden: Tensor, by_excited: Tensor, gate: Gate, squeeze: Tensor, excite: Tensor
) -> tuple[Tensor, Tensor]:
    """By squeeze and excite, of their types: sums over images of the products of what enters and what comes back."""
    (images, channels), inner = gate.gate.shape, len(squeeze)
    tall = max(16, min(ROWS, triton.next_power_of_2(inner)))
    across, down = triton.cdiv(channels, COLUMNS), triton.cdiv(inner, tall)
    share = triton.cdiv(images, max(1, min(MOST_SHARES, PROGRAMS // (across * down))))
    share = triton.cdiv(share, IMAGES_EACH) * IMAGES_EACH
    shares = triton.cdiv(images, share)
    products = by_hidden.new_empty(shares, 2, inner, channels)
    by_squeeze, by_excite = squeeze.new_empty(inner, channels), excite.new_empty(channels, inner)
    sizes = {"C": channels, "H": inner, "BC": COLUMNS}
    launch(
        kernels.gate_products_kernel, (across, down, shares),
        by_hidden, gate.pooled, gate.hidden, by_excited, products, images, share,
        **sizes, BH=tall, BK=IMAGES_EACH, SUM=triton_type(products), num_warps=4,
    )  # fmt: skip
    launch(
        kernels.gate_weights_kernel, (across, 2 * inner), products, by_squeeze, by_excite, shares,
        **sizes, SHARES=triton.next_power_of_2(shares), num_warps=1,
    )  # fmt: skip
    return by_squeeze, by_excite


def _tile(inner: int, channels: int) -> dict[str, int]:
    wide = triton.next_power_of_2(channels)
    tall = min(triton.next_power_of_2(inner), max(1, TILE // wide))
    images = max(1, min(IMAGES, MEANS // wide))
    return {"C": channels, "H": inner, "IM": images, "BC": wide, "BH": tall, "num_warps": 4}
