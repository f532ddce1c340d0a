"""Sums, and means with sums of squared differences, over the slots of a tile: parts of GPU kernels that add rows up.

Row r of a tile [R, BC] belongs to slot r % S. See ``norm_triton`` for how S is chosen, and where the formulas are from.
"""

import triton
import triton.language as tl


@triton.jit
def sums_of_slots(values, R: tl.constexpr, S: tl.constexpr):
    """[S, BC] of a tile [R, BC]: the sums of its slots."""
    return tl.sum(tl.reshape(values, [R // S, S, values.shape[1]]), axis=0)


@triton.jit
def add_moments_of_tile(mean, square, values, begin, count, R: tl.constexpr, S: tl.constexpr):
    """Merge a tile [R, BC] of rows from ``begin`` on, 0 from row ``count`` on, into what the tiles before it left.

    ``mean`` and ``square``: [S, BC], of every slot.
    """
    EACH: tl.constexpr = R // S
    slot = tl.arange(0, S)
    number = tl.minimum(tl.maximum((count - begin - slot + S - 1) // S, 0), EACH)
    rows = tl.reshape(values, [EACH, S, values.shape[1]])
    here, before = number.to(values.dtype)[:, None], 1.0 * (begin // S)
    middle = tl.sum(rows, axis=0) * (1.0 / tl.maximum(here, 1.0))
    inside = tl.arange(0, EACH)[:, None, None] < number[None, :, None]
    away = tl.where(inside, rows - middle[None, :, :], 0.0)
    share, delta = here / tl.maximum(before + here, 1.0), middle - mean
    return mean + delta * share, square + tl.sum(away * away, axis=0) + delta * delta * (before * share)


@triton.jit
def write_moments_of(group, means, squares, mean, square, count, column, C: tl.constexpr, R: tl.constexpr):
    """Merge R slots, of every R-th row each: the group's mean, and its sum of squared differences from it."""
    numbers = tl.maximum((count - tl.arange(0, R) + R - 1) // R, 0).to(mean.dtype)[:, None]
    whole = tl.sum(numbers * mean, axis=0) * (1.0 / count)
    away = mean - whole[None, :]
    place = group.to(tl.int64) * C + column
    tl.store(means + place, whole, mask=column < C)
    tl.store(squares + place, tl.sum(square + numbers * away * away, axis=0), mask=column < C)
