"""GPU kernels for what stands between two convolutions: BatchNorm, activation, gate and sum, forward and backward.

Feature maps are channels-last, so a batch is a matrix [rows, C]: a row is a pixel, its channels are contiguous. A
program takes BC channels of a *group* of consecutive rows of one image (or of the whole batch taken as one image), in
tiles of R x BC values, which are read in whole 16-byte pieces. Programs that differ in their channels alone follow each
other, so that together they read whole rows.

Sums are float32. Row r of a tile belongs to slot r % S, where S rows are what a warp reads at a time: what a slot adds
up then lies in the registers of one thread. Slots are added up at the end. Kernels that sum have programs of one warp,
since a sum over the rows of several warps goes through shared memory, all lanes of a warp to the same bank. Groups
leave partial sums, which another launch (``merge_triton``) adds up in a fixed order: no atomics, so equal inputs give
equal bits.

Mean and variance are Welford's (Welford, Technometrics 1962), tiles, slots and groups are merged as in Chan, Golub &
LeVeque (COMPSTAT 1982), so that maps whose mean is far from 0 lose nothing, and they need one reading.

Counts of rows and groups are not specialised: a variant serves every batch size, and what is aligned follows from C.
"""

import triton
import triton.language as tl

from hrfr_fast.model.kernels.slots_triton import add_moments_of_tile, sums_of_slots, write_moments_of

NO_ACTIVATION, RELU, PRELU = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _group_and_columns(C: tl.constexpr, BC: tl.constexpr):
    """This program's group, and its columns."""
    tiles: tl.constexpr = (C + BC - 1) // BC
    program = tl.program_id(0)
    return program // tiles, program % tiles * BC + tl.arange(0, BC)


@triton.jit
def _rows_of(group, size, splits, length):
    """First row of a group, in the batch (int64), and how many rows it has.

    ``size``: rows of an image; it is cut into ``splits`` groups of ``length`` rows, the last of which may be shorter.
    """
    split = group % splits
    return (group // splits).to(tl.int64) * size + split * length, tl.minimum(length, size - split * length)


@triton.jit
def _within(column, C: tl.constexpr, R: tl.constexpr):
    """Rows of a tile, and where its values lie from the start of its first row."""
    row = tl.arange(0, R)
    return row, row[:, None] * C + column[None, :]


@triton.jit
def _of_image(values, first, row, column, inside, pixels, C: tl.constexpr, WHOLE: tl.constexpr, SUM: tl.constexpr):
    """What ``values`` [images, C] have for the image of each row of a tile, [R, BC]; WHOLE: it lies in one, [1, BC].

    A batch has fewer than 2^31 rows.
    """
    number = first.to(tl.int32)
    image = number // pixels
    if WHOLE:
        found = tl.load(values + image.to(tl.int64) * C + column, mask=column < C, other=0.0).to(SUM)[None, :]
    else:
        image += (number - image * pixels + row) // pixels
        place = image.to(tl.int64)[:, None] * C + column[None, :]
        found = tl.load(values + place, mask=inside, other=0.0).to(SUM)
    return found


@triton.jit
def _position(first, row, height, width):
    """Image, line and place in the line of each row of a tile, of maps of ``height`` x ``width`` pixels."""
    number = first.to(tl.int32) + row
    line = number // width
    image = line // height
    return image.to(tl.int64), line - image * height, number - line * width


@triton.jit(do_not_specialize=["size", "splits", "length"])
def statistics_kernel(
    maps, means, squares, size, splits, length,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, STAGES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared differences of each channel in each group: [groups, C] each."""
    group, column = _group_and_columns(C, BC)
    first, count = _rows_of(group, size, splits, length)
    row, within = _within(column, C, R)
    mean, square = tl.zeros([S, BC], SUM), tl.zeros([S, BC], SUM)
    for begin in tl.range(0, count, R, num_stages=STAGES):
        inside = (row < count - begin)[:, None] & (column < C)[None, :]
        values = tl.load(maps + (first + begin) * C + within, mask=inside, other=0.0).to(SUM)
        mean, square = add_moments_of_tile(mean, square, values, begin, count, R, S)
    write_moments_of(group, means, squares, mean, square, count, column, C, S)


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
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    WHOLE: tl.constexpr, ADDED: tl.constexpr, STRIDED: tl.constexpr, NEXT: tl.constexpr, STAGES: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """activation(BN(maps)) * gate + shortcut, each where there is one; and the statistics of what it wrote (NEXT).

    ``gate``: [images, C], ``pixels`` rows an image, each tile's rows of one image alone (WHOLE). ``shortcut`` lies as
    the maps do or, with STRIDED, at steps of ``by_image``, ``by_line`` and ``by_pixel``. The statistics are those of
    the rounded values.
    """
    group, column = _group_and_columns(C, BC)
    first, count = _rows_of(group, size, splits, length)
    row, within = _within(column, C, R)
    centre, factor, shift = _normalisation_of_rows(mean, inverse_std, weight, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    next_mean, next_square = tl.zeros([S, BC], SUM), tl.zeros([S, BC], SUM)
    for begin in tl.range(0, count, R, num_stages=STAGES):
        inside = (row < count - begin)[:, None] & (column < C)[None, :]
        start = (first + begin) * C
        read = tl.load(maps + start + within, mask=inside, other=0.0, eviction_policy="evict_first")
        if STRIDED:
            image, y, x = _position(first + begin, row, height, width)
            place = (image * by_image + y * by_line + x * by_pixel)[:, None] + column[None, :]
            more = tl.load(shortcut + place, mask=inside, other=0.0)
        elif ADDED:
            more = tl.load(shortcut + start + within, mask=inside, other=0.0)
        value = (read.to(SUM) - centre) * factor + shift
        if ACTIVATION != NO_ACTIVATION:
            value = tl.where(value > 0, value, value * below)
        if GATED:
            value *= _of_image(gate, first + begin, row, column, inside, pixels, C, WHOLE, SUM)
        if ADDED:
            value += more.to(SUM)
        rounded = value.to(made.dtype.element_ty)
        tl.store(made + start + within, rounded, mask=inside)
        if NEXT:
            rounded = tl.where(inside, rounded.to(SUM), 0.0)
            next_mean, next_square = add_moments_of_tile(next_mean, next_square, rounded, begin, count, R, S)
    if NEXT:
        write_moments_of(group, next_means, next_squares, next_mean, next_square, count, column, C, S)


@triton.jit(do_not_specialize=["size", "splits", "length", "groups"])
def gradient_sums_kernel(
    maps, gradient, mean, inverse_std, weight, bias, slope, sums,
    size, splits, length, groups,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr,
    STAGES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Partial sums of the backward pass, [3 (PReLU) or 2, groups, C]: of g, of g (x - mean), and of PReLU's slope.

    g is the gradient before the activation.
    """
    group, column = _group_and_columns(C, BC)
    first, count = _rows_of(group, size, splits, length)
    row, within = _within(column, C, R)
    centre, factor, shift = _normalisation_of_rows(mean, inverse_std, weight, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    plain, centred, sloped = tl.zeros([S, BC], SUM), tl.zeros([S, BC], SUM), tl.zeros([S, BC], SUM)
    for begin in tl.range(0, count, R, num_stages=STAGES):
        inside = (row < count - begin)[:, None] & (column < C)[None, :]
        start = (first + begin) * C
        away = tl.load(maps + start + within, mask=inside, other=0.0).to(SUM) - centre
        passed = tl.load(gradient + start + within, mask=inside, other=0.0).to(SUM)  # 0 outside: nothing is added there
        if ACTIVATION != NO_ACTIVATION:
            value = away * factor + shift
            if ACTIVATION == PRELU:
                sloped += sums_of_slots(passed * tl.minimum(value, 0.0), R, S)
            passed = tl.where(value > 0, passed, passed * below)
        plain += sums_of_slots(passed, R, S)
        centred += sums_of_slots(passed * away, R, S)
    place = group.to(tl.int64) * C + column
    tl.store(sums + place, tl.sum(plain, axis=0), mask=column < C)
    tl.store(sums + groups * C + place, tl.sum(centred, axis=0), mask=column < C)
    if ACTIVATION == PRELU:
        tl.store(sums + 2 * groups * C + place, tl.sum(sloped, axis=0), mask=column < C)


@triton.jit(do_not_specialize=["size", "splits", "length", "pixels", "height", "width", "rows"])
def map_gradient_kernel(
    maps, gradient, made, mean, inverse_std, weight, bias, slope, totals, gate, pooled, bypass,
    size, splits, length, pixels, height, width, rows,
    C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    POOLED: tl.constexpr, WHOLE: tl.constexpr, BYPASSED: tl.constexpr, STEP: tl.constexpr, BATCH: tl.constexpr,
    STAGES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The gradient by the maps, from the one by what ``normalise_kernel`` made.

    ``totals``: [2, C], sums over all rows of g and of g (x - mean), used where the statistics are the batch's (BATCH).
    ``pooled``: [images, C], the gradient by the image's mean over its pixels (POOLED: of a gate that is computed from
    it). ``bypass``: the gradient that reaches the maps on another way, added (BYPASSED); that of every STEP-th line and
    pixel alone.
    """
    group, column = _group_and_columns(C, BC)
    first, count = _rows_of(group, size, splits, length)
    row, within = _within(column, C, R)
    known = column < C
    centre, factor, shift = _normalisation_of_rows(mean, inverse_std, weight, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    level, tilt = tl.zeros([1, BC], SUM), tl.zeros([1, BC], SUM)
    if BATCH:
        spread = tl.load(inverse_std + column, mask=known, other=0.0).to(SUM)[None, :]
        level = tl.load(totals + column, mask=known, other=0.0)[None, :] / rows
        tilt = tl.load(totals + C + column, mask=known, other=0.0)[None, :] / rows * spread * spread
    for begin in tl.range(0, count, R, num_stages=STAGES):
        inside = (row < count - begin)[:, None] & known[None, :]
        start = (first + begin) * C
        passed = tl.load(gradient + start + within, mask=inside, other=0.0).to(SUM)
        away = tl.zeros([R, BC], SUM)
        if BATCH or ACTIVATION != NO_ACTIVATION:
            read = tl.load(maps + start + within, mask=inside, other=0.0, eviction_policy="evict_first")
            away = read.to(SUM) - centre
        if BYPASSED and STEP > 1:
            image, y, x = _position(first + begin, row, height, width)
            lines, places = (height + STEP - 1) // STEP, (width + STEP - 1) // STEP
            place = ((image * lines + y // STEP) * places + x // STEP) * C
            there = inside & ((y % STEP == 0) & (x % STEP == 0))[:, None]
            more = tl.load(bypass + place[:, None] + column[None, :], mask=there, other=0.0)
        elif BYPASSED:
            more = tl.load(bypass + start + within, mask=inside, other=0.0)
        if ACTIVATION != NO_ACTIVATION:
            passed = tl.where(away * factor + shift > 0, passed, passed * below)
        if GATED:
            passed *= _of_image(gate, first + begin, row, column, inside, pixels, C, WHOLE, SUM)
            if POOLED:
                passed += _of_image(pooled, first + begin, row, column, inside, pixels, C, WHOLE, SUM) * (1.0 / pixels)
        if BATCH:
            passed -= level + away * tilt
        passed *= factor
        if BYPASSED:
            passed += more.to(SUM)
        tl.store(made + start + within, passed.to(made.dtype.element_ty), mask=inside)
