"""GPU kernels of squeeze-and-excitation between the maps: each image's gate from its means, and the gradients of it.

A program has one image: its means, hidden values and gate stay in registers, and the two matrices are read from the
multiprocessor's cache, BH rows of hidden values at a time. Everything is float32.
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


@triton.jit(do_not_specialize=["size", "splits", "length"])
def gate_kernel(
    means, mean, inverse_std, weight, bias, squeeze, excite, centred, pooled, hidden, gate, size, splits, length,
    C: tl.constexpr, H: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """gate [images, C] = sigmoid(excite relu(squeeze pooled)), pooled that of BN(maps) over an image's pixels.

    ``means``: [images * splits, C], of the groups that an image's ``size`` pixels are divided into, ``length`` in all
    but the last. Kept for the backward pass: ``centred``, the image's means less the batch's, and ``pooled``, [images,
    C]; ``hidden``, [images, H].
    """
    image, column = tl.program_id(0).to(tl.int64), tl.arange(0, BC)
    known = column < C
    centre, factor, shift = normalisation(mean, inverse_std, weight, bias, column, C, SUM)
    of_image = tl.zeros([BC], SUM)
    for split in range(0, splits):
        share = tl.minimum(length, size - split * length).to(SUM) / size
        of_image += share * tl.load(means + (image * splits + split) * C + column, mask=known, other=0.0)
    away = of_image - centre
    normalised = tl.where(known, away * factor + shift, 0.0)
    tl.store(centred + image * C + column, away, mask=known)
    tl.store(pooled + image * C + column, normalised, mask=known)
    excited = tl.zeros([BC], SUM)
    for begin in range(0, H, BH):
        row, down, up = _matrices(squeeze, excite, begin, column, C, H, BH, SUM)
        inner = tl.maximum(tl.sum(down * normalised[None, :], axis=1), 0.0)
        tl.store(hidden + image * H + row, inner, mask=row < H)
        excited += tl.sum(up * inner[:, None], axis=0)
    tl.store(gate + image * C + column, 1.0 / (1.0 + tl.exp(-excited)), mask=known)


@triton.jit(do_not_specialize=["images", "splits"])
def gate_gradients_kernel(
    sums, inverse_std, weight, bias, squeeze, excite, centred, hidden, gate, kept, by_excited, by_hidden, by_pooled,
    totals, images, splits,
    C: tl.constexpr, H: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, FACTORED: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The gradients of a gate, from ``sums`` [2, images * splits, C]: of g and of g (x - mean) over pixels.

    ``by_excited`` [images, C] and ``by_hidden`` [images, H]: before sigmoid and ReLU, from which those by the
    matrices are products. ``by_pooled`` [images, C]: by BN's mean over an image's pixels. ``totals`` [2, images, C]:
    what an image adds to the sums of BN's own backward pass. ``kept``: [images], the factor on the whole branch
    (FACTORED).
    """
    image, column = tl.program_id(0).to(tl.int64), tl.arange(0, BC)
    known = column < C
    _, factor, shift = normalisation(bias, inverse_std, weight, bias, column, C, SUM)
    plain, away = tl.zeros([BC], SUM), tl.zeros([BC], SUM)
    for split in range(0, splits):
        place = (image * splits + split) * C + column
        plain += tl.load(sums + place, mask=known, other=0.0)
        away += tl.load(sums + ((images + image) * splits + split) * C + column, mask=known, other=0.0)
    opened = tl.load(gate + image * C + column, mask=known, other=0.0)
    branch = opened
    by_gate = plain * shift + away * factor
    if FACTORED:
        share = tl.load(kept + image).to(SUM)
        branch, by_gate = branch * share, by_gate * share
    excited = by_gate * opened * (1.0 - opened)
    tl.store(by_excited + image * C + column, excited, mask=known)
    result = tl.zeros([BC], SUM)
    for begin in range(0, H, BH):
        row, down, up = _matrices(squeeze, excite, begin, column, C, H, BH, SUM)
        inner = tl.sum(up * excited[None, :], axis=1)
        inner = tl.where(tl.load(hidden + image * H + row, mask=row < H, other=0.0) > 0, inner, 0.0)
        tl.store(by_hidden + image * H + row, inner, mask=row < H)
        result += tl.sum(down * inner[:, None], axis=0)
    tl.store(by_pooled + image * C + column, result, mask=known)
    tl.store(totals + image * C + column, plain * branch + result, mask=known)
    mean_away = tl.load(centred + image * C + column, mask=known, other=0.0)
    tl.store(totals + (images + image) * C + column, away * branch + result * mean_away, mask=known)
