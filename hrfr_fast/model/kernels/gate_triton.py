"""GPU kernels of squeeze-and-excitation between the maps: each image's gate from its means, and the gradients of it.

A program has IM images: their means, hidden values and gates stay in registers, and the two matrices are read once for
all of them, BH rows of hidden values at a time. Everything is float32, and what is made of an image does not depend on
the others.
"""

import triton
import triton.language as tl

from hrfr_fast.model.kernels.norm_triton import normalisation


@triton.jit
def _matrices(squeeze, excite, begin, column, C: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, SUM: tl.constexpr):
    """Rows of ``squeeze`` [H, C] and columns of ``excite`` [C, H] from ``begin`` on, [BH, BC] each."""
    row = begin + tl.arange(0, BH)
    inside = (row < H)[:, None] & (column < C)[None, :]
    down = tl.load(squeeze + row[:, None] * C + column[None, :], mask=inside, other=0.0).to(SUM)
    up = tl.load(excite + column[None, :] * H + row[:, None], mask=inside, other=0.0).to(SUM)
    return row, down, up


@triton.jit
def _to_hidden(matrix, wide):
    """[IM, BH]: of every image's values [IM, BC] the products with the rows of ``matrix`` [BH, BC]."""
    return tl.sum(matrix[None, :, :] * wide[:, None, :], axis=2)


@triton.jit
def _from_hidden(matrix, narrow):
    """[IM, BC]: of every image's values [IM, BH] the products with the columns of ``matrix`` [BH, BC]."""
    return tl.sum(matrix[None, :, :] * narrow[:, :, None], axis=1)


@triton.jit(do_not_specialize=["images", "size", "splits", "length"])
def gate_kernel(
    means, mean, inverse_std, weight, bias, squeeze, excite, centred, pooled, hidden, gate,
    images, size, splits, length,
    C: tl.constexpr, H: tl.constexpr, IM: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """gate [images, C] = sigmoid(excite relu(squeeze pooled)), pooled that of BN(maps) over an image's pixels.

    ``means``: [images * splits, C], of the groups that an image's ``size`` pixels are divided into, ``length`` in all
    but the last. Kept for the backward pass: ``centred``, the image's means less the batch's, and ``pooled``, [images,
    C]; ``hidden``, [images, H].
    """
    image, column = tl.program_id(0).to(tl.int64) * IM + tl.arange(0, IM), tl.arange(0, BC)
    known = (image < images)[:, None] & (column < C)[None, :]
    place = image[:, None] * C + column[None, :]
    centre, factor, shift = normalisation(mean, inverse_std, weight, bias, column, C, SUM)
    of_image = tl.zeros([IM, BC], SUM)
    for split in range(0, splits):
        share = tl.minimum(length, size - split * length).to(SUM) / size
        group = (image * splits + split)[:, None] * C + column[None, :]
        of_image += share * tl.load(means + group, mask=known, other=0.0)
    away = of_image - centre[None, :]
    normalised = tl.where(known, away * factor[None, :] + shift[None, :], 0.0)
    tl.store(centred + place, away, mask=known)
    tl.store(pooled + place, normalised, mask=known)
    excited = tl.zeros([IM, BC], SUM)
    for begin in range(0, H, BH):
        row, down, up = _matrices(squeeze, excite, begin, column, C, H, BH, SUM)
        inner = tl.maximum(_to_hidden(down, normalised), 0.0, propagate_nan=tl.PropagateNan.ALL)
        inside = (image < images)[:, None] & (row < H)[None, :]
        tl.store(hidden + image[:, None] * H + row[None, :], inner, mask=inside)
        excited += _from_hidden(up, inner)
    tl.store(gate + place, 1.0 / (1.0 + tl.exp(-excited)), mask=known)


@triton.jit(do_not_specialize=["images", "splits"])
def gate_gradients_kernel(
    sums, inverse_std, weight, bias, squeeze, excite, centred, hidden, gate, kept, by_excited, by_hidden, by_pooled,
    totals, images, splits,
    C: tl.constexpr, H: tl.constexpr, IM: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, FACTORED: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """The gradients of a gate, from ``sums`` [2, images * splits, C]: of g and of g (x - mean) over pixels.

    ``by_excited`` [images, C] and ``by_hidden`` [images, H]: before sigmoid and ReLU, from which those by the
    matrices are products. ``by_pooled`` [images, C]: by BN's mean over an image's pixels. ``totals`` [2, images, C]:
    what an image adds to the sums of BN's own backward pass. ``kept``: [images], the factor on the whole branch
    (FACTORED).
    """
    image, column = tl.program_id(0).to(tl.int64) * IM + tl.arange(0, IM), tl.arange(0, BC)
    known = (image < images)[:, None] & (column < C)[None, :]
    place = image[:, None] * C + column[None, :]
    _, factor, shift = normalisation(bias, inverse_std, weight, bias, column, C, SUM)
    plain, away = tl.zeros([IM, BC], SUM), tl.zeros([IM, BC], SUM)
    for split in range(0, splits):
        group = (image * splits + split)[:, None] * C + column[None, :]
        plain += tl.load(sums + group, mask=known, other=0.0)
        away += tl.load(sums + images.to(tl.int64) * splits * C + group, mask=known, other=0.0)
    opened = tl.load(gate + place, mask=known, other=0.0)
    branch = opened
    by_gate = plain * shift[None, :] + away * factor[None, :]
    if FACTORED:
        share = tl.load(kept + image, mask=image < images, other=0.0).to(SUM)[:, None]
        branch, by_gate = branch * share, by_gate * share
    excited = by_gate * opened * (1.0 - opened)
    tl.store(by_excited + place, excited, mask=known)
    result = tl.zeros([IM, BC], SUM)
    for begin in range(0, H, BH):
        row, down, up = _matrices(squeeze, excite, begin, column, C, H, BH, SUM)
        inside = (image < images)[:, None] & (row < H)[None, :]
        of_hidden = image[:, None] * H + row[None, :]
        opening = tl.load(hidden + of_hidden, mask=inside, other=0.0) > 0
        inner = tl.where(opening, _to_hidden(up, excited), 0.0)
        tl.store(by_hidden + of_hidden, inner, mask=inside)
        result += _from_hidden(down, inner)
    tl.store(by_pooled + place, result, mask=known)
    tl.store(totals + place, plain * branch + result, mask=known)
    mean_away = tl.load(centred + place, mask=known, other=0.0)
    tl.store(totals + images.to(tl.int64) * C + place, away * branch + result * mean_away, mask=known)


@triton.jit(do_not_specialize=["images", "share"])
def gate_products_kernel(
    by_hidden, pooled, hidden, by_excited, products, images, share,
    C: tl.constexpr, H: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The gradients by both matrices from a share of the images, ``products`` [shares, 2, H, C]: excite's transposed.

    ``by_hidden`` and ``hidden``: [images, H]; ``pooled`` and ``by_excited``: [images, C]. Plain float32 products.
    """
    column, row = tl.program_id(0) * BC + tl.arange(0, BC), tl.program_id(1) * BH + tl.arange(0, BH)
    part = tl.program_id(2)
    first = part * share
    squeezed, expanded = tl.zeros([BH, BC], SUM), tl.zeros([BH, BC], SUM)
    for begin in range(0, share, BK):
        image = (first + begin + tl.arange(0, BK)).to(tl.int64)
        known = image < images
        narrow, inside = image[None, :] * H + row[:, None], known[None, :] & (row < H)[:, None]
        wide, there = image[:, None] * C + column[None, :], known[:, None] & (column < C)[None, :]
        left, right = tl.load(by_hidden + narrow, inside, 0.0), tl.load(pooled + wide, there, 0.0)
        squeezed = tl.dot(left, right, squeezed, input_precision="ieee", out_dtype=SUM)
        left, right = tl.load(hidden + narrow, inside, 0.0), tl.load(by_excited + wide, there, 0.0)
        expanded = tl.dot(left, right, expanded, input_precision="ieee", out_dtype=SUM)
    place = part.to(tl.int64) * 2 * H * C + row[:, None] * C + column[None, :]
    inside = (row < H)[:, None] & (column < C)[None, :]
    tl.store(products + place, squeezed, mask=inside)
    tl.store(products + H * C + place, expanded, mask=inside)


@triton.jit(do_not_specialize=["shares"])
def gate_weights_kernel(
    products, squeeze, excite, shares, C: tl.constexpr, H: tl.constexpr, BC: tl.constexpr, SHARES: tl.constexpr
):
    """``squeeze`` [H, C] and ``excite`` [C, H], each summed up over what ``gate_products_kernel`` left of its share."""
    row, column, part = tl.program_id(1), tl.program_id(0) * BC + tl.arange(0, BC), tl.arange(0, SHARES)
    inside = (part < shares)[:, None] & (column < C)[None, :]
    place = part.to(tl.int64)[:, None] * 2 * H * C + row * C + column[None, :]
    total = tl.sum(tl.load(products + place, mask=inside, other=0.0), axis=0)
    if row < H:
        tl.store(squeeze + row * C + column, total.to(squeeze.dtype.element_ty), mask=column < C)
    else:
        tl.store(excite + column * H + row - H, total.to(excite.dtype.element_ty), mask=column < C)
