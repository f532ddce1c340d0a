"""BatchNorm and what is elementwise before and after it, as numba kernels for CPUs.

Maps are channels-last and lie flat, [pixels * channels]. A kernel takes them in *segments* of equal length (the last
may be shorter) and is called for the segments ``first`` to ``last - 1``, so that threads share the work. Sums are kept
for each segment and added later in their order: results do not depend on the number of threads.

What makes them fast: a row of about ``ROW`` numbers is several pixels, so that loops vectorise whatever the number of
channels. On one core with AVX-512 they run at the speed of memory.

Maps are float32, or uint16, the bits of bfloat16, rounded to the nearest, ties to even, as torch rounds. Arithmetic is
float32; the sums of a segment are folded in float64.

Compiled for each type of map at first use and kept on disk. Functions call others of this file only, since numba does
not notice changes elsewhere.
"""

import numba
import numpy as np
from numba import types
from numba.extending import overload

from hrfr_fast.runtime.caches import numba_keeps_kernels

ROW = 512  # numbers of a row, about: its sums, factors and terms lie in the first-level cache

_KEPT = numba_keeps_kernels()
# Nothing is assumed of infinities and NaN, and no product and sum become one operation (docs/decisions/58: bits).
_jit = numba.njit(cache=_KEPT, fastmath={"nsz"}, nogil=True)


def _wide(value):
    """The number that a map's entry stands for."""
    return value


@overload(_wide, inline="always")
def _compiled_wide(value):
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def _narrow(value, like):
    """``value`` in the type of ``like``, rounded to the nearest, ties to even."""
    return value


@overload(_narrow, inline="always")
def _compiled_narrow(value, like):
    if like == types.uint16:

        def narrow(value, like):
            bits = np.float32(value).view(np.uint32)
            odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
            return np.uint16(np.uint32(bits + np.uint32(odd + np.uint32(0x7FFF))) >> np.uint32(16))

        return narrow
    return lambda value, like: value


@_jit
def _row_pixels(channels, pixels):
    return max(1, min(ROW // channels, pixels))


@_jit
def _row(size):
    """Zeros, float32 [size], that begin where a cache line does, as long as a vector of AVX-512: from where NumPy puts
    them half of all vectors are read from two lines, which takes 1.1 to 1.4 times as long."""
    room = np.zeros(size + 16, np.float32)
    begin = (-(room.ctypes.data >> 2)) % 16
    return room[begin : begin + size]


@_jit
def _tiled(values, row):
    """One value a channel, repeated for all pixels of a row."""
    channels = len(values)
    out = _row(row)
    for at in range(0, row, channels):
        pixel = out[at : at + channels]
        for channel in range(channels):
            pixel[channel] = values[channel]
    return out


@_jit
def _fold(row, sums):
    """The sums over all pixels of a row: float64 [channels], written."""
    channels = len(sums)
    for channel in range(channels):
        sums[channel] = row[channel]
    for at in range(channels, len(row), channels):
        pixel = row[at : at + channels]  # a slice: an index that may be negative is looked up by gathering
        for channel in range(channels):
            sums[channel] += np.float64(pixel[channel])


@_jit
def moments(maps, channels, pixels, mean, spread, first, last):
    """Mean and sum of squared deviations from it, for each segment of ``pixels`` pixels and each channel.

    ``maps``: [pixels * channels]. ``mean``, ``spread``: float64 [segments, channels], written.
    """
    for segment in range(first, last):
        begin = segment * pixels * channels
        _moments(maps[begin : begin + pixels * channels], channels, mean[segment], spread[segment])


@_jit
def _moments(maps, channels, mean, spread):
    count = len(maps) // channels
    row = channels * _row_pixels(channels, count)
    # Deviations from the first pixel: squares of large numbers would lose the small differences between them.
    for channel in range(channels):
        mean[channel] = _wide(maps[channel])
    origin = _tiled(mean, row)
    sums, squares = _row(row), _row(row)
    at = 0
    while at + 4 * row <= len(maps):
        a, b = maps[at : at + row], maps[at + row : at + 2 * row]
        c, d = maps[at + 2 * row : at + 3 * row], maps[at + 3 * row : at + 4 * row]
        for i in range(row):
            of_a, of_b = _wide(a[i]) - origin[i], _wide(b[i]) - origin[i]
            of_c, of_d = _wide(c[i]) - origin[i], _wide(d[i]) - origin[i]
            sums[i] += (of_a + of_b) + (of_c + of_d)
            squares[i] += (of_a * of_a + of_b * of_b) + (of_c * of_c + of_d * of_d)
        at += 4 * row
    while at < len(maps):
        rest = maps[at : at + row]
        for i in range(len(rest)):
            value = _wide(rest[i]) - origin[i]
            sums[i] += value
            squares[i] += value * value
        at += row
    total = np.empty(channels, np.float64)
    _fold(sums, total)
    _fold(squares, spread)
    for channel in range(channels):
        mean[channel] += total[channel] / count
        spread[channel] = max(spread[channel] - total[channel] * total[channel] / count, 0.0)  # NaN stays NaN


@_jit
def normalise(maps, channels, pixels, factor, term, slope, shortcut, out, first, last):
    """``out = prelu(factor * maps + term) + shortcut``.

    ``factor``, ``term``: [1 or segments, channels], for all segments or for each. ``slope``: [channels], or None: no
    PReLU. ``shortcut``: like ``maps``, or None; with ``slope`` it is not used.
    """
    size = pixels * channels
    for segment in range(first, last):
        begin, end, which = segment * size, min((segment + 1) * size, len(maps)), segment % len(factor)
        if slope is not None:
            _normalise_prelu(maps[begin:end], channels, factor[which], term[which], slope, out[begin:end])
        elif shortcut is not None:
            _normalise_add(maps[begin:end], channels, factor[which], term[which], shortcut[begin:end], out[begin:end])
        else:
            _normalise(maps[begin:end], channels, factor[which], term[which], out[begin:end])


@_jit
def _normalise(maps, channels, factor, term, out):
    row = channels * _row_pixels(channels, len(maps) // channels)
    factors, terms = _tiled(factor, row), _tiled(term, row)
    for at in range(0, len(maps), row):
        source, target = maps[at : at + row], out[at : at + row]
        for i in range(len(source)):
            target[i] = _narrow(_wide(source[i]) * factors[i] + terms[i], target[i])


@_jit
def _normalise_prelu(maps, channels, factor, term, slope, out):
    row = channels * _row_pixels(channels, len(maps) // channels)
    factors, terms, slopes = _tiled(factor, row), _tiled(term, row), _tiled(slope, row)
    for at in range(0, len(maps), row):
        source, target = maps[at : at + row], out[at : at + row]
        for i in range(len(source)):
            value = _wide(source[i]) * factors[i] + terms[i]
            target[i] = _narrow(value if value > 0 else value * slopes[i], target[i])


@_jit
def _normalise_add(maps, channels, factor, term, shortcut, out):
    row = channels * _row_pixels(channels, len(maps) // channels)
    factors, terms = _tiled(factor, row), _tiled(term, row)
    for at in range(0, len(maps), row):
        source, other, target = maps[at : at + row], shortcut[at : at + row], out[at : at + row]
        for i in range(len(source)):
            target[i] = _narrow(_wide(source[i]) * factors[i] + terms[i] + _wide(other[i]), target[i])


@_jit
def gradient_sums(gradient, maps, channels, pixels, origin, factor, term, slope, sums, first, last):
    """The sums over each segment that gradients are made of, written to ``sums``, float64 [segments, 3, channels].

    With g = ``gradient`` times PReLU's derivative at v = factor * maps + term: the sums of g, of g * (maps - origin)
    and, by the slope, of gradient * min(v, 0). ``slope`` None: without PReLU, and then ``term`` is not used.
    """
    size = pixels * channels
    for segment in range(first, last):
        begin, end, which = segment * size, min((segment + 1) * size, len(maps)), segment % len(origin)
        if slope is not None:
            _prelu_sums(gradient[begin:end], maps[begin:end], channels, origin[which], factor[which], term[which],
                        slope, sums[segment])  # fmt: skip
        else:
            _plain_sums(gradient[begin:end], maps[begin:end], channels, origin[which], sums[segment])


@_jit
def _plain_sums(gradient, maps, channels, origin, sums):
    row = channels * _row_pixels(channels, len(maps) // channels)
    origins = _tiled(origin, row)
    plain, product = _row(row), _row(row)
    for at in range(0, len(maps), row):  # two rows at a time, read from two places each, took up to 2 x as long
        source, given = maps[at : at + row], gradient[at : at + row]
        for i in range(len(source)):
            value = _wide(given[i])
            plain[i] += value
            product[i] += value * (_wide(source[i]) - origins[i])
    _fold(plain, sums[0])
    _fold(product, sums[1])


@_jit
def _prelu_sums(gradient, maps, channels, origin, factor, term, slope, sums):
    row = channels * _row_pixels(channels, len(maps) // channels)
    origins, factors, terms, slopes = _tiled(origin, row), _tiled(factor, row), _tiled(term, row), _tiled(slope, row)
    plain, product, by_slope = _row(row), _row(row), _row(row)
    for at in range(0, len(maps), row):
        source, given = maps[at : at + row], gradient[at : at + row]
        for i in range(len(source)):
            number, value = _wide(source[i]), _wide(given[i])
            result = number * factors[i] + terms[i]
            inner = value if result > 0 else value * slopes[i]
            plain[i] += inner
            product[i] += inner * (number - origins[i])
            by_slope[i] += np.float32(0) if result > 0 else value * result
    _fold(plain, sums[0])
    _fold(product, sums[1])
    _fold(by_slope, sums[2])


@_jit
def gradient_by_maps(
    gradient, maps, channels, pixels, scale, linear, constant, factor, term, slope, other, out, first, last
):
    """``out = scale * g + linear * maps + constant + other``, g as in ``gradient_sums``.

    ``scale``, ``linear``, ``constant``: [1 or segments, channels]. ``other``: like ``maps``, a gradient that reaches
    the maps on another path; None: there is none.
    """
    size = pixels * channels
    for segment in range(first, last):
        begin, end, which = segment * size, min((segment + 1) * size, len(maps)), segment % len(scale)
        given, source, target = gradient[begin:end], maps[begin:end], out[begin:end]
        if slope is not None:
            _prelu_gradient(given, source, channels, scale[which], linear[which], constant[which], factor[which],
                            term[which], slope, target)  # fmt: skip
        elif other is not None:
            _added_gradient(given, source, channels, scale[which], linear[which], constant[which], other[begin:end],
                            target)  # fmt: skip
        else:
            _plain_gradient(given, source, channels, scale[which], linear[which], constant[which], target)


@_jit
def _plain_gradient(gradient, maps, channels, scale, linear, constant, out):
    row = channels * _row_pixels(channels, len(maps) // channels)
    scales, linears, constants = _tiled(scale, row), _tiled(linear, row), _tiled(constant, row)
    for at in range(0, len(maps), row):
        source, given, target = maps[at : at + row], gradient[at : at + row], out[at : at + row]
        for i in range(len(source)):
            target[i] = _narrow(scales[i] * _wide(given[i]) + linears[i] * _wide(source[i]) + constants[i], target[i])


@_jit
def _added_gradient(gradient, maps, channels, scale, linear, constant, other, out):
    row = channels * _row_pixels(channels, len(maps) // channels)
    scales, linears, constants = _tiled(scale, row), _tiled(linear, row), _tiled(constant, row)
    for at in range(0, len(maps), row):
        source, given, target = maps[at : at + row], gradient[at : at + row], out[at : at + row]
        more = other[at : at + row]
        for i in range(len(source)):
            value = scales[i] * _wide(given[i]) + linears[i] * _wide(source[i]) + constants[i]
            target[i] = _narrow(value + _wide(more[i]), target[i])


@_jit
def _prelu_gradient(gradient, maps, channels, scale, linear, constant, factor, term, slope, out):
    row = channels * _row_pixels(channels, len(maps) // channels)
    scales, linears, constants = _tiled(scale, row), _tiled(linear, row), _tiled(constant, row)
    factors, terms, slopes = _tiled(factor, row), _tiled(term, row), _tiled(slope, row)
    for at in range(0, len(maps), row):
        source, given, target = maps[at : at + row], gradient[at : at + row], out[at : at + row]
        for i in range(len(source)):
            number, value = _wide(source[i]), _wide(given[i])
            inner = value if number * factors[i] + terms[i] > 0 else value * slopes[i]
            target[i] = _narrow(scales[i] * inner + linears[i] * number + constants[i], target[i])
