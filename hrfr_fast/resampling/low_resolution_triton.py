"""The degradation chain (see ``sampling.degradation``) on CUDA: sharp pictures to small ones, and back up.

Five kernels, each of one idea; what one leaves to the next lies in scratch memory, every image in a frame of the
largest side that can be drawn:

1. ``shrinking_kernel``: the matrix of blur and downsampling, the same for both axes;
2. ``shrink_kernel``: its product with the source along both axes, unrounded;
3. ``levels_kernel`` (``jpeg_triton``): noise, rounding and JPEG, as whole pixel values;
4. ``enlarging_kernel``: the matrices of upscaling, and of the view's own blur, by the image's box;
5. ``resample_kernel`` (``triton_kernels``) with these matrices, on the small pictures.

Up to the rounding, products are of float32 in three products of 11 bits (tf32x3): a single one would be off by up to
0.2, which rounds one pixel in ten to another level and so changes blocks of JPEG.
"""

import triton
import triton.language as tl

from hrfr_fast.resampling.triton_compose import blurred, shrinking
from hrfr_fast.resampling.triton_filters import filter_weights
from hrfr_fast.sampling.augmentation_triton import draw_blur, draw_box, look_up_sample
from hrfr_fast.sampling.degradation_triton import draw_order, draw_small, draw_up


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def shrinking_kernel(
    matrices, records, counter, settings, seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, LARGEST: tl.constexpr, TILE: tl.constexpr, BLUR_TERMS: tl.constexpr, VIEW: tl.constexpr,
):  # fmt: skip
    """matrices: float32 [B, LARGEST, SIZE], written as far as the rows of each image's side."""
    ROWS: tl.constexpr = (LARGEST + TILE - 1) // TILE
    COLUMNS: tl.constexpr = (SIZE + TILE - 1) // TILE
    image = tl.program_id(0) // (ROWS * COLUMNS)
    tile, part = tl.program_id(0) // COLUMNS % ROWS, tl.program_id(0) % COLUMNS
    epoch, position, record = look_up_sample(records, counter, skip, epoch_length, slots, image)
    if (record < begin) | (record >= end):
        return
    small, filter, optics = draw_small(settings, seed, epoch, position, SIZE, VIEW)
    if tile * TILE >= small:
        return
    row, keys = tile * TILE + tl.arange(0, TILE), part * TILE + tl.arange(0, TILE)
    after = draw_order(settings, seed, epoch, position, VIEW) >= 2
    sigma = optics.to(tl.float64) * tl.where(after, small, SIZE)
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    if reach == 0:
        weights = shrinking(row, keys, small, filter, SIZE)
    elif after:
        weights = tl.zeros([TILE, TILE], tl.float32)
        last = tl.minimum(tile * TILE + TILE - 1 + reach, small - 1) // TILE
        for middle in range(tl.maximum(tile * TILE - reach, 0) // TILE, last + 1):
            blur = blurred(tile, middle, sigma, TILE, small, BLUR_TERMS)
            down = shrinking(middle * TILE + tl.arange(0, TILE), keys, small, filter, SIZE)
            weights = tl.dot(blur, down, weights, input_precision="tf32x3")
    else:
        weights = tl.zeros([TILE, TILE], tl.float32)
        last = tl.minimum(part * TILE + TILE - 1 + reach, SIZE - 1) // TILE
        for middle in range(tl.maximum(part * TILE - reach, 0) // TILE, last + 1):
            down = shrinking(row, middle * TILE + tl.arange(0, TILE), small, filter, SIZE)
            blur = blurred(middle, part, sigma, TILE, SIZE, BLUR_TERMS)
            weights = tl.dot(down, blur, weights, input_precision="tf32x3")
    out = matrices + image.to(tl.int64) * (LARGEST * SIZE) + row[:, None] * SIZE + keys[None, :]
    tl.store(out, weights, mask=(row < small)[:, None] & (keys < SIZE)[None, :])


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def shrink_kernel(
    values, matrices, pixels, records, counter, settings, seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, LARGEST: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr, VIEW: tl.constexpr,
):  # fmt: skip
    """values: float32 [B, 3, LARGEST, LARGEST], channel after channel: M P M^T as far as each image's side.

    A program makes TILE rows and WIDE columns of one channel.
    """
    ROWS: tl.constexpr = (LARGEST + TILE - 1) // TILE
    COLUMNS: tl.constexpr = (LARGEST + WIDE - 1) // WIDE
    image, channel = tl.program_id(0) // (3 * ROWS * COLUMNS), tl.program_id(0) // (ROWS * COLUMNS) % 3
    tile, part = tl.program_id(0) // COLUMNS % ROWS, tl.program_id(0) % COLUMNS
    epoch, position, record = look_up_sample(records, counter, skip, epoch_length, slots, image)
    if (record < begin) | (record >= end):
        return
    small, _, _ = draw_small(settings, seed, epoch, position, SIZE, VIEW)
    if (tile * TILE >= small) | (part * WIDE >= small):
        return
    source = pixels + (record - begin) * (SIZE * SIZE * 3) + channel
    matrix = matrices + image.to(tl.int64) * (LARGEST * SIZE)
    row, column = tile * TILE + tl.arange(0, TILE), part * WIDE + tl.arange(0, WIDE)
    result = tl.zeros([TILE, WIDE], tl.float32)
    for left in range(0, SIZE, TILE):
        x = left + tl.arange(0, TILE)
        shrunk = tl.zeros([TILE, TILE], tl.float32)
        for top in range(0, SIZE, TILE):
            y = top + tl.arange(0, TILE)
            inside = (row < small)[:, None] & (y < SIZE)[None, :]
            weights = tl.load(matrix + row[:, None] * SIZE + y[None, :], mask=inside, other=0.0)
            inside = (y < SIZE)[:, None] & (x < SIZE)[None, :]
            values_here = tl.load(source + (y[:, None] * SIZE + x[None, :]) * 3, mask=inside, other=0)
            shrunk = tl.dot(weights, values_here.to(tl.float32), shrunk, input_precision="tf32x3")
        inside = (column < small)[None, :] & (x < SIZE)[:, None]
        weights = tl.load(matrix + column[None, :] * SIZE + x[:, None], mask=inside, other=0.0)
        result = tl.dot(shrunk, weights, result, input_precision="tf32x3")
    out = values + (image.to(tl.int64) * 3 + channel) * (LARGEST * LARGEST)
    inside = (row < small)[:, None] & (column < small)[None, :]
    tl.store(out + row[:, None] * LARGEST + column[None, :], result, mask=inside)


@triton.jit(do_not_specialize=["seed", "skip", "epoch_length", "slots", "begin", "end"])
def enlarging_kernel(
    matrices, records, counter, settings, seed, skip, epoch_length, slots, begin, end,
    SIZE: tl.constexpr, LARGEST: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr,
    BLUR: tl.constexpr, BLUR_TERMS: tl.constexpr, VIEW: tl.constexpr,
):  # fmt: skip
    """matrices: fp16 [B, 2, OUT, LARGEST], vertical then horizontal: blur x upscaling of each small picture's box."""
    ROWS: tl.constexpr = (OUT + TILE - 1) // TILE
    COLUMNS: tl.constexpr = (LARGEST + TILE - 1) // TILE
    image, axis = tl.program_id(0) // (2 * ROWS * COLUMNS), tl.program_id(0) // (ROWS * COLUMNS) % 2
    tile, part = tl.program_id(0) // COLUMNS % ROWS, tl.program_id(0) % COLUMNS
    epoch, position, record = look_up_sample(records, counter, skip, epoch_length, slots, image)
    if (record < begin) | (record >= end):
        return
    small, _, _ = draw_small(settings, seed, epoch, position, SIZE, VIEW)
    filter = draw_up(settings, seed, epoch, position, VIEW)
    x0, y0, x1, y1 = draw_box(settings, seed, epoch, position, VIEW)
    start = tl.where(axis == 0, y0, x0).to(tl.float64)
    stop = tl.where(axis == 0, y1, x1).to(tl.float64)
    first, step = start * small, (stop - start) * small / OUT
    keys = part * TILE + tl.arange(0, TILE)
    sigma = start * 0.0
    if BLUR:
        sigma = draw_blur(settings, seed, epoch, position, VIEW).to(tl.float64) * OUT
    reach = tl.ceil(3.0 * sigma).to(tl.int32)
    last = tl.minimum(tile * TILE + TILE - 1 + reach, OUT - 1) // TILE
    weights = tl.zeros([TILE, TILE], tl.float32)
    for middle in range(tl.maximum(tile * TILE - reach, 0) // TILE, last + 1):
        inner = filter_weights(middle * TILE + tl.arange(0, TILE), keys, first, step, small, filter)
        if reach > 0:
            blur = blurred(tile, middle, sigma, TILE, OUT, BLUR_TERMS)
            weights = tl.dot(blur.to(tl.float16), inner.to(tl.float16), weights)
        else:
            weights = inner
    row = tile * TILE + tl.arange(0, TILE)
    out = matrices + (image.to(tl.int64) * 2 + axis) * (OUT * LARGEST) + row[:, None] * LARGEST + keys[None, :]
    tl.store(out, weights.to(tl.float16), mask=(row < OUT)[:, None] & (keys < LARGEST)[None, :])
