"""GPU kernels of the margin softmax over many classes: products, softmax and gradients without logits in memory.

The softmax is online (Milakov & Gimelshein 2018): a program keeps the running maximum and sum of its rows over tiles of
classes. The backward pass computes the cosines again, as FlashAttention does (Dao et al., NeurIPS 2022, section 3.1),
once for both gradients, for a chunk of the classes at a time: it leaves the gradient by the chunk's cosines in memory,
16 bits each, and two products take it from there, from the second-level cache. Sums are taken in a fixed order, so that
equal inputs give equal bits. Margins change the target's logit alone, which is outside (``heads.py``): here the
target's class is left out of the softmax and its cosine handed over.

The gradient by a class vector w = |w| u is (g - (g u) u) / |w|, g that by u. g u is the sum of the cosines times their
gradients, which is taken where both are in registers.

Unit vectors are rounded to 16 bits, products are summed in float32; the gradient of cosines is rounded to 16 bits
before its products, as in ``class_chunks``. All matrices that are multiplied end with whole tiles, filled up with
zeros (``head.py``), so that no loop needs a mask: R rows of the batch, N classes and D dimensions below count them.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
"""exp(x) = 2 ** (LOG2_E x), and only 2 ** x is an instruction."""


@triton.jit
def unit_kernel(
    weight, unit, lengths, classes, SIZE: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr
):
    """Class vectors of length 1, rounded to the type of ``unit``, and their lengths; at least 1e-12, as normalize.

    ``weight``: [classes, SIZE], ``unit``: [N, D], zeros where there is no weight, ``lengths``: [N].
    """
    first, within, column = tl.cast(tl.program_id(0), tl.int64) * BN, tl.arange(0, BN), tl.arange(0, BD)
    inside = (tl.program_id(0) * BN + within < classes)[:, None] & (column < SIZE)[None, :]
    values = tl.load(weight + first * SIZE + within[:, None] * SIZE + column[None, :], mask=inside, other=0.0)
    values = values.to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(values * values, axis=1)), 1e-12)
    rounded = (values / length[:, None]).to(unit.dtype.element_ty)
    tl.store(unit + first * D + within[:, None] * D + column[None, :], rounded, mask=(column < D)[None, :])
    tl.store(lengths + first + within, length)


@triton.jit
def _cosines(left, right, D: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """[BM, BN] products of rows of D numbers that ``left``: [BM, BK] and ``right``: [BK, BN] point to the first of."""
    cosines = tl.zeros([BM, BN], tl.float32)
    for depth in range(0, D, BK):
        cosines = tl.dot(tl.load(left + depth), tl.load(right + depth), cosines, input_precision="ieee")
    return cosines


@triton.jit
def target_kernel(directions, unit, labels, target, batch, D: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
    """The cosines of targets, float32 [batch], held to 1 and -1 for margins: rounding may go past. NaN stays NaN."""
    row, column = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BD)
    known = row < batch
    inside, label = known[:, None] & (column < D)[None, :], tl.load(labels + row, mask=known, other=0).to(tl.int64)
    left = tl.load(directions + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
    right = tl.load(unit + label[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
    cosine = tl.maximum(tl.sum(left * right, axis=1), -1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(target + row, tl.minimum(cosine, 1.0, propagate_nan=tl.PropagateNan.ALL), mask=known)


@triton.jit
def _next_tile(most, total, cosines, own, beyond, factor, WHOLE: tl.constexpr):
    """The running maximum of cosines and the sum of exponentials less it, with those of a tile without ``own``, and
    unless it is WHOLE, without the columns ``beyond`` the classes."""
    others = tl.where(own, -float("inf"), cosines)
    if not WHOLE:
        others = tl.where(beyond[None, :], -float("inf"), others)
    larger = tl.maximum(most, tl.max(others, axis=1))
    # Where nothing was seen but the target both are -inf, and their difference would be no number.
    base = tl.where(larger == -float("inf"), 0.0, larger) * factor
    return larger, total * tl.exp2(most * factor - base) + tl.sum(tl.exp2(others * factor - base[:, None]), axis=1)


@triton.jit(do_not_specialize=["batch", "classes", "tiles_each"])
def softmax_kernel(
    directions, unit, labels, partial_total, batch, classes, scale, tiles_each,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """log sum exp(scale * cosine) over one share of the classes without the target's: float32 [shares, batch].

    ``directions``: [R, D], ``unit``: [N, D], of one type. Only the last tile may have columns beyond the classes.
    One loop goes over tiles and pieces of D (flatten), so that the first operands of a tile are loaded while the
    exponentials of the last are taken. A branch in it would make the compiler wait for every product.
    """
    row, within, depth = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    known = row < batch
    label = tl.load(labels + row, mask=known, other=-1).to(tl.int32)
    most, total = tl.full([BM], -float("inf"), tl.float32), tl.zeros([BM], tl.float32)
    factor = scale * LOG2_E
    left = directions + row[:, None] * D + depth[None, :]
    right = unit + (within * D)[None, :] + depth[:, None]
    first = tl.program_id(1) * tiles_each
    end = tl.minimum(first + tiles_each, (classes + BN - 1) // BN)
    whole = tl.minimum(end, classes // BN)
    for tile in tl.range(first, whole, flatten=True):
        cosines = _cosines(left, right + tl.cast(tile, tl.int64) * (BN * D), D, BK, BM, BN)
        own = (label - tile * BN)[:, None] == within[None, :]
        most, total = _next_tile(most, total, cosines, own, within, factor, True)
    for tile in range(whole, end):
        cosines = _cosines(left, right + tl.cast(tile, tl.int64) * (BN * D), D, BK, BM, BN)
        own = (label - tile * BN)[:, None] == within[None, :]
        most, total = _next_tile(most, total, cosines, own, within >= classes - tile * BN, factor, False)
    tl.store(partial_total + tl.program_id(1) * batch + row, most * scale + tl.log(total), mask=known)


@triton.jit
def _cosine_gradient(
    cosines, limit, label, sums, by_total, by_target, factor, gradient, along, first, width, BY_CLASS: tl.constexpr
):
    """Of the tile of cosines from column ``first``: rounded to memory, and the sums over rows of it times cosines.

    0 from column ``limit``, where exponentials know no bound.
    """
    rows: tl.constexpr = cosines.shape[0]
    within = tl.arange(0, cosines.shape[1])
    by_cosine = tl.exp2(cosines * factor - sums[:, None]) * by_total[:, None]
    by_cosine = tl.where((label - first)[:, None] == within[None, :], by_target[:, None], by_cosine)
    if first + cosines.shape[1] > limit:  # in the last tiles alone
        by_cosine = tl.where((within < limit - first)[None, :], by_cosine, 0.0)
    rounded = by_cosine.to(gradient.dtype.element_ty)
    start = gradient + first + tl.cast(tl.program_id(0), tl.int64) * rows * width
    tl.store(start + tl.arange(0, rows)[:, None] * width + within[None, :], rounded)
    if BY_CLASS:
        products = tl.sum(rounded.to(tl.float32) * cosines, axis=0)
        tl.store(along + tl.program_id(0) * width + first + within, products)


@triton.jit(do_not_specialize=["batch", "classes"])
def cosine_gradient_kernel(
    directions, unit, labels, total, total_gradient, target_gradient, gradient, along, batch, classes, scale, begin,
    width,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BY_CLASS: tl.constexpr,
):  # fmt: skip
    """The gradient by the cosines of the chunk of ``width`` classes from ``begin``: two tiles a program.

    ``gradient``: [R, width], rounded, 0 beside the batch and the classes. ``along``: float32 [row tiles, width],
    with BY_CLASS the sum over a tile's rows of the gradients times the cosines.

    The tiles, of BM rows and BN classes, have the same rows, which are read once; one of as many cosines would need
    more registers than there are, for the cosines are needed until their gradients are.
    """
    row, within, depth = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    known, first = row < batch, tl.program_id(1) * (2 * BN)
    left = directions + row[:, None] * D + depth[None, :]
    right = unit + (tl.cast(begin, tl.int64) + first) * D + (within * D)[None, :] + depth[:, None]
    cosines, second = tl.zeros([BM, BN], tl.float32), tl.zeros([BM, BN], tl.float32)
    for piece in range(0, D, BK):
        rows = tl.load(left + piece)
        cosines = tl.dot(rows, tl.load(right + piece), cosines, input_precision="ieee")
        second = tl.dot(rows, tl.load(right + (piece + BN * D)), second, input_precision="ieee")
    label = tl.load(labels + row, mask=known, other=-1).to(tl.int32) - begin
    sums = tl.load(total + row, mask=known, other=float("inf")) * LOG2_E
    by_total = tl.load(total_gradient + row, mask=known, other=0.0) * scale
    by_target = tl.load(target_gradient + row, mask=known, other=0.0)
    factor, limit = scale * LOG2_E, classes - begin
    _cosine_gradient(cosines, limit, label, sums, by_total, by_target, factor, gradient, along, first, width, BY_CLASS)
    _cosine_gradient(
        second, limit, label, sums, by_total, by_target, factor, gradient, along, first + BN, width, BY_CLASS
    )


@triton.jit(do_not_specialize=["row_tiles", "classes"])
def class_gradient_kernel(
    gradient, directions, unit, along, lengths, result, rows, row_tiles, classes, begin, width,
    SIZE: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The gradient by the class vectors of a chunk: of ``result``, float32 [classes, SIZE], ``width`` from ``begin``.

    ``gradient``: [rows, width] by the cosines; the others as above. A program makes BM classes by BD dimensions.
    """
    first, column = tl.program_id(1) * BM, tl.program_id(0) * BD + tl.arange(0, BD)
    within, depth = tl.arange(0, BM), tl.arange(0, BK)
    left = gradient + first + depth[:, None] * width + within[None, :]
    right = directions + depth[:, None] * D + column[None, :]
    sums = tl.zeros([BM, BD], tl.float32)
    for _ in range(0, rows, BK):
        sums = tl.dot(tl.trans(tl.load(left)), tl.load(right), sums, input_precision="ieee")
        left += BK * tl.cast(width, tl.int64)
        right += BK * D
    shared = tl.zeros([BM], tl.float32)
    for tile in range(row_tiles):
        shared += tl.load(along + tile * width + first + within)
    start, known = tl.cast(begin, tl.int64) + first, begin + first + within < classes
    shorten = 1.0 / tl.load(lengths + start + within)
    vectors = tl.load(unit + start * D + within[:, None] * D + column[None, :]).to(tl.float32)
    tl.store(
        result + start * SIZE + within[:, None] * SIZE + column[None, :],
        (sums - shared[:, None] * vectors) * shorten[:, None],
        mask=known[:, None] & (column < SIZE)[None, :],
    )


@triton.jit(do_not_specialize=["steps_each"])
def direction_gradient_kernel(
    gradient, unit, parts, rows, begin, width, steps_each,
    D: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The gradient by the directions: adds a chunk's to ``parts``, float32 [shares, rows, D], or begins with it.

    The share of a program is ``steps_each`` times BK of the chunk's classes, by BM rows and BD dimensions.
    """
    first, share = tl.program_id(0) // (D // BD) * BM, tl.program_id(1)
    within, depth = tl.arange(0, BM), tl.arange(0, BK)
    column = tl.program_id(0) % (D // BD) * BD + tl.arange(0, BD)
    start, end = share * steps_each * BK, tl.minimum((share + 1) * steps_each * BK, width)
    left = gradient + tl.cast(first, tl.int64) * width + start + within[:, None] * width + depth[None, :]
    right = unit + (tl.cast(begin, tl.int64) + start) * D + depth[:, None] * D + column[None, :]
    place = parts + (tl.cast(share, tl.int64) * rows + first) * D + within[:, None] * D + column[None, :]
    sums = tl.zeros([BM, BD], tl.float32)
    if begin > 0:
        sums = tl.load(place)
    for _ in range(start, end, BK):
        sums = tl.dot(tl.load(left), tl.load(right), sums, input_precision="ieee")
        left += BK
        right += BK * D
    tl.store(place, sums)
