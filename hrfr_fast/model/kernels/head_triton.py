"""GPU kernels of the margin softmax over many classes: products, softmax and gradients without logits in memory.

The softmax is online (Milakov & Gimelshein 2018): a program keeps the running maximum and sum of its rows over tiles of
classes. The backward pass computes every tile of cosines again, as FlashAttention does (Dao et al., NeurIPS 2022,
section 3.1), once for the gradient by the embeddings and once for that by the class vectors: each program owns a tile
of rows or of classes, adds up over all of the other in registers and writes once, so no sums meet in memory, and equal
inputs give equal bits. Margins change the target's logit alone, which is outside (``heads.py``): here the target's
class is left out of the softmax and its cosine handed over.

The gradient by a class vector w = |w| u is (g - (g u) u) / |w|, g that by u. g u is the sum of the cosines times their
gradients, and (g u) u is summed up as the rest is: the class itself is one more row, whose gradient is -g u. Subtracted
after the loop it would need the sums in another order than theirs, and more registers than there are.

Unit vectors are rounded to 16 bits, products are summed in float32; the gradient of cosines is rounded to 16 bits
before its products, as in ``class_chunks``.
"""

import triton
import triton.language as tl


@triton.jit
def unit_kernel(weight, unit, lengths, classes, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """Class vectors of length 1, rounded to the type of ``unit``, and their lengths; at least 1e-12, as normalize."""
    row, column = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BD)
    inside = (row < classes)[:, None] & (column < D)[None, :]
    start = tl.program_id(0).to(tl.int64) * BN * D
    within = tl.arange(0, BN)[:, None] * D + column[None, :]
    values = tl.load(weight + start + within, mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(values * values, axis=1)), 1e-12)
    tl.store(unit + start + within, (values / length[:, None]).to(unit.dtype.element_ty), mask=inside)
    tl.store(lengths + row, length, mask=row < classes)


@triton.jit
def _rows(matrix, first, count, begin: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr):
    """Rows ``first`` to ``first + BR`` of [count, D], columns ``begin`` to ``begin + BD``; zeros past its ends."""
    row, column = tl.arange(0, BR), begin + tl.arange(0, BD)
    inside = (first + row < count)[:, None] & (column < D)[None, :]
    start = matrix + tl.cast(first, tl.int64) * D
    return tl.load(start + row[:, None] * D + column[None, :], mask=inside, other=0.0)


@triton.jit
def _write_rows(
    gradient, result, first, count, begin: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr
):
    """Columns ``begin`` to ``begin + BD`` of a program's rows of its share of the gradient."""
    row, column = tl.arange(0, BM), begin + tl.arange(0, BD)
    inside = (first + row < count)[:, None] & (column < D)[None, :]
    start = gradient + (tl.program_id(1).to(tl.int64) * count + first) * D
    tl.store(start + row[:, None] * D + column[None, :], result, mask=inside)


@triton.jit
def softmax_kernel(
    directions, unit, labels, partial_total, partial_target, batch, classes, scale, tiles_each,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KS: tl.constexpr,
):  # fmt: skip
    """log sum exp(scale * cosine) over one share of the classes without the target's, and the target's cosine.

    ``directions``: [batch, D], ``unit``: [classes, D], of one type. Results are [shares, batch]; the cosine is 0 where
    the target is in another share. D is cut into KS pieces of BK.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    known = row < batch
    label = tl.load(labels + row, mask=known, other=-1).to(tl.int32)
    most, total = tl.full([BM], -float("inf"), tl.float32), tl.zeros([BM], tl.float32)
    target = tl.zeros([BM], tl.float32)
    first = tl.program_id(1) * tiles_each
    for tile in range(first, tl.minimum(first + tiles_each, (classes + BN - 1) // BN)):
        column = tile * BN + tl.arange(0, BN)
        cosines = tl.zeros([BM, BN], tl.float32)
        # The pieces of D are further steps of one loop for the compiler to load ahead; KS is small and constant.
        for piece in range(KS):
            depth = piece * BK + tl.arange(0, BK)
            left = tl.load(
                directions + row[:, None] * D + depth[None, :], mask=known[:, None] & (depth < D)[None, :], other=0.0
            )
            right = tl.load(
                unit + column.to(tl.int64)[None, :] * D + depth[:, None],
                mask=(column < classes)[None, :] & (depth < D)[:, None],
                other=0.0,
            )
            cosines = tl.dot(left, right, cosines, input_precision="ieee")
        cosines = tl.minimum(tl.maximum(cosines, -1.0), 1.0)  # rounding may go past 1
        own = label[:, None] == column[None, :]
        target += tl.sum(tl.where(own, cosines, 0.0), axis=1)
        logits = tl.where(own | (column >= classes)[None, :], -float("inf"), cosines * scale)
        larger = tl.maximum(most, tl.max(logits, axis=1))
        # Where nothing was seen but the target both are -inf, and their difference would be no number.
        base = tl.where(larger == -float("inf"), 0.0, larger)
        total = total * tl.exp(most - base) + tl.sum(tl.exp(logits - base[:, None]), axis=1)
        most = larger
    place = tl.program_id(1) * batch + row
    tl.store(partial_total + place, most + tl.log(total), mask=known)
    tl.store(partial_target + place, target, mask=known)


@triton.jit
def _numbers(labels, total, total_gradient, target_gradient, index, there, AXIS: tl.constexpr):
    """Label, log-sum-exp and both gradients of rows of the batch, along the axis that is not AXIS."""
    label = tl.load(labels + index, mask=there, other=-1).to(tl.int32)
    sums = tl.load(total + index, mask=there, other=float("inf"))
    by_total = tl.load(total_gradient + index, mask=there, other=0.0)
    by_target = tl.load(target_gradient + index, mask=there, other=0.0)
    return (
        tl.expand_dims(label, AXIS), tl.expand_dims(sums, AXIS), tl.expand_dims(by_total, AXIS),
        tl.expand_dims(by_target, AXIS),
    )  # fmt: skip


@triton.jit
def _before(tile, end, there, BN: tl.constexpr):
    """``there`` in tiles before ``end``, else nothing: compared as BN numbers, for the interpreter of Triton 3.9 makes
    no mask of a mask and one truth value."""
    return there & (tl.full([BN], tile, tl.int32) < end)


@triton.jit
def gradient_kernel(
    own_rows, other_rows, labels, total, total_gradient, target_gradient, lengths, gradient,
    own_count, other_count, scale, tiles_each,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, HALVES: tl.constexpr,
    BY_CLASS: tl.constexpr,
):  # fmt: skip
    """The gradient by unit vectors: by ``directions`` in shares of the classes, or by the class vectors.

    A program owns BM rows of ``own_rows`` (directions, or with BY_CLASS unit class vectors) and goes through the tiles
    of its share of ``other_rows``. [shares, own_count, D] float32; with BY_CLASS, in one share, the gradient by the
    class vectors themselves. D is cut into HALVES (1 or 2) of BD columns.
    """
    first = tl.program_id(0) * BM
    own = _rows(own_rows, first, own_count, 0, D, BM, BD)
    own_second = _rows(own_rows, first, own_count, BD, D, BM, BD)
    own_index = first + tl.arange(0, BM)
    known = own_index < own_count
    result, second = tl.zeros([BM, BD], tl.float32), tl.zeros([BM, BD], tl.float32)
    along = tl.zeros([BM], tl.float32)
    begin = tl.program_id(1) * tiles_each
    end = tl.minimum(begin + tiles_each, (other_count + BN - 1) // BN)
    for tile in range(begin, end + (BM // BN if BY_CLASS else 0)):
        matrix, other_first, count = other_rows, tile * BN, other_count
        if BY_CLASS:  # noqa: SIM102  (the first is known to the compiler, the second is not)
            if tile >= end:
                matrix, other_first, count = own_rows, first + (tile - end) * BN, own_count
        other = _rows(matrix, other_first, count, 0, D, BN, BD)
        other_second = _rows(matrix, other_first, count, BD, D, BN, BD)
        other_index = other_first + tl.arange(0, BN)
        there = other_index < count
        cosines = tl.dot(own, tl.trans(other), input_precision="ieee")
        if HALVES == 2:
            cosines = tl.dot(own_second, tl.trans(other_second), cosines, input_precision="ieee")
        if BY_CLASS:
            label, sums, by_total, by_target = _numbers(
                labels, total, total_gradient, target_gradient, other_index, _before(tile, end, there, BN), 0
            )
            is_target = label == own_index[:, None]
        else:
            label, sums, by_total, by_target = _numbers(
                labels, total, total_gradient, target_gradient, own_index, known, 1
            )
            is_target = label == other_index[None, :]
        clamped = tl.minimum(tl.maximum(cosines, -1.0), 1.0)
        by_cosine = tl.where(is_target, by_target, tl.exp(clamped * scale - sums) * (by_total * scale))
        rounded = tl.where(known[:, None] & there[None, :], by_cosine, 0.0).to(other.dtype)
        if BY_CLASS:
            along += tl.where(tile < end, tl.sum(rounded.to(tl.float32) * cosines, axis=1), 0.0)
            diagonal = (tile >= end) & (own_index[:, None] == other_index[None, :])
            rounded = tl.where(diagonal, -along[:, None], rounded.to(tl.float32)).to(other.dtype)
        result = tl.dot(rounded, other, result, input_precision="ieee")
        if HALVES == 2:
            second = tl.dot(rounded, other_second, second, input_precision="ieee")
    if BY_CLASS:
        shorten = (1.0 / tl.load(lengths + own_index, mask=known, other=1.0))[:, None]
        result, second = result * shorten, second * shorten
    _write_rows(gradient, result, first, own_count, 0, D, BM, BD)
    if HALVES == 2:
        _write_rows(gradient, second, first, own_count, BD, D, BM, BD)
