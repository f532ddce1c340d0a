"""GPU kernels that add up what the groups of ``norm_triton`` leave, in a fixed order.

A program has a few channels of all groups, up to RG at a time, and holds them in registers: they are read once and at
once, however many sums are made of them. A thread adds up its own, and only one value of a warp goes through shared
memory.
"""

import triton
import triton.language as tl


@triton.jit
def _rows_before(group, size, splits, length):
    """Rows of all groups before this one, int64."""
    return tl.full((), group // splits, tl.int64) * size + tl.minimum(group % splits * length, size)


@triton.jit(do_not_specialize=["groups", "size", "splits", "length", "rows"])
def merge_statistics_kernel(
    means, squares, mean_out, inverse_std_out, running_mean, running_var, counter,
    groups, size, splits, length, rows, momentum, eps,
    C: tl.constexpr, RG: tl.constexpr, BC: tl.constexpr, RUNNING: tl.constexpr, COUNTED: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """Each channel's mean and 1 / sqrt(variance + eps) from all groups; moves the running statistics as torch does."""
    row, column = tl.arange(0, RG), tl.program_id(0) * BC + tl.arange(0, BC)
    known = column < C
    mean, square = tl.zeros([BC], SUM), tl.zeros([BC], SUM)
    for begin in range(0, groups, RG):
        group = begin + row
        inside = (group < groups)[:, None] & known[None, :]
        place = group.to(tl.int64)[:, None] * C + column[None, :]
        centres = tl.load(means + place, mask=inside, other=0.0)
        spreads = tl.load(squares + place, mask=inside, other=0.0)
        count = tl.where(group < groups, tl.minimum(length, size - group % splits * length), 0).to(SUM)[:, None]
        first = _rows_before(begin, size, splits, length)
        here = (_rows_before(tl.minimum(begin + RG, groups), size, splits, length) - first).to(SUM)
        before = first.to(SUM)
        middle = tl.sum(count * centres, axis=0) / here
        away = centres - middle[None, :]
        share, delta = here / (before + here), middle - mean
        mean += delta * share
        square += tl.sum(spreads + count * away * away, axis=0) + delta * delta * (before * share)
    tl.store(mean_out + column, mean, mask=known)
    tl.store(inverse_std_out + column, 1.0 / tl.sqrt(square / rows + eps), mask=known)
    if RUNNING:
        before = tl.load(running_mean + column, mask=known, other=0.0)
        tl.store(running_mean + column, (1.0 - momentum) * before + momentum * mean, mask=known)
        before = tl.load(running_var + column, mask=known, other=0.0)
        tl.store(running_var + column, (1.0 - momentum) * before + momentum * (square / (rows - 1)), mask=known)
    if COUNTED and tl.program_id(0) == 0:
        tl.store(counter, tl.load(counter) + 1)


@triton.jit(do_not_specialize=["groups", "kinds"])
def merge_sums_kernel(
    sums, inverse_std, totals, groups, kinds, C: tl.constexpr, RG: tl.constexpr, BC: tl.constexpr, SUM: tl.constexpr
):
    """[kinds + 1, C] of partial sums [kinds, groups, C]; the last is the second times ``inverse_std``."""
    kind, row, column = tl.program_id(1), tl.arange(0, RG), tl.program_id(0) * BC + tl.arange(0, BC)
    known = column < C
    total = tl.zeros([RG, BC], SUM)
    for begin in range(0, groups, RG):
        group = begin + row
        place = (kind.to(tl.int64) * groups + group[:, None]) * C + column[None, :]
        total += tl.load(sums + place, mask=(group < groups)[:, None] & known[None, :], other=0.0)
    result = tl.sum(total, axis=0)
    tl.store(totals + kind * C + column, result, mask=known)
    if kind == 1:
        spread = tl.load(inverse_std + column, mask=known, other=0.0).to(SUM)
        tl.store(totals + kinds * C + column, result * spread, mask=known)
