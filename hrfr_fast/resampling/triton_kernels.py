"""The resampling definition on CUDA: one kernel from the record's bytes to the batch's images.

A program makes the columns of one tile of one image. It looks up the record, draws the augmentation, computes the
weights, and writes ``V P H`` with P the source, V the vertical weights and H the horizontal ones, three times
interleaved for the three channels: so rows of the product are rows of the channels-last image and are written in
whole 16-byte pieces. Colour is multiplied into H, which is exact since all three are linear and the weights sum to 1.

Both products run on the tensor cores in fp16 with float32 sums: pixel values 0 to 255 are exact in fp16, weights and
the image between the passes are rounded to 11 bits, an error of at most 0.2 (1.5 in bf16).

Least time an image at 36 -> 144 px in 16 bits: 3.9 KB read and 124 KB written, 27 ns at 4.8 TB/s; products of 16 MFLOP,
20 ns at 790 TFLOP/s. The limit is the issue of instructions: 54,000 a warp-wide image (counted in the code compiled
for sm_90: 49,000 in the loops, a quarter of them for padding to tiles of 64 x 128), 59 ns on 132 multiprocessors at
1.75 GHz. At 36 -> 32 px: 10 KB, 2 ns; 23,000 instructions, 25 ns. With every augmentation at 144 px about 145,000, and
those of ``compose_kernel``, which were as many with tiles of 64 and have not been counted with those of 32. These are
counts, not yet times taken on a card.

Where there is degradation or blur, V and H are read from what ``compose_kernel`` has computed; where the degradation is
native, P is a small picture that was made first (``low_resolution_triton``).
"""

import triton
import triton.language as tl

from hrfr_fast.resampling.spec import ERASE_VALUE
from hrfr_fast.resampling.triton_weights import (
    axis_geometry,
    first_taps,
    horizontal_weights,
    vertical_weights,
    window_start,
)
from hrfr_fast.sampling.augmentation_triton import (
    colour_entry,
    draw_box,
    draw_colour,
    draw_erasure,
    look_up_sample,
)

FILL = tl.constexpr(float(ERASE_VALUE))
ALIGNMENT = tl.constexpr(4)  # bytes: source columns are read in 4-byte pieces


@triton.jit
def _erased_pixels(
    settings, seed, epoch, position, OUT: tl.constexpr, VIEW: tl.constexpr, ERASE: tl.constexpr
):  # fmt: skip
    """First column and row to erase, and those after the last; nothing to erase is an empty rectangle."""
    left, top, right, bottom = 0, 0, 0, 0
    if ERASE:
        x0, y0, x1, y1 = draw_erasure(settings, seed, epoch, position, VIEW)
        left, top = tl.floor(x0.to(tl.float64) * OUT).to(tl.int32), tl.floor(y0.to(tl.float64) * OUT).to(tl.int32)
        right, bottom = tl.ceil(x1.to(tl.float64) * OUT).to(tl.int32), tl.ceil(y1.to(tl.float64) * OUT).to(tl.int32)
    return left, top, right, bottom


@triton.jit
def _first_key(
    begin, first, step, filter_scale, SIZE: tl.constexpr, OUT: tl.constexpr, BN: tl.constexpr, COMPOSED: tl.constexpr
):
    """The first source column (x * 3 + channel) that BN output columns from ``begin`` on read, down to ALIGNMENT."""
    base = 0
    if not COMPOSED:
        last = tl.minimum(begin + BN, 3 * OUT) - 1
        base = window_start(begin // 3, last // 3, first, step, filter_scale)
        base = tl.minimum(tl.maximum(base, 0), SIZE - 1) * 3 // ALIGNMENT * ALIGNMENT
    return base


@triton.jit(
    do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end", "run", "pitch", "first", "stride"]
)
def resample_kernel(
    images, out_labels, pixels, labels, records, counter, settings, matrices,
    seed, skip, epoch_length, slots, begin, end, run, pitch, first, stride,
    SIZE: tl.constexpr, OUT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, KR: tl.constexpr, KC: tl.constexpr,
    TILES_EACH: tl.constexpr, ROW_CHUNKS: tl.constexpr, COLUMN_CHUNKS: tl.constexpr, TAPS: tl.constexpr,
    COMPOSED: tl.constexpr, COLOUR: tl.constexpr, MIX: tl.constexpr, ERASE: tl.constexpr, ROUND: tl.constexpr,
    VIEW: tl.constexpr, MADE: tl.constexpr,
):  # fmt: skip
    """Images of one split: the samples whose record lies in [begin, end). See the module and ``Resampler``.

    MADE: ``pixels`` are not the split's, they are a picture made of the record for each image.
    """
    TILES: tl.constexpr = (3 * OUT + BN - 1) // BN
    PROGRAMS: tl.constexpr = (TILES + TILES_EACH - 1) // TILES_EACH
    image, share = tl.program_id(0) // PROGRAMS, tl.program_id(0) % PROGRAMS
    epoch, position, record = look_up_sample(records, counter, skip, epoch_length, slots, image)
    if (record < begin) | (record >= end):
        return
    row_of_batch = (image // run * pitch + first + image % run * stride).to(tl.int64)
    if share == 0:
        tl.store(out_labels + row_of_batch, tl.load(labels + record))
    source = pixels + (image.to(tl.int64) if MADE else record - begin) * (SIZE * SIZE * 3)
    target = images + row_of_batch * (OUT * OUT * 3)
    vertical = matrices + image.to(tl.int64) * (2 * OUT * SIZE)
    x0, y0, x1, y1 = draw_box(settings, seed, epoch, position, VIEW)
    first_x, step_x, scale_x = axis_geometry(x0, x1, SIZE, OUT)
    first_y, step_y, scale_y = axis_geometry(y0, y1, SIZE, OUT)
    gain, saturation, lift = 1.0, 1.0, 0.0
    if COLOUR:
        gain, saturation, lift = draw_colour(settings, seed, epoch, position, VIEW)
    left, top, right, bottom = _erased_pixels(settings, seed, epoch, position, OUT, VIEW, ERASE)

    for tile in range(share * TILES_EACH, tl.minimum(share * TILES_EACH + TILES_EACH, TILES)):
        column = tile * BN + tl.arange(0, BN)
        base = _first_key(tile * BN, first_x, step_x, scale_x, SIZE, OUT, BN, COMPOSED)
        low_x, offset_x = first_taps(column // 3, tile * BN // 3, first_x, step_x, scale_x)
        weights_x = tl.zeros([KC, BN], tl.float16)
        if COLUMN_CHUNKS == 1:
            weights_x = _coloured_weights(
                column, base + tl.arange(0, KC), low_x, offset_x, scale_x, vertical + OUT * SIZE, gain, saturation,
                SIZE, OUT, TAPS, COMPOSED, COLOUR, MIX,
            )  # fmt: skip
        for part in range((OUT + BM - 1) // BM):
            result = tl.zeros([BM, BN], tl.float32)
            for chunk in range(COLUMN_CHUNKS):
                keys = base + chunk * KC + tl.arange(0, KC)
                intermediate = _vertical_pass(
                    source, keys, part * BM, first_y, step_y, scale_y, vertical,
                    SIZE, OUT, BM, KR, KC, ROW_CHUNKS, TAPS, COMPOSED,
                )  # fmt: skip
                if COLUMN_CHUNKS > 1:
                    weights_x = _coloured_weights(
                        column, keys, low_x, offset_x, scale_x, vertical + OUT * SIZE, gain, saturation,
                        SIZE, OUT, TAPS, COMPOSED, COLOUR, MIX,
                    )  # fmt: skip
                result = tl.dot(intermediate.to(tl.float16), weights_x, result)
            row = part * BM + tl.arange(0, BM)
            value = _stored_values(result, lift, row, column, left, top, right, bottom, ERASE, ROUND)
            whole = (row < OUT)[:, None] & (column < 3 * OUT)[None, :]
            tl.store(target + row[:, None] * (3 * OUT) + column[None, :], value.to(images.dtype.element_ty), mask=whole)


@triton.jit
def _vertical_pass(
    source, keys, begin, first, step, filter_scale, matrix, SIZE: tl.constexpr, OUT: tl.constexpr,
    BM: tl.constexpr, KR: tl.constexpr, KC: tl.constexpr, ROW_CHUNKS: tl.constexpr, TAPS: tl.constexpr,
    COMPOSED: tl.constexpr,
):  # fmt: skip
    """float32 [BM, KC]: the source's columns ``keys`` (x * 3 + channel) in the output's rows from ``begin`` on.

    The rows are read KR at a time, from the first one on that an output of the tile has a tap in.
    """
    row = begin + tl.arange(0, BM)
    top_row = 0
    if not COMPOSED:
        top_row = window_start(begin, tl.minimum(begin + BM, OUT) - 1, first, step, filter_scale)
    result, total = tl.zeros([BM, KC], tl.float32), tl.zeros([BM], tl.float32)
    for piece in range(ROW_CHUNKS):
        near = piece * KR + tl.arange(0, KR)
        source_rows = tl.minimum(tl.maximum(top_row + near, 0), SIZE - 1)
        place = source + source_rows[:, None] * (3 * SIZE) + keys[None, :]
        values = tl.load(place, mask=(keys < 3 * SIZE)[None, :], other=0)
        if COMPOSED:
            known = (row < OUT)[:, None] & (near < SIZE)[None, :]
            weights = tl.load(matrix + row[:, None] * SIZE + near[None, :], mask=known, other=0.0)
        else:
            exact = vertical_weights(row, near, begin, top_row, first, step, filter_scale)
            if TAPS == 0:
                total += tl.sum(exact, axis=1)
            weights = exact.to(tl.float16)
        result = tl.dot(weights, values.to(tl.float16), result)
    if TAPS == 0 and not COMPOSED:
        result *= (1.0 / tl.where(row < OUT, total, 1.0))[:, None]  # rows of padding may have no tap
    return result


@triton.jit
def _stored_values(
    result, lift, row, column, left, top, right, bottom, ERASE: tl.constexpr, ROUND: tl.constexpr
):  # fmt: skip
    """Pixel values plus ``lift``, clamped and erased; rounded to int32, or normalised with one multiply-add.

    ``left`` to ``bottom``: the erased rectangle, as ``_erased_pixels`` gives it.
    """
    erased = False
    if ERASE:
        erased_x = (column // 3 >= left) & (column // 3 < right)
        erased = ((row >= top) & (row < bottom))[:, None] & erased_x[None, :]
    if ROUND:
        value = tl.minimum(tl.maximum(result + lift, 0.0), 255.0)
        value = ((tl.where(erased, FILL, value) if ERASE else value) + 0.5).to(tl.int32)
    else:
        bias = lift * (1.0 / 127.5) - 1.0
        value = tl.minimum(tl.maximum(tl.fma(result, 1.0 / 127.5, bias), -1.0), 1.0)
        value = tl.where(erased, FILL / 127.5 - 1.0, value) if ERASE else value
    return value


@triton.jit
def _coloured_weights(
    column, keys, low, offset, filter_scale, matrix, gain, saturation, SIZE: tl.constexpr, OUT: tl.constexpr,
    TAPS: tl.constexpr, COMPOSED: tl.constexpr, COLOUR: tl.constexpr, MIX: tl.constexpr,
):  # fmt: skip
    """fp16 [len(keys), len(column)]: the horizontal weights times the colour matrix."""
    if COMPOSED:
        known = (column < 3 * OUT)[None, :] & (keys < 3 * SIZE)[:, None]
        if not MIX:
            known = known & (keys[:, None] % 3 == column[None, :] % 3)
        weights = tl.load(matrix + (column // 3)[None, :] * SIZE + (keys // 3)[:, None], mask=known, other=0.0)
        weights = weights.to(tl.float32)
    else:
        weights = horizontal_weights(low, offset, filter_scale, column % 3, keys, SIZE, TAPS, MIX)
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
