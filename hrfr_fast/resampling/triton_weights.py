"""Weights of the resampling definition along one axis, computed inside GPU kernels."""

import triton
import triton.language as tl

from hrfr_fast.resampling.spec import KEYS_A

A = tl.constexpr(KEYS_A)


@triton.jit
def cubic(t):
    """The cubic filter at distances ``t``, of any shape."""
    t = tl.abs(t)
    near = tl.fma(tl.fma(t, A + 2.0, -(A + 3.0)), t * t, 1.0)
    far = tl.fma(tl.fma(tl.fma(t, A, -5.0 * A), t, 8.0 * A), t, -4.0 * A)
    return tl.where(t < 1.0, near, tl.where(t < 2.0, far, 0.0))


@triton.jit
def axis_geometry(start, stop, size, outputs):
    """First position, step and scale of the filter of one axis in source pixels, float64 as on the host."""
    start, stop = start.to(tl.float64), stop.to(tl.float64)
    step = (stop - start) * size / outputs
    return start * size, step, tl.maximum(tl.abs(step), 1.0)


@triton.jit
def window_start(begin, end, first, step, filter_scale):
    """The lowest source pixel that outputs begin .. end (both included) read; it may lie outside the frame."""
    centre = tl.minimum(first + (begin + 0.5) * step, first + (end + 0.5) * step)
    return tl.floor(centre - 2.0 * filter_scale + 0.5).to(tl.int32)


@triton.jit
def first_taps(index, begin, first, step, filter_scale):
    """Each output's first tap (int32) and its distance from the centre over the filter's scale (float32).

    Positions are float32 relative to output ``begin``'s, which is float64: a tile is small, so they are exact to
    1e-5 px; a tap taken or left out by mistake there weighs nothing, as the cubic filter is 0 at its ends.
    """
    origin = first + (begin + 0.5) * step
    whole = tl.floor(origin)
    centre = (origin - whole).to(tl.float32) + (index - begin) * step.to(tl.float32)
    low = tl.floor(centre - 2.0 * filter_scale.to(tl.float32) + 0.5)
    return low.to(tl.int32) + whole.to(tl.int32), (low + 0.5 - centre) * (1.0 / filter_scale).to(tl.float32)


@triton.jit
def horizontal_weights(
    low, offset, filter_scale, channel, keys, SIZE: tl.constexpr, TAPS: tl.constexpr, MIX: tl.constexpr
):
    """float32 [len(keys), len(low)]: columns are x * 3 + channel of the output, keys x * 3 + channel of the source.

    Two taps clamped to one edge pixel are summed before they are placed: an entry costs a comparison and a selection
    a tap. With MIX there is an entry for every channel of the source pixel. TAPS 0: as many as the filter's scale
    needs, and the weights are normalised.
    """
    inverse = (1.0 / filter_scale).to(tl.float32)
    weights = tl.zeros([keys.shape[0], low.shape[0]], tl.float32)
    at = tl.full([low.shape[0]], -1, tl.int32)
    carried, total = tl.zeros([low.shape[0]], tl.float32), tl.zeros([low.shape[0]], tl.float32)
    wanted = keys // 3 if MIX else keys
    count = TAPS if TAPS > 0 else tl.ceil(4.0 * filter_scale).to(tl.int32) + 1
    for tap in range(count):
        pixel = tl.minimum(tl.maximum(low + tap, 0), SIZE - 1)
        new = pixel if MIX else pixel * 3 + channel
        weight = cubic(offset + tap * inverse)
        carried = tl.where(new == at, carried + weight, weight)
        at = new
        total += weight
        weights = tl.where(wanted[:, None] == at[None, :], carried[None, :], weights)
    return weights if TAPS > 0 else weights * (1.0 / total)[None, :]


@triton.jit
def vertical_weights(row, source_rows, begin, base, first, step, filter_scale):
    """float32 [len(row), len(source_rows)]: weights of source rows ``base + source_rows``, not clamped to the frame.

    The caller clamps the rows that it reads, and normalises where the filter's scale is above 1.
    """
    centre = (first + (begin + 0.5) * step - base - 0.5).to(tl.float32) + (row - begin) * step.to(tl.float32)
    return cubic((source_rows.to(tl.float32)[None, :] - centre[:, None]) * (1.0 / filter_scale).to(tl.float32))
