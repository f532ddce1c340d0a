"""What follows the downsampling in the degradation chain, on CUDA: noise, rounding and JPEG, in integers.

A program makes a tile of 32 x 32 pixels, 16 blocks of JPEG, in all three channels. The DCT of all blocks of a tile is
a product with a block-diagonal matrix. To be exact it runs in int8 on the tensor cores: 16-bit numbers are 256 h + l,
and their products sums of four products of bytes. All sums stay below 2**31: a block of 8x8 values of at most 128 has a
norm of 1024, quantisation by steps of at most 255 adds 1020, and the DCT keeps norms but for its factor sqrt(8) 2**13.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from hrfr_fast.resampling import jpeg
from hrfr_fast.sampling.augmentation_triton import look_up_sample
from hrfr_fast.sampling.degradation_triton import draw_order, draw_quality, draw_small, draw_spread, noise_of

TILE = 32
(Y_R, Y_G, Y_B), (CB_R, CB_G, CB_B), (CR_R, CR_G, CR_B) = (
    [tl.constexpr(weight) for weight in line] for line in jpeg.TO_YCC.tolist()
)
Y_BIAS, CB_BIAS, CR_BIAS = (tl.constexpr(bias) for bias in jpeg.TO_YCC_BIAS.tolist())
R_CR, B_CB, G_CB, G_CR = (
    tl.constexpr(weight) for weight in (jpeg.RED_OF_CR, jpeg.BLUE_OF_CB, jpeg.GREEN_OF_CB, jpeg.GREEN_OF_CR)
)
AFTER_FIRST = tl.constexpr(jpeg.MATRIX_BITS - jpeg.PASS_BITS)
AFTER_SECOND = tl.constexpr(jpeg.MATRIX_BITS + jpeg.PASS_BITS)


def jpeg_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """int32 [TILE, TILE]: the DCT of the blocks of a line; int32 [101, 3, 8, 8]: the quantisation tables."""
    matrix = np.kron(np.eye(TILE // 8, dtype=np.int32), jpeg.dct_matrix().astype(np.int32))
    tables = jpeg.quantisation_tables().astype(np.int32)
    return torch.from_numpy(matrix).to(device), torch.from_numpy(tables).to(device)


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def levels_kernel(
    pictures, values, dct, tables, records, counter, settings, seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, LARGEST: tl.constexpr, TILE: tl.constexpr, VIEW: tl.constexpr,
):  # fmt: skip
    """pictures: uint8 [B, LARGEST, LARGEST, 3], as far as each image's side, from ``shrink_kernel``'s values."""
    TILES: tl.constexpr = (LARGEST + TILE - 1) // TILE
    image = tl.program_id(0) // (TILES * TILES)
    top, left = tl.program_id(0) // TILES % TILES * TILE, tl.program_id(0) % TILES * TILE
    epoch, position, record = look_up_sample(records, counter, skip, epoch_length, slots, image)
    if (record < begin) | (record >= end):
        return
    small, _, _ = draw_small(settings, seed, epoch, position, SIZE, VIEW)
    if (top >= small) | (left >= small):
        return
    own, grey, low, high = draw_spread(settings, seed, epoch, position, VIEW)
    quality = draw_quality(settings, seed, epoch, position, VIEW)
    noisy = (own > 0) | (grey > 0)
    compressed_first = (quality > 0) & (draw_order(settings, seed, epoch, position, VIEW) % 2 == 1)
    # Outside the picture stands its last row or column, with which JPEG fills its blocks.
    row, column = top + tl.arange(0, TILE)[:, None], left + tl.arange(0, TILE)[None, :]
    y, x = tl.minimum(row, small - 1), tl.minimum(column, small - 1)
    plane = values + image.to(tl.int64) * (3 * LARGEST * LARGEST) + y * LARGEST + x
    red, green = tl.load(plane), tl.load(plane + LARGEST * LARGEST)
    blue = tl.load(plane + 2 * LARGEST * LARGEST)
    if noisy & (compressed_first == 0):
        more_red, more_green, more_blue = noise_of(y * small + x, own, grey, low, high)
        red, green, blue = red + more_red, green + more_green, blue + more_blue
    red, green, blue = _level(red), _level(green), _level(blue)
    if quality > 0:
        red, green, blue = _compressed(red, green, blue, dct, tables + quality * 192, TILE)
    if noisy & compressed_first:
        more_red, more_green, more_blue = noise_of(y * small + x, own, grey, low, high)
        red, green, blue = _level(red + more_red), _level(green + more_green), _level(blue + more_blue)
    inside = (row < small) & (column < small)
    out = pictures + image.to(tl.int64) * (LARGEST * LARGEST * 3) + (row * LARGEST + column) * 3
    tl.store(out, red.to(tl.uint8), mask=inside)
    tl.store(out + 1, green.to(tl.uint8), mask=inside)
    tl.store(out + 2, blue.to(tl.uint8), mask=inside)


@triton.jit
def _level(value):
    """Clamped and rounded half up, int32."""
    return (tl.minimum(tl.maximum(value, 0.0), 255.0) + 0.5).to(tl.int32)


@triton.jit
def _compressed(red, green, blue, dct, tables, TILE: tl.constexpr):
    """JPEG's effect on whole pixel values, int32 [TILE, TILE]; see ``jpeg``. ``tables``: those of the quality."""
    luma = (red * Y_R + green * Y_G + blue * Y_B + Y_BIAS >> 16) - 128
    cb = (red * CB_R + green * CB_G + blue * CB_B + CB_BIAS >> 16) - 128
    cr = (red * CR_R + green * CR_G + blue * CR_B + CR_BIAS >> 16) - 128
    luma = _quantised(luma, dct, tables, TILE) + 128
    cb, cr = _quantised(cb, dct, tables + 64, TILE), _quantised(cr, dct, tables + 128, TILE)
    red = luma + (cr * R_CR + 32768 >> 16)
    green = luma + (cb * G_CB + cr * G_CR + 32768 >> 16)
    blue = luma + (cb * B_CB + 32768 >> 16)
    return _clamped(red, 0, 255), _clamped(green, 0, 255), _clamped(blue, 0, 255)


@triton.jit
def _quantised(block, dct, table, TILE: tl.constexpr):
    """``block``, int32 [TILE, TILE] less 128, after DCT, quantisation, and their inverse."""
    row, column = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    forward, backward = tl.load(dct + row * TILE + column), tl.load(dct + column * TILE + row)
    block = _rounded(_product(block, backward), AFTER_FIRST)
    coefficients = _rounded(_product(forward, block), AFTER_SECOND)
    divisor = tl.load(table + row % 8 * 8 + column % 8)
    steps = (tl.abs(coefficients) + 4 * divisor) // (8 * divisor) * divisor
    block = tl.where(coefficients < 0, -steps, steps)
    block = _rounded(_product(backward, block), AFTER_FIRST)
    return _clamped(_rounded(_product(block, forward), AFTER_SECOND + 3), -128, 127)


@triton.jit
def _product(left, right):
    """The matrix product of int32 with values below 2**15 - 128, int32."""
    left_high, right_high = left + 128 >> 8, right + 128 >> 8
    left_low, right_low = (left - (left_high << 8)).to(tl.int8), (right - (right_high << 8)).to(tl.int8)
    left_high, right_high = left_high.to(tl.int8), right_high.to(tl.int8)
    middle = tl.dot(left_low, right_high) + tl.dot(left_high, right_low)
    return (tl.dot(left_high, right_high) << 16) + (middle << 8) + tl.dot(left_low, right_low)


@triton.jit
def _rounded(value, BITS: tl.constexpr):
    """``value`` / 2**BITS, rounded half up."""
    return (value >> BITS - 1) + 1 >> 1


@triton.jit
def _clamped(value, low, high):
    return tl.minimum(tl.maximum(value, low), high)
