"""GPU kernels for what stands between two convolutions: BatchNorm, activation, gate and sum, forward and backward.

Feature maps are channels-last, so a batch is a matrix [rows, C]: a row is a pixel, its channels are contiguous. A
program takes a *group* of consecutive rows of one image (or of the whole batch taken as one image), in tiles of
R x BC values, R rows and all channels up to 512, which are read in whole 16-byte pieces. Sums go down the columns of a
tile slot by slot, in float32, and over its rows only at the end; groups leave partial sums, which another launch adds
up in a fixed order: no atomics, so equal inputs give equal bits.

Mean and variance are Welford's (Welford, Technometrics 1962), slots and groups are merged as in Chan, Golub & LeVeque
(COMPSTAT 1982), so that maps whose mean is far from 0 lose nothing, and they need one reading.

Counts of rows and groups are not specialised: a variant serves every batch size, and what is aligned follows from C.
"""

import triton
import triton.language as tl

NO_ACTIVATION, RELU, PRELU = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _rows_of_group(size, splits, length):
    """First row of this program's group, in the batch (int64), and how many rows it has.

    ``size``: rows of an image; it is cut into ``splits`` groups of ``length`` rows, the last of which may be shorter.
    """
    group = tl.program_id(0)
    split = group % splits
    return (group // splits).to(tl.int64) * size + split * length, tl.minimum(length, size - split * length)


@triton.jit
def _tile(C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr):
    """Rows and columns of this program's tile, and where its values lie from the start of its first row."""
    row, column = tl.arange(0, R), tl.program_id(1) * BC + tl.arange(0, BC)
    return row, column, row[:, None] * C + column[None, :]


@triton.jit
def _of_image(first, row, column, pixels, C: tl.constexpr):
    """Where the values of each row's image lie in [images, C]; one division of 64 bits a tile, not one a row."""
    within = ((first % pixels).to(tl.int32) + row) // pixels
    return (first // pixels) * C + within[:, None] * C + column[None, :]


@triton.jit
def _position(first, row, height, width):
    """Image, line and place in the line of each row of a tile, of maps of ``height`` x ``width`` pixels."""
    place = (first % width).to(tl.int32) + row
    line = (first // width).to(tl.int32) + place // width
    return (line // height).to(tl.int64), line % height, place % width


@triton.jit
def _add_moments(mean, square, values, inside, number):
    """Welford's update of every slot by its ``number``-th value; slots outside keep theirs."""
    delta = tl.where(inside, values - mean, 0.0)
    mean += delta * (1.0 / number)
    return mean, square + delta * (values - mean)


@triton.jit
def _write_moments(means, squares, mean, square, count, column, C: tl.constexpr, R: tl.constexpr):
    """Merge the slots of a tile: the group's mean, and its sum of squared differences from it."""
    numbers = tl.maximum((count - tl.arange(0, R) + R - 1) // R, 0).to(mean.dtype)[:, None]
    whole = tl.sum(numbers * mean, axis=0) * (1.0 / count)
    away = mean - whole[None, :]
    place = tl.program_id(0) * C + column
    tl.store(means + place, whole, mask=column < C)
    tl.store(squares + place, tl.sum(square + numbers * away * away, axis=0), mask=column < C)


@triton.jit(do_not_specialize=["size", "splits", "length"])
def statistics_kernel(
    maps, means, squares, size, splits, length, C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, SUM: tl.constexpr
):
    """Mean and sum of squared differences of each channel in each group: [groups, C] each."""
    first, count = _rows_of_group(size, splits, length)
    row, column, within = _tile(C, R, BC)
    mean, square = tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM)
    for begin in range(0, count, R):
        inside = (row < count - begin)[:, None] & (column < C)[None, :]
        start = (first + begin) * C
        values = tl.load(maps + start + within, mask=inside, other=0.0).to(SUM)
        mean, square = _add_moments(mean, square, values, inside, begin // R + 1)
    _write_moments(means, squares, mean, square, count, column, C, R)


@triton.jit(do_not_specialize=["groups", "size", "splits", "length", "rows"])
def merge_statistics_kernel(
    means, squares, mean_out, inverse_std_out, running_mean, running_var, counter,
    groups, size, splits, length, rows, momentum, eps,
    C: tl.constexpr, RG: tl.constexpr, BC: tl.constexpr, RUNNING: tl.constexpr, COUNTED: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """Each channel's mean and 1 / sqrt(variance + eps) from all groups; moves the running statistics as torch does."""
    row, column = tl.arange(0, RG), tl.program_id(0) * BC + tl.arange(0, BC)
    total = tl.zeros([RG, BC], SUM)
    for begin in range(0, groups, RG):
        group = begin + row
        inside = (group < groups)[:, None] & (column < C)[None, :]
        count = tl.minimum(length, size - group % splits * length).to(SUM)[:, None]
        total += count * tl.load(means + group[:, None] * C + column[None, :], mask=inside, other=0.0)
    mean = tl.sum(total, axis=0) / rows
    total = tl.zeros([RG, BC], SUM)
    for begin in range(0, groups, RG):
        group = begin + row
        inside = (group < groups)[:, None] & (column < C)[None, :]
        place = group[:, None] * C + column[None, :]
        count = tl.minimum(length, size - group % splits * length).to(SUM)[:, None]
        away = tl.where(inside, tl.load(means + place, mask=inside, other=0.0) - mean[None, :], 0.0)
        total += tl.load(squares + place, mask=inside, other=0.0) + count * away * away
    square = tl.sum(total, axis=0)
    known = column < C
    tl.store(mean_out + column, mean, mask=known)
    tl.store(inverse_std_out + column, 1.0 / tl.sqrt(square / rows + eps), mask=known)
    if RUNNING:
        before = tl.load(running_mean + column, mask=known, other=0.0)
        tl.store(running_mean + column, (1.0 - momentum) * before + momentum * mean, mask=known)
        before = tl.load(running_var + column, mask=known, other=0.0)
        tl.store(running_var + column, (1.0 - momentum) * before + momentum * (square / (rows - 1)), mask=known)
    if COUNTED and tl.program_id(0) == 0:
        tl.store(counter, tl.load(counter) + 1)


@triton.jit
def normalisation(mean, inverse_std, weight, bias, column, C: tl.constexpr, SUM: tl.constexpr):
    """Mean, factor and shift of channels, [BC] each: what is normalised is (x - mean) * factor + shift."""
    known = column < C
    centre = tl.load(mean + column, mask=known, other=0.0).to(SUM)
    factor = tl.load(weight + column, mask=known, other=0.0).to(SUM)
    factor *= tl.load(inverse_std + column, mask=known, other=0.0).to(SUM)
    return centre, factor, tl.load(bias + column, mask=known, other=0.0).to(SUM)


@triton.jit
def _normalisation_of_rows(mean, inverse_std, weight, bias, column, C: tl.constexpr, SUM: tl.constexpr):
    """``normalisation`` to be applied to a tile, [1, BC] each."""
    centre, factor, shift = normalisation(mean, inverse_std, weight, bias, column, C, SUM)
    return centre[None, :], factor[None, :], shift[None, :]


@triton.jit
def _slopes(slope, column, C: tl.constexpr, ACTIVATION: tl.constexpr, SUM: tl.constexpr):
    """PReLU's slopes of channels, [1, BC]; 0 for ReLU, 1 without an activation."""
    if ACTIVATION == PRELU:
        below = tl.load(slope + column, mask=column < C, other=0.0).to(SUM)[None, :]
    else:
        below = tl.full([1, 1], 1.0 if ACTIVATION == NO_ACTIVATION else 0.0, SUM)
    return below


@triton.jit(do_not_specialize=["size", "splits", "length", "pixels", "height", "width"])
def normalise_kernel(
    maps, made, mean, inverse_std, weight, bias, slope, gate, shortcut, next_means, next_squares,
    size, splits, length, pixels, height, width, by_image, by_line, by_pixel,
    C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    ADDED: tl.constexpr, STRIDED: tl.constexpr, NEXT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """activation(BN(maps)) * gate + shortcut, each where there is one; and the statistics of what it wrote (NEXT).

    ``gate``: [images, C], ``pixels`` rows an image. ``shortcut`` lies as the maps do or, with STRIDED, at steps of
    ``by_image``, ``by_line`` and ``by_pixel``. The statistics are those of the rounded values.
    """
    first, count = _rows_of_group(size, splits, length)
    row, column, within = _tile(C, R, BC)
    centre, factor, shift = _normalisation_of_rows(mean, inverse_std, weight, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    next_mean, next_square = tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM)
    for begin in range(0, count, R):
        inside = (row < count - begin)[:, None] & (column < C)[None, :]
        start = (first + begin) * C
        value = (tl.load(maps + start + within, mask=inside, other=0.0).to(SUM) - centre) * factor + shift
        if ACTIVATION != NO_ACTIVATION:
            value = tl.where(value > 0, value, value * below)
        if GATED:
            image = _of_image(first + begin, row, column, pixels, C)
            value *= tl.load(gate + image, mask=inside, other=0.0).to(SUM)
        if STRIDED:
            image, y, x = _position(first + begin, row, height, width)
            place = (image * by_image + y * by_line + x * by_pixel)[:, None] + column[None, :]
            value += tl.load(shortcut + place, mask=inside, other=0.0).to(SUM)
        elif ADDED:
            value += tl.load(shortcut + start + within, mask=inside, other=0.0).to(SUM)
        rounded = value.to(made.dtype.element_ty)
        tl.store(made + start + within, rounded, mask=inside)
        if NEXT:
            next_mean, next_square = _add_moments(next_mean, next_square, rounded.to(SUM), inside, begin // R + 1)
    if NEXT:
        _write_moments(next_means, next_squares, next_mean, next_square, count, column, C, R)


@triton.jit(do_not_specialize=["size", "splits", "length", "groups"])
def gradient_sums_kernel(
    maps, gradient, mean, inverse_std, weight, bias, slope, sums,
    size, splits, length, groups,
    C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Partial sums of the backward pass, [3 (PReLU) or 2, groups, C]: of g, of g (x - mean), and of PReLU's slope.

    g is the gradient before the activation.
    """
    first, count = _rows_of_group(size, splits, length)
    row, column, within = _tile(C, R, BC)
    centre, factor, shift = _normalisation_of_rows(mean, inverse_std, weight, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    plain, centred, sloped = tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM)
    for begin in range(0, count, R):
        inside = (row < count - begin)[:, None] & (column < C)[None, :]
        start = (first + begin) * C
        away = tl.load(maps + start + within, mask=inside, other=0.0).to(SUM) - centre
        passed = tl.load(gradient + start + within, mask=inside, other=0.0).to(SUM)  # 0 outside: nothing is added there
        if ACTIVATION != NO_ACTIVATION:
            value = away * factor + shift
            if ACTIVATION == PRELU:
                sloped += passed * tl.minimum(value, 0.0)
            passed = tl.where(value > 0, passed, passed * below)
        plain += passed
        centred += passed * away
    place = tl.program_id(0) * C + column
    tl.store(sums + place, tl.sum(plain, axis=0), mask=column < C)
    tl.store(sums + groups * C + place, tl.sum(centred, axis=0), mask=column < C)
    if ACTIVATION == PRELU:
        tl.store(sums + 2 * groups * C + place, tl.sum(sloped, axis=0), mask=column < C)


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


@triton.jit(do_not_specialize=["size", "splits", "length", "pixels", "height", "width", "rows"])
def map_gradient_kernel(
    maps, gradient, made, mean, inverse_std, weight, bias, slope, totals, gate, pooled, bypass,
    size, splits, length, pixels, height, width, rows,
    C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    POOLED: tl.constexpr, BYPASSED: tl.constexpr, STEP: tl.constexpr, BATCH: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The gradient by the maps, from the one by what ``normalise_kernel`` made.

    ``totals``: [2, C], sums over all rows of g and of g (x - mean), used where the statistics are the batch's (BATCH).
    ``pooled``: [images, C], the gradient by the image's mean over its pixels (POOLED: of a gate that is computed from
    it). ``bypass``: the gradient that reaches the maps on another way, added (BYPASSED); that of every STEP-th line and
    pixel alone.
    """
    first, count = _rows_of_group(size, splits, length)
    row, column, within = _tile(C, R, BC)
    known = column < C
    centre, factor, shift = _normalisation_of_rows(mean, inverse_std, weight, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    level, tilt = tl.zeros([1, BC], SUM), tl.zeros([1, BC], SUM)
    if BATCH:
        spread = tl.load(inverse_std + column, mask=known, other=0.0).to(SUM)[None, :]
        level = tl.load(totals + column, mask=known, other=0.0)[None, :] / rows
        tilt = tl.load(totals + C + column, mask=known, other=0.0)[None, :] / rows * spread * spread
    for begin in range(0, count, R):
        inside = (row < count - begin)[:, None] & known[None, :]
        start = (first + begin) * C
        passed = tl.load(gradient + start + within, mask=inside, other=0.0).to(SUM)
        away = tl.zeros([R, BC], SUM)
        if BATCH or ACTIVATION != NO_ACTIVATION:
            away = tl.load(maps + start + within, mask=inside, other=0.0).to(SUM) - centre
        if ACTIVATION != NO_ACTIVATION:
            passed = tl.where(away * factor + shift > 0, passed, passed * below)
        if GATED:
            image = _of_image(first + begin, row, column, pixels, C)
            passed *= tl.load(gate + image, mask=inside, other=0.0).to(SUM)
            if POOLED:
                passed += tl.load(pooled + image, mask=inside, other=0.0).to(SUM) / pixels
        if BATCH:
            passed -= level + away * tilt
        passed *= factor
        if BYPASSED and STEP > 1:
            image, y, x = _position(first + begin, row, height, width)
            lines, places = (height + STEP - 1) // STEP, (width + STEP - 1) // STEP
            place = ((image * lines + y // STEP) * places + x // STEP) * C
            there = inside & ((y % STEP == 0) & (x % STEP == 0))[:, None]
            passed += tl.load(bypass + place[:, None] + column[None, :], mask=there, other=0.0).to(SUM)
        elif BYPASSED:
            passed += tl.load(bypass + start + within, mask=inside, other=0.0).to(SUM)
        tl.store(made + start + within, passed.to(made.dtype.element_ty), mask=inside)
