"""Degradation and blur on CUDA: the kernel that multiplies their matrices into the resampling's, for every image.

All three are linear and separable. ``resample_kernel`` then reads the products instead of computing weights. The blur
and the downsampling serve the native degradation as well (``low_resolution_triton``).
"""

import triton
import triton.language as tl

from hrfr_fast.resampling.spec import CUBIC
from hrfr_fast.resampling.triton_filters import filter_weights
from hrfr_fast.sampling.augmentation_triton import draw_blur, draw_box, draw_degradation, look_up_sample

CUBIC_FILTER = tl.constexpr(CUBIC)


@triton.jit
def blurred(tile, part, sigma, TILE: tl.constexpr, size, TERMS: tl.constexpr):
    """float32 [TILE, TILE]: tile ``tile`` of the rows, ``part`` of the columns of a Gaussian of radius ceil(3 sigma)
    over ``size`` pixels, which are more than the radius.

    Borders reflect (reflect-101). Mirrored terms are made only in the corners that they reach.
    """
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    slope = (-0.5 / tl.maximum(sigma * sigma, 1e-12)).to(tl.float32)
    term = tl.arange(0, TERMS)
    total = 2.0 * tl.sum(tl.where(term <= reach, tl.exp(term * term * slope), 0.0), axis=0) - 1.0
    i, j = tile * TILE + tl.arange(0, TILE)[:, None], part * TILE + tl.arange(0, TILE)[None, :]
    result = _gaussian(tl.abs(j - i), reach, slope)
    if (tile + part) * TILE <= reach:
        result += tl.where(j > 0, _gaussian(i + j, reach, slope), 0.0)
    if 2 * (size - 1) - (tile + part + 2) * TILE + 2 <= reach:
        result += tl.where(j < size - 1, _gaussian(tl.abs(2 * (size - 1) - i - j), reach, slope), 0.0)
    return tl.where(j < size, result / total, 0.0)


@triton.jit
def _gaussian(distance, reach, slope):
    """exp(slope * distance**2) up to ``reach``, 0 beyond."""
    return tl.where(distance <= reach, tl.exp(distance * distance * slope), 0.0)


@triton.jit
def shrinking(row, keys, small, filter, SIZE: tl.constexpr):
    """float32 [len(row), len(keys)]: a whole frame of SIZE pixels to ``small``, by any of FILTERS."""
    origin = small.to(tl.float64) * 0.0
    return filter_weights(row, keys, origin, (origin + SIZE) / small, SIZE, filter)


@triton.jit
def _degraded_then_resampled(
    row, keys, start, width, small, filter, SIZE: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr
):
    """float32 [len(row), len(keys)]: from the source to the output, by way of ``small`` pixels where that is > 0.

    start, width: of the box, as shares of the frame, float64.
    """
    weights = tl.zeros([row.shape[0], keys.shape[0]], tl.float32)
    if small == 0:
        weights = filter_weights(row, keys, start * SIZE, width * SIZE / OUT, SIZE, CUBIC_FILTER)
    else:
        for piece in range((small + TILE - 1) // TILE):
            middle = piece * TILE + tl.arange(0, TILE)
            up = filter_weights(row, middle, start * small, width * small / OUT, small, CUBIC_FILTER)
            down = shrinking(middle, keys, small, filter, SIZE)
            weights = tl.dot(up.to(tl.float16), down.to(tl.float16), weights)
    return weights


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def compose_kernel(
    matrices, records, counter, settings, seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
    DEGRADE: tl.constexpr, BLUR: tl.constexpr, BLUR_TERMS: tl.constexpr, VIEW: tl.constexpr, CHOSEN: tl.constexpr,
):  # fmt: skip
    """matrices: fp16 [B, 2, OUT, SIZE], vertical then horizontal: blur x resampling x degradation of each image."""
    ROWS: tl.constexpr = (OUT + TILE - 1) // TILE
    COLUMNS: tl.constexpr = (SIZE + TILE - 1) // TILE
    image, axis = tl.program_id(0) // (2 * ROWS * COLUMNS), tl.program_id(0) // (ROWS * COLUMNS) % 2
    tile, piece = tl.program_id(0) // COLUMNS % ROWS, tl.program_id(0) % COLUMNS
    epoch, position, record = look_up_sample(records, counter, skip, epoch_length, slots, image)
    if (record < begin) | (record >= end):
        return
    x0, y0, x1, y1 = draw_box(settings, seed, epoch, position, VIEW)
    start = tl.where(axis == 0, y0, x0).to(tl.float64)
    width = tl.where(axis == 0, y1, x1).to(tl.float64) - start
    small, filter = 0, 0
    if DEGRADE:
        small, filter = draw_degradation(settings, seed, epoch, position, VIEW, CHOSEN)
        small = tl.where(small == SIZE, 0, small)
    row, keys = tile * TILE + tl.arange(0, TILE), piece * TILE + tl.arange(0, TILE)
    sigma = image.to(tl.float64) * 0.0
    if BLUR:
        sigma = draw_blur(settings, seed, epoch, position, VIEW).to(tl.float64) * OUT
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    last = tl.minimum(tile * TILE + TILE - 1 + reach, OUT - 1) // TILE
    weights = tl.zeros([TILE, TILE], tl.float32)
    for part in range(tl.maximum(tile * TILE - reach, 0) // TILE, last + 1):
        line = part * TILE + tl.arange(0, TILE)
        inner = _degraded_then_resampled(line, keys, start, width, small, filter, SIZE, OUT, TILE)
        if reach > 0:
            blur = blurred(tile, part, sigma, TILE, OUT, BLUR_TERMS)
            weights = tl.dot(blur.to(tl.float16), inner.to(tl.float16), weights)
        else:
            weights = inner
    out = matrices + (image.to(tl.int64) * 2 + axis) * (OUT * SIZE) + row[:, None] * SIZE + keys[None, :]
    tl.store(out, weights.to(tl.float16), mask=(row < OUT)[:, None] & (keys < SIZE)[None, :])
