"""Degradation and blur on CUDA: the kernel that multiplies their matrices into the resampling's, for every image.

All three are linear and separable. ``resample_kernel`` then reads the products instead of computing weights.
"""

import triton
import triton.language as tl

from hrfr_fast.resampling.spec import CUBIC, LINEAR
from hrfr_fast.resampling.triton_weights import axis_geometry, cubic, first_taps
from hrfr_fast.sampling.augmentation_triton import draw_blur, draw_box, draw_degradation, look_up_sample

CUBIC_FILTER, LINEAR_FILTER = tl.constexpr(CUBIC), tl.constexpr(LINEAR)


@triton.jit
def _blurred(tile, part, sigma, BO: tl.constexpr, OUT: tl.constexpr, TERMS: tl.constexpr):
    """float32 [BO, BO]: tile ``tile`` of the rows, ``part`` of the columns of a Gaussian of radius ceil(3 sigma).

    Borders reflect (reflect-101). Mirrored terms are made only in the corners that they reach.
    """
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    slope = (-0.5 / tl.maximum(sigma * sigma, 1e-12)).to(tl.float32)
    term = tl.arange(0, TERMS)
    total = 2.0 * tl.sum(tl.where(term <= reach, tl.exp(term * term * slope), 0.0), axis=0) - 1.0
    i, j = tile * BO + tl.arange(0, BO)[:, None], part * BO + tl.arange(0, BO)[None, :]
    result = _gaussian(tl.abs(j - i), reach, slope)
    if (tile + part) * BO <= reach:
        result += tl.where(j > 0, _gaussian(i + j, reach, slope), 0.0)
    if 2 * (OUT - 1) - (tile + part + 2) * BO + 2 <= reach:
        result += tl.where(j < OUT - 1, _gaussian(tl.abs(2 * (OUT - 1) - i - j), reach, slope), 0.0)
    return tl.where(j < OUT, result / total, 0.0)


@triton.jit
def _gaussian(distance, reach, slope):
    """exp(slope * distance**2) up to ``reach``, 0 beyond."""
    return tl.where(distance <= reach, tl.exp(distance * distance * slope), 0.0)


@triton.jit
def _clamped_and_normalised(weights, keys, taps, pixels, size):
    """``weights`` [rows, len(keys)] with what lies beyond the frame added to its edge pixels, and normalised.

    ``taps`` [rows, n] are all weights of each row again, at ``pixels`` [rows, n], which may lie outside.
    """
    low = tl.sum(tl.where((pixels <= 0) | (size == 1), taps, 0.0), axis=1)
    high = tl.sum(tl.where(pixels >= size - 1, taps, 0.0), axis=1)
    total = tl.sum(taps, axis=1)
    at = keys[None, :]
    weights = tl.where(at == 0, low[:, None], tl.where(at == size - 1, high[:, None], weights))
    return tl.where(at < size, weights, 0.0) * (1.0 / total)[:, None]


@triton.jit
def _resampled(row, keys, start, stop, size, OUT: tl.constexpr, TERMS: tl.constexpr):
    """float32 [len(row), len(keys)]: the source box of a frame of ``size`` pixels to OUT, by the cubic filter."""
    first, step, filter_scale = axis_geometry(start, stop, size, OUT)
    low, offset = first_taps(row, 0, first, step, filter_scale)
    inverse = (1.0 / filter_scale).to(tl.float32)
    term = tl.arange(0, TERMS)[None, :]
    taps = cubic(offset[:, None] + term * inverse)
    weights = cubic(offset[:, None] + (keys[None, :] - low[:, None]) * inverse)
    return _clamped_and_normalised(weights, keys, taps, low[:, None] + term, size)


@triton.jit
def _degraded(row, keys, small, filter, SIZE: tl.constexpr, TERMS: tl.constexpr):
    """float32 [len(row), len(keys)]: a whole frame of SIZE pixels to ``small``, by any of FILTERS."""
    most = tl.maximum(small, SIZE).to(tl.float32)
    low = tl.floor((row + 0.5) * SIZE / small - 2.0 * most / small - 1.0).to(tl.int32)  # before the first tap
    pixels = low[:, None] + tl.arange(0, TERMS)[None, :]
    taps = _filter_between(pixels, row[:, None], small, filter, most, SIZE)
    weights = _filter_between(keys[None, :], row[:, None], small, filter, most, SIZE)
    return _clamped_and_normalised(weights, keys, taps, pixels, SIZE)


@triton.jit
def _filter_between(pixel, output, small, filter, most, SIZE: tl.constexpr):
    """The degradation's filter at the distance of source pixel and output.

    Twice ``small`` times the distance is a whole number below 2**24, so float32 knows exactly on which side of the
    box filter's edge a pixel lies. The host's float64 finds the same side for every ``small`` up to 65 (of 36 px) and
    211 (of 144 px); above, where nothing is downsampled, rounding may move a nearest neighbour by one there.
    """
    twice = ((2 * pixel + 1) * small - (2 * output + 1) * SIZE).to(tl.float32)
    distance = twice * (0.5 / most)
    linear, box = tl.maximum(1.0 - tl.abs(distance), 0.0), tl.where((twice > -most) & (twice <= most), 1.0, 0.0)
    return tl.where(filter == CUBIC_FILTER, cubic(distance), tl.where(filter == LINEAR_FILTER, linear, box))


@triton.jit
def _degraded_then_resampled(
    row, keys, start, stop, small, filter, SIZE: tl.constexpr, OUT: tl.constexpr, BD: tl.constexpr,
    UP_TERMS: tl.constexpr, DOWN_TERMS: tl.constexpr,
):  # fmt: skip
    """float32 [len(row), len(keys)]: from the source to the output, by way of ``small`` pixels where that is > 0."""
    weights = tl.zeros([row.shape[0], keys.shape[0]], tl.float32)
    if small == 0:
        weights = _resampled(row, keys, start, stop, SIZE, OUT, UP_TERMS)
    else:
        for piece in range((small + BD - 1) // BD):
            middle = piece * BD + tl.arange(0, BD)
            up = _resampled(row, middle, start, stop, small, OUT, UP_TERMS)
            down = _degraded(middle, keys, small, filter, SIZE, DOWN_TERMS)
            weights = tl.dot(up.to(tl.float16), down.to(tl.float16), weights)
    return weights


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def compose_kernel(
    matrices, records, counter, settings, seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, OUT: tl.constexpr, BO: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
    DEGRADE: tl.constexpr, BLUR: tl.constexpr,
    BLUR_TERMS: tl.constexpr, UP_TERMS: tl.constexpr, DOWN_TERMS: tl.constexpr,
    VIEW: tl.constexpr, CHOSEN: tl.constexpr,
):  # fmt: skip
    """matrices: fp16 [B, 2, OUT, SIZE], vertical then horizontal: blur x resampling x degradation of each image."""
    TILES: tl.constexpr = (OUT + BO - 1) // BO
    PIECES: tl.constexpr = (SIZE + BS - 1) // BS
    image, axis = tl.program_id(0) // (2 * TILES * PIECES), tl.program_id(0) // (TILES * PIECES) % 2
    tile, piece = tl.program_id(0) // PIECES % TILES, tl.program_id(0) % PIECES
    epoch, position, record = look_up_sample(records, counter, skip, epoch_length, slots, image)
    if (record < begin) | (record >= end):
        return
    x0, y0, x1, y1 = draw_box(settings, seed, epoch, position, VIEW)
    start, stop = tl.where(axis == 0, y0, x0), tl.where(axis == 0, y1, x1)
    small, filter = 0, 0
    if DEGRADE:
        small, filter = draw_degradation(settings, seed, epoch, position, VIEW, CHOSEN)
        small = tl.where(small == SIZE, 0, small)
    row, keys = tile * BO + tl.arange(0, BO), piece * BS + tl.arange(0, BS)
    sigma = image.to(tl.float64) * 0.0
    if BLUR:
        sigma = draw_blur(settings, seed, epoch, position, VIEW).to(tl.float64) * OUT
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    last = tl.minimum(tile * BO + BO - 1 + reach, OUT - 1) // BO
    weights = tl.zeros([BO, BS], tl.float32)
    for part in range(tl.maximum(tile * BO - reach, 0) // BO, last + 1):
        line = part * BO + tl.arange(0, BO)
        inner = _degraded_then_resampled(line, keys, start, stop, small, filter, SIZE, OUT, BD, UP_TERMS, DOWN_TERMS)
        if reach > 0:
            blur = _blurred(tile, part, sigma, BO, OUT, BLUR_TERMS)
            weights = tl.dot(blur.to(tl.float16), inner.to(tl.float16), weights)
        else:
            weights = inner
    out = matrices + (image.to(tl.int64) * 2 + axis) * (OUT * SIZE) + row[:, None] * SIZE + keys[None, :]
    tl.store(out, weights.to(tl.float16), mask=(row < OUT)[:, None] & (keys < SIZE)[None, :])
