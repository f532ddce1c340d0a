"""Weights of any of the five filters along one axis, computed inside GPU kernels as ``cpu._taps`` computes them."""

import math

import numpy as np
import triton
import triton.language as tl

from hrfr_fast.resampling import spec
from hrfr_fast.resampling.triton_weights import cubic

LINEAR, BOX, NEAREST, LANCZOS = (tl.constexpr(f) for f in (spec.LINEAR, spec.BOX, spec.NEAREST, spec.LANCZOS))
_EDGE = float(np.float32(0.5 + spec.BOX_TIE))
LOW_EDGE, HIGH_EDGE = tl.constexpr(_EDGE - 1.0), tl.constexpr(_EDGE)
"""Of the box, in float32 exactly 1 apart: of two pixels on either side of both edges one is always inside."""
WIDEST = tl.constexpr(3.0)  # lobes of Lanczos: no filter weighs anything farther away, in units of its scale
SINE_1, SINE_3, SINE_5, SINE_7, SINE_9, SINE_11 = (
    tl.constexpr((-1) ** (n // 2) * math.pi**n / math.factorial(n)) for n in (1, 3, 5, 7, 9, 11)
)
AREA = tl.constexpr(3 / math.pi**2)
TAPS_EACH = tl.constexpr(16)


@triton.jit
def _sine_of_pi(x):
    """sin(pi x), by its Taylor series about the nearest zero: an error of 6e-8 at most."""
    whole = tl.floor(x + 0.5)
    r = x - whole
    s = r * r
    high = tl.fma(tl.fma(s * SINE_11 + SINE_9, s, SINE_7), s, SINE_5)
    sine = tl.fma(tl.fma(high, s, SINE_3), s, SINE_1) * r
    return tl.where((whole.to(tl.int32) & 1) == 1, -sine, sine)


@triton.jit
def _lanczos(t):
    """sinc(t) sinc(t / 3) for t >= 0."""
    weight = _sine_of_pi(t) * _sine_of_pi(t * (1.0 / 3.0)) * AREA / tl.maximum(t * t, 1e-8)
    return tl.where(t < 1e-4, 1.0, tl.where(t < WIDEST, weight, 0.0))


@triton.jit
def filtered(t, filter):
    """Unnormalised weights at distances ``t`` over the filter's scale, float32 of any shape, of FILTERS[filter]."""
    weights = cubic(t)
    if filter == LINEAR:
        weights = tl.maximum(1.0 - tl.abs(t), 0.0)
    if (filter == BOX) | (filter == NEAREST):
        weights = tl.where((t > LOW_EDGE) & (t <= HIGH_EDGE), 1.0, 0.0)
    if filter == LANCZOS:
        weights = _lanczos(tl.abs(t))
    return weights


@triton.jit
def filter_weights(row, keys, first, step, size, filter):
    """float32 [len(row), len(keys)]: weights of the source pixels ``keys`` of ``size`` in the outputs ``row``.

    first, step: where the outputs begin, and their distance, in source pixels, float64. Rows are normalised, and what
    lies beyond the frame weighs at its edge pixels.
    """
    scale = tl.where(filter == NEAREST, 1.0, tl.maximum(tl.abs(step), 1.0))
    inverse = (1.0 / scale).to(tl.float32)
    centre = first + (row.to(tl.float64) + 0.5) * step
    whole = tl.floor(centre)
    part, pixel = (centre - whole).to(tl.float32), whole.to(tl.int32)
    reach = tl.ceil(scale * WIDEST).to(tl.int32) + 1
    low, high, total = part * 0.0, part * 0.0, part * 0.0
    for begin in range(-reach, reach + 1, TAPS_EACH):
        tap = begin + tl.arange(0, TAPS_EACH)
        weights = filtered((tap.to(tl.float32)[None, :] + 0.5 - part[:, None]) * inverse, filter)
        at = pixel[:, None] + tap[None, :]
        low += tl.sum(tl.where((at <= 0) | (size == 1), weights, 0.0), axis=1)
        high += tl.sum(tl.where(at >= size - 1, weights, 0.0), axis=1)
        total += tl.sum(weights, axis=1)
    at = keys[None, :]
    distance = (at - pixel[:, None]).to(tl.float32) + 0.5 - part[:, None]  # rounded as those of the taps are
    weights = filtered(distance * inverse, filter)
    weights = tl.where(at == 0, low[:, None], tl.where(at == size - 1, high[:, None], weights))
    return tl.where(at < size, weights, 0.0) / total[:, None]
