"""The resampling definition on CUDA: one kernel from the record's bytes to the batch's pictures.

A program makes the columns of one tile of one picture. It reads the table of records, draws the augmentation, computes
the taps, and writes ``V P H`` with P the source, V the vertical weights and H the horizontal ones, three times
interleaved for the three channels: so rows of the product are rows of the channels-last picture and are written in
whole 16-byte pieces. Colour is folded into H, which is exact since all three are linear and the weights sum to 1.

Both products run on the tensor cores in fp16 with float32 sums: levels 0 to 255 are exact in fp16, weights and the
picture between the passes are rounded to 11 bits, together at most 0.2 levels (bf16 would cost 1.5).

Floor per picture at 36 -> 144 px in 16 bits: 3.9 KB read and 124 KB written, 27 ns at 4.8 TB/s; products of 16 MFLOP,
20 ns at 790 TFLOP/s. What limits is the issue of instructions: 54,000 a warp-wide picture (counted in the code compiled
for sm_90: 49,000 in the loops, a quarter of them for padding to tiles of 64 x 128), 59 ns on 132 multiprocessors at
1.75 GHz. At 36 -> 32 px: 10 KB, 2 ns; 23,000 instructions, 25 ns. With every augmentation at 144 px about 290,000,
half of them for ``compose_kernel``: 0.31 us. These are counts, not yet times taken on a card.

Degradation and blur are linear and separable, too: ``compose_kernel`` multiplies their matrices into the resampling's first,
and ``resample_kernel`` reads V and H instead of computing them.
"""

import triton
import triton.language as tl

from hrfr_fast.resampling.cpu import ERASE_LEVEL
from hrfr_fast.sampling.augmentation_triton import (
    colour_entry,
    draw_blur,
    draw_box,
    draw_colour,
    draw_degradation,
    draw_erasure,
)

FILL = tl.constexpr(float(ERASE_LEVEL))
ALIGNMENT = tl.constexpr(4)  # bytes: source columns are read in 4-byte pieces


# ---- taps ------------------------------------------------------------------------------------------------------------


@triton.jit
def _cubic(t):
    """Keys 1981, a = -0.5."""
    t = tl.abs(t)
    near = tl.fma(tl.fma(t, 1.5, -2.5), t * t, 1.0)
    far = tl.fma(tl.fma(tl.fma(t, -0.5, 2.5), t, -4.0), t, 2.0)
    return tl.where(t < 1.0, near, tl.where(t < 2.0, far, 0.0))


@triton.jit
def _scaled(start, stop, size, outputs):
    """First position, step and stretch of one axis in source pixels, float64 as on the host."""
    start, stop = start.to(tl.float64), stop.to(tl.float64)
    step = (stop - start) * size / outputs
    return start * size, step, tl.maximum(tl.abs(step), 1.0)


@triton.jit
def _window(begin, end, first, step, stretch):
    """The lowest source pixel that outputs begin .. end (both included) read; it may lie outside the frame."""
    centre = tl.minimum(first + (begin + 0.5) * step, first + (end + 0.5) * step)
    return tl.floor(centre - 2.0 * stretch + 0.5).to(tl.int32)


@triton.jit
def _first_taps(index, begin, first, step, stretch):
    """Each output's first tap (int32) and its distance from the centre over the stretch (float32), for the cubic.

    Positions are float32 relative to output ``begin``'s, which is float64: a tile is small, so they are exact to
    1e-5 px; a tap taken or left by mistake there weighs nothing, as the cubic is 0 at its ends.
    """
    origin = first + (begin + 0.5) * step
    whole = tl.floor(origin)
    centre = (origin - whole).to(tl.float32) + (index - begin) * step.to(tl.float32)
    low = tl.floor(centre - 2.0 * stretch.to(tl.float32) + 0.5)
    return low.to(tl.int32) + whole.to(tl.int32), (low + 0.5 - centre) * (1.0 / stretch).to(tl.float32)


@triton.jit
def _horizontal(low, offset, stretch, channel, keys, SIZE: tl.constexpr, TAPS: tl.constexpr, MIX: tl.constexpr):
    """float32 [len(keys), len(low)]: columns are x * 3 + channel of the output, keys x * 3 + channel of the source.

    Two taps clamped to one edge pixel are summed before they are placed: an entry costs a comparison and a selection
    a tap. With MIX an entry is there for every channel of the source pixel. TAPS 0: as many as the stretch asks for,
    and the weights are normalised.
    """
    scale = (1.0 / stretch).to(tl.float32)
    weights = tl.zeros([keys.shape[0], low.shape[0]], tl.float32)
    at = tl.full([low.shape[0]], -1, tl.int32)
    carried, total = tl.zeros([low.shape[0]], tl.float32), tl.zeros([low.shape[0]], tl.float32)
    wanted = keys // 3 if MIX else keys
    count = TAPS if TAPS > 0 else tl.ceil(4.0 * stretch).to(tl.int32) + 1
    for tap in range(count):
        pixel = tl.minimum(tl.maximum(low + tap, 0), SIZE - 1)
        new = pixel if MIX else pixel * 3 + channel
        weight = _cubic(offset + tap * scale)
        carried = tl.where(new == at, carried + weight, weight)
        at = new
        total += weight
        weights = tl.where(wanted[:, None] == at[None, :], carried[None, :], weights)
    return weights if TAPS > 0 else weights * (1.0 / total)[None, :]


@triton.jit
def _rows(row, lines, begin, base, first, step, stretch):
    """float32 [len(row), len(lines)]: weights of source rows ``base + lines``, not clamped to the frame.

    The reader clamps, so that edges need no care here; where the stretch is above 1 it normalises, too.
    """
    centre = (first + (begin + 0.5) * step - base - 0.5).to(tl.float32) + (row - begin) * step.to(tl.float32)
    return _cubic((lines.to(tl.float32)[None, :] - centre[:, None]) * (1.0 / stretch).to(tl.float32))


# ---- the batch -------------------------------------------------------------------------------------------------------


@triton.jit
def _sample(table, counter, skip, epoch_length, slots, number):
    """Epoch, position and record (int64 scalars) of picture ``number`` of the batch; see ``sampler_torch``."""
    at = tl.load(counter) + skip + number
    epoch = at // epoch_length
    position = at - epoch * epoch_length
    record = tl.load(table + (epoch % slots) * epoch_length + position).to(tl.int64)
    return epoch, position, record


@triton.jit
def _erased_pixels(settings, seed, epoch, position, SIDE: tl.constexpr):
    """First column and row erased, and the ones after the last; a rectangle never drawn is empty."""
    left, top, right, bottom = draw_erasure(settings, seed, epoch, position)
    right_end, bottom_end = tl.ceil(right.to(tl.float64) * SIDE), tl.ceil(bottom.to(tl.float64) * SIDE)
    return (
        tl.floor(left.to(tl.float64) * SIDE).to(tl.int32),
        tl.floor(top.to(tl.float64) * SIDE).to(tl.int32),
        right_end.to(tl.int32),
        bottom_end.to(tl.int32),
    )


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def resample_kernel(
    images, out_labels, pixels, labels, table, counter, settings, matrices,
    seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, SIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, KR: tl.constexpr, KC: tl.constexpr,
    EACH: tl.constexpr, ROW_CHUNKS: tl.constexpr, COLUMN_CHUNKS: tl.constexpr, TAPS: tl.constexpr,
    COMPOSED: tl.constexpr, COLOUR: tl.constexpr, MIX: tl.constexpr, ERASE: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Pictures of one source: those samples whose record lies in [begin, end). See the module and ``Resampler``."""
    TILES: tl.constexpr = (3 * SIDE + BN - 1) // BN
    PROGRAMS: tl.constexpr = (TILES + EACH - 1) // EACH
    number, share = tl.program_id(0) // PROGRAMS, tl.program_id(0) % PROGRAMS
    epoch, position, record = _sample(table, counter, skip, epoch_length, slots, number)
    if (record < begin) | (record >= end):
        return
    if share == 0:
        tl.store(out_labels + number, tl.load(labels + record))
    source = pixels + (record - begin) * (SIZE * SIZE * 3)
    picture = images + number.to(tl.int64) * (SIDE * SIDE * 3)
    vertical = matrices + number.to(tl.int64) * (2 * SIDE * SIZE)
    x0, y0, x1, y1 = draw_box(settings, seed, epoch, position)
    first_x, step_x, stretch_x = _scaled(x0, x1, SIZE, SIDE)
    first_y, step_y, stretch_y = _scaled(y0, y1, SIZE, SIDE)
    gain, saturation, lift = 1.0, 1.0, 0.0
    if COLOUR:
        gain, saturation, lift = draw_colour(settings, seed, epoch, position)
    left, top, right, bottom = 0, 0, 0, 0
    if ERASE:
        left, top, right, bottom = _erased_pixels(settings, seed, epoch, position, SIDE)

    for tile in range(share * EACH, tl.minimum(share * EACH + EACH, TILES)):
        column = tile * BN + tl.arange(0, BN)
        base = 0
        if not COMPOSED:
            base = _window(tile * BN // 3, (tl.minimum(tile * BN + BN, 3 * SIDE) - 1) // 3, first_x, step_x, stretch_x)
            base = tl.minimum(tl.maximum(base, 0), SIZE - 1) * 3 // ALIGNMENT * ALIGNMENT
        low_x, offset_x = _first_taps(column // 3, tile * BN // 3, first_x, step_x, stretch_x)
        weights_x = tl.zeros([KC, BN], tl.float16)
        if COLUMN_CHUNKS == 1:
            weights_x = _columns(
                column, base + tl.arange(0, KC), low_x, offset_x, stretch_x, vertical + SIDE * SIZE, gain, saturation,
                SIZE, SIDE, TAPS, COMPOSED, COLOUR, MIX,
            )  # fmt: skip
        for part in range((SIDE + BM - 1) // BM):
            row = part * BM + tl.arange(0, BM)
            top_row = 0
            if not COMPOSED:
                top_row = _window(part * BM, tl.minimum(part * BM + BM, SIDE) - 1, first_y, step_y, stretch_y)
            result = tl.zeros([BM, BN], tl.float32)
            for chunk in range(COLUMN_CHUNKS):
                keys = base + chunk * KC + tl.arange(0, KC)
                between = tl.zeros([BM, KC], tl.float32)
                total = tl.zeros([BM], tl.float32)
                for piece in range(ROW_CHUNKS):
                    near = piece * KR + tl.arange(0, KR)
                    lines = tl.minimum(tl.maximum(top_row + near, 0), SIZE - 1)
                    levels = tl.load(
                        source + lines[:, None] * (3 * SIZE) + keys[None, :], mask=(keys < 3 * SIZE)[None, :], other=0
                    )
                    if COMPOSED:
                        known = (row < SIDE)[:, None] & (near < SIZE)[None, :]
                        weights_y = tl.load(vertical + row[:, None] * SIZE + near[None, :], mask=known, other=0.0)
                    else:
                        exact = _rows(row, near, part * BM, top_row, first_y, step_y, stretch_y)
                        if TAPS == 0:
                            total += tl.sum(exact, axis=1)
                        weights_y = exact.to(tl.float16)
                    between = tl.dot(weights_y, levels.to(tl.float16), between)
                if TAPS == 0 and not COMPOSED:
                    between *= (1.0 / tl.where(row < SIDE, total, 1.0))[:, None]  # rows of padding may see no tap
                if COLUMN_CHUNKS > 1:
                    weights_x = _columns(
                        column, keys, low_x, offset_x, stretch_x, vertical + SIDE * SIZE, gain, saturation,
                        SIZE, SIDE, TAPS, COMPOSED, COLOUR, MIX,
                    )  # fmt: skip
                result = tl.dot(between.to(tl.float16), weights_x, result)
            hidden = (row >= SIDE)[:, None] | (column < 0)[None, :]
            if ERASE:
                hidden_x = (column // 3 >= left) & (column // 3 < right)
                hidden = ((row >= top) & (row < bottom))[:, None] & hidden_x[None, :]
            value = _finished(result, lift, hidden, ERASE, LEVELS).to(images.dtype.element_ty)
            whole = (row < SIDE)[:, None] & (column < 3 * SIDE)[None, :]
            tl.store(picture + row[:, None] * (3 * SIDE) + column[None, :], value, mask=whole)


@triton.jit
def _finished(result, lift, hidden, ERASE: tl.constexpr, LEVELS: tl.constexpr):
    """Levels lifted, clamped, erased; and rounded to int32, or normalised with one multiply-add."""
    if LEVELS:
        value = tl.minimum(tl.maximum(result + lift, 0.0), 255.0)
        value = ((tl.where(hidden, FILL, value) if ERASE else value) + 0.5).to(tl.int32)
    else:
        bias = lift * (1.0 / 127.5) - 1.0
        value = tl.minimum(tl.maximum(tl.fma(result, 1.0 / 127.5, bias), -1.0), 1.0)
        value = tl.where(hidden, FILL / 127.5 - 1.0, value) if ERASE else value
    return value


@triton.jit
def _columns(
    column, keys, low, offset, stretch, matrix, gain, saturation, SIZE: tl.constexpr, SIDE: tl.constexpr,
    TAPS: tl.constexpr, COMPOSED: tl.constexpr, COLOUR: tl.constexpr, MIX: tl.constexpr,
):  # fmt: skip
    """fp16 [len(keys), len(column)]: the horizontal weights with the colour folded in."""
    if COMPOSED:
        known = (column < 3 * SIDE)[None, :] & (keys < 3 * SIZE)[:, None]
        if not MIX:
            known = known & (keys[:, None] % 3 == column[None, :] % 3)
        weights = tl.load(matrix + (column // 3)[None, :] * SIZE + (keys // 3)[:, None], mask=known, other=0.0)
        weights = weights.to(tl.float32)
    else:
        weights = _horizontal(low, offset, stretch, column % 3, keys, SIZE, TAPS, MIX)
    if MIX:
        channel = column % 3
        red, green, blue = (
            colour_entry(gain, saturation, channel, 0),
            colour_entry(gain, saturation, channel, 1),
            colour_entry(gain, saturation, channel, 2),
        )
        source = (keys % 3)[:, None]
        weights *= tl.where(source == 0, red[None, :], tl.where(source == 1, green[None, :], blue[None, :]))
    elif COLOUR:
        weights *= gain
    return weights.to(tl.float16)


# ---- degradation and blur --------------------------------------------------------------------------------------------


@triton.jit
def _blurred(tile, part, sigma, BO: tl.constexpr, SIDE: tl.constexpr, TERMS: tl.constexpr):
    """float32 [BO, BO]: tile ``tile`` of the rows, ``part`` of the columns of a Gaussian of radius ceil(3 sigma).

    Borders reflect (reflect-101). Mirrored terms are made only in the corners that they reach.
    """
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    slope = (-0.5 / tl.maximum(sigma * sigma, 1e-12)).to(tl.float32)
    term = tl.arange(0, TERMS)
    total = 2.0 * tl.sum(tl.where(term <= reach, tl.exp(term * term * slope), 0.0), axis=0) - 1.0
    i, j = tile * BO + tl.arange(0, BO)[:, None], part * BO + tl.arange(0, BO)[None, :]
    result = _bell(tl.abs(j - i), reach, slope)
    if (tile + part) * BO <= reach:
        result += tl.where(j > 0, _bell(i + j, reach, slope), 0.0)
    if 2 * (SIDE - 1) - (tile + part + 2) * BO + 2 <= reach:
        result += tl.where(j < SIDE - 1, _bell(tl.abs(2 * (SIDE - 1) - i - j), reach, slope), 0.0)
    return tl.where(j < SIDE, result / total, 0.0)


@triton.jit
def _bell(distance, reach, slope):
    return tl.where(distance <= reach, tl.exp(distance * distance * slope), 0.0)


@triton.jit
def _folded(weights, keys, taps, pixels, size):
    """``weights`` [rows, len(keys)] with what lies beyond the frame added to its edge pixels, and normalised.

    ``taps`` [rows, n] are all weights of each row again, at ``pixels`` [rows, n], which may lie outside.
    """
    low = tl.sum(tl.where((pixels <= 0) | (size == 1), taps, 0.0), axis=1)
    high = tl.sum(tl.where(pixels >= size - 1, taps, 0.0), axis=1)
    total = tl.sum(taps, axis=1)
    at = keys[None, :]
    weights = tl.where(at == 0, low[:, None], tl.where(at == size - 1, high[:, None], weights))
    return tl.where(at < size, weights, 0.0) * (1.0 / total)[:, None]


@triton.jit
def _resampled(row, keys, start, stop, size, SIDE: tl.constexpr, TERMS: tl.constexpr):
    """float32 [len(row), len(keys)]: the source box of a frame of ``size`` pixels to SIDE, cubic."""
    first, step, stretch = _scaled(start, stop, size, SIDE)
    low, offset = _first_taps(row, 0, first, step, stretch)
    scale = (1.0 / stretch).to(tl.float32)
    term = tl.arange(0, TERMS)[None, :]
    taps = _cubic(offset[:, None] + term * scale)
    weights = _cubic(offset[:, None] + (keys[None, :] - low[:, None]) * scale)
    return _folded(weights, keys, taps, low[:, None] + term, size)


@triton.jit
def _shrunk(row, keys, small, kernel, SIZE: tl.constexpr, TERMS: tl.constexpr):
    """float32 [len(row), len(keys)]: a whole frame of SIZE pixels to ``small``, by any of FILTERS."""
    most = tl.maximum(small, SIZE).to(tl.float32)
    low = tl.floor((row + 0.5) * SIZE / small - 2.0 * most / small - 1.0).to(tl.int32)  # before the first tap
    pixels = low[:, None] + tl.arange(0, TERMS)[None, :]
    taps = _kernel_between(pixels, row[:, None], small, kernel, most, SIZE)
    weights = _kernel_between(keys[None, :], row[:, None], small, kernel, most, SIZE)
    return _folded(weights, keys, taps, pixels, SIZE)


@triton.jit
def _kernel_between(pixel, output, small, kernel, most, SIZE: tl.constexpr):
    """The degradation kernel at the distance of source pixel and output.

    Twice ``small`` times the distance is a whole number below 2**24, so float32 knows exactly on which side of the
    box kernel's edge a pixel lies. The host's float64 finds the same side for every ``small`` up to 65 (of 36 px) and
    211 (of 144 px); above, where nothing is shrunk, rounding may move a nearest neighbour by one there.
    """
    twice = ((2 * pixel + 1) * small - (2 * output + 1) * SIZE).to(tl.float32)
    distance = twice * (0.5 / most)
    linear, box = tl.maximum(1.0 - tl.abs(distance), 0.0), tl.where((twice > -most) & (twice <= most), 1.0, 0.0)
    return tl.where(kernel == 0, _cubic(distance), tl.where(kernel == 1, linear, box))


@triton.jit
def _shrunk_then_resampled(
    row, keys, start, stop, small, kernel, SIZE: tl.constexpr, SIDE: tl.constexpr, BD: tl.constexpr,
    UP_TERMS: tl.constexpr, DOWN_TERMS: tl.constexpr,
):  # fmt: skip
    """float32 [len(row), len(keys)]: from the source to the output, by way of ``small`` pixels where that is > 0."""
    weights = tl.zeros([row.shape[0], keys.shape[0]], tl.float32)
    if small == 0:
        weights = _resampled(row, keys, start, stop, SIZE, SIDE, UP_TERMS)
    else:
        for piece in range((small + BD - 1) // BD):
            middle = piece * BD + tl.arange(0, BD)
            up = _resampled(row, middle, start, stop, small, SIDE, UP_TERMS)
            down = _shrunk(middle, keys, small, kernel, SIZE, DOWN_TERMS)
            weights = tl.dot(up.to(tl.float16), down.to(tl.float16), weights)
    return weights


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def compose_kernel(
    matrices, table, counter, settings, seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, SIDE: tl.constexpr, BO: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
    DEGRADE: tl.constexpr, BLUR: tl.constexpr,
    BLUR_TERMS: tl.constexpr, UP_TERMS: tl.constexpr, DOWN_TERMS: tl.constexpr,
):  # fmt: skip
    """matrices: fp16 [B, 2, SIDE, SIZE], vertical then horizontal: blur x resampling x degradation of each picture."""
    TILES: tl.constexpr = (SIDE + BO - 1) // BO
    PIECES: tl.constexpr = (SIZE + BS - 1) // BS
    number, axis = tl.program_id(0) // (2 * TILES * PIECES), tl.program_id(0) // (TILES * PIECES) % 2
    tile, piece = tl.program_id(0) // PIECES % TILES, tl.program_id(0) % PIECES
    epoch, position, record = _sample(table, counter, skip, epoch_length, slots, number)
    if (record < begin) | (record >= end):
        return
    x0, y0, x1, y1 = draw_box(settings, seed, epoch, position)
    start, stop = tl.where(axis == 0, y0, x0), tl.where(axis == 0, y1, x1)
    small, kernel = 0, 0
    if DEGRADE:
        small, kernel = draw_degradation(settings, seed, epoch, position)
        small = tl.where(small == SIZE, 0, small)
    row, keys = tile * BO + tl.arange(0, BO), piece * BS + tl.arange(0, BS)
    sigma = number.to(tl.float64) * 0.0
    if BLUR:
        sigma = draw_blur(settings, seed, epoch, position).to(tl.float64) * SIDE
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    last = tl.minimum(tile * BO + BO - 1 + reach, SIDE - 1) // BO
    weights = tl.zeros([BO, BS], tl.float32)
    for part in range(tl.maximum(tile * BO - reach, 0) // BO, last + 1):
        line = part * BO + tl.arange(0, BO)
        inner = _shrunk_then_resampled(line, keys, start, stop, small, kernel, SIZE, SIDE, BD, UP_TERMS, DOWN_TERMS)
        if reach > 0:
            bell = _blurred(tile, part, sigma, BO, SIDE, BLUR_TERMS)
            weights = tl.dot(bell.to(tl.float16), inner.to(tl.float16), weights)
        else:
            weights = inner
    out = matrices + (number.to(tl.int64) * 2 + axis) * (SIDE * SIZE) + row[:, None] * SIZE + keys[None, :]
    tl.store(out, weights.to(tl.float16), mask=(row < SIDE)[:, None] & (keys < SIZE)[None, :])
