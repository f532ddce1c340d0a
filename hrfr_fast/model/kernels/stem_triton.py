"""GPU kernels for a stem: a 3x3 convolution of images, BatchNorm and activation, whose maps before BN nobody writes.

A stem's convolution has 27 products a value, which take less time than the value's way from memory: so each of the four
kernels that need it computes it again on the tensor cores, from images that stay in the caches. Memory sees what the
stem makes, once, and the gradient by that, twice; not the maps before BN (written once and read four times else), nor
their gradient (written and read once), and no activation but the images is kept for the backward pass.

Images are first padded: a border of zeros and a fourth channel of zeros, [B, H + 2, W + 2, 4]. A patch is then 9 pixels
of one 8-byte load each, without bounds, at an offset that only its first pixel decides; as a row of a matrix it is 64
values, 36 of them not always zero. As in ``norm_triton`` a program takes a group of consecutive pixels in tiles of R,
sums are float32, groups leave partial sums, and equal inputs give equal bits. H and W are compiled in, so that no
division is left of finding a pixel; how many pixels there are is not. They fit 32 bits, since their maps fit memory.
"""

import triton
import triton.language as tl

from hrfr_fast.model.kernels.norm_triton import (
    NO_ACTIVATION,
    PRELU,
    _slopes,
    normalisation,
)
from hrfr_fast.model.kernels.slots_triton import write_moments_of

PATCH = tl.constexpr(64)
"""Values of a patch: 9 pixels of 4, and zeros up to a power of two."""
INTERPRETED = tl.constexpr(not isinstance(normalisation, triton.JITFunction))


@triton.jit(do_not_specialize=["pixels", "by_image", "by_channel", "by_line", "by_pixel"])
def pad_images_kernel(
    images, padded, pixels, by_image, by_channel, by_line, by_pixel, H: tl.constexpr, W: tl.constexpr, N: tl.constexpr
):
    """[B, H + 2, W + 2, 4] of images [B, 3, H, W] at any strides, rounded to the type of ``padded``.

    ``pixels``: of ``padded``.
    """
    pixel, channel = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, 4)
    line, x = pixel // (W + 2), pixel % (W + 2) - 1
    image, y = line // (H + 2), line % (H + 2) - 1
    inside = (x >= 0) & (x < W) & (y >= 0) & (y < H) & (pixel < pixels)
    place = image.to(tl.int64) * by_image + y * by_line + x * by_pixel
    place = place[:, None] + channel[None, :] * by_channel
    value = tl.load(images + place, mask=inside[:, None] & (channel < 3)[None, :], other=0.0)
    place = pixel.to(tl.int64)[:, None] * 4 + channel[None, :]
    tl.store(padded + place, value.to(padded.dtype.element_ty), mask=(pixel < pixels)[:, None])


@triton.jit
def _weights(weight, column, dtype: tl.constexpr, C: tl.constexpr):
    """[PATCH, BC] of weights [C, 3, 3, 3] in the order of channels-last ones; zeros where patches have none."""
    place = tl.arange(0, PATCH)
    there = (place < 36) & (place % 4 < 3)
    value = tl.load(
        weight + column[None, :] * 27 + (place // 4 * 3 + place % 4)[:, None],
        mask=there[:, None] & (column < C)[None, :], other=0.0,
    )  # fmt: skip
    return value.to(dtype)


@triton.jit
def _patches(padded, pixel, inside, H: tl.constexpr, W: tl.constexpr):
    """[R, PATCH]: what the convolution sees around each pixel; zeros for those that are not ``inside``."""
    line = pixel // W
    start = (pixel + 2 * line + line // H * (2 * (W + 2))).to(tl.int64) * 4
    place = tl.arange(0, PATCH)
    near = place // 4
    step = (near // 3 * (W + 2) + near % 3) * 4 + place % 4
    return tl.load(padded + start[:, None] + step[None, :], mask=inside[:, None] & (near < 9)[None, :], other=0.0)


@triton.jit
def _product(one, other, total, SUM: tl.constexpr):
    """``one`` times ``other`` plus ``total``; Triton's interpreter would multiply the bits of bfloat16 as integers."""
    if INTERPRETED:
        one, other = one.to(SUM), other.to(SUM)
    return tl.dot(one, other, total, input_precision="ieee", out_dtype=SUM)


@triton.jit
def _convolved(patches, weights, R: tl.constexpr, BC: tl.constexpr, SUM: tl.constexpr):
    """[R, BC], not rounded: every kernel takes the same products, so that all see the same sign at the activation."""
    return _product(patches, weights, tl.zeros([R, BC], SUM), SUM)


@triton.jit
def _add_moments(mean, square, values, inside, number):
    """Welford's update of every slot by its ``number``-th value, but where a row is outside: there its share is 0."""
    share = tl.where(inside, 1.0 / number, 0.0)[:, None]
    rest = tl.where(inside, 1.0 - 1.0 / number, 0.0)[:, None]
    delta = values - mean
    return mean + delta * share, square + delta * delta * rest


@triton.jit
def _rows(maps, row, column, begin, count, C: tl.constexpr):
    """[R, BC]: of a group's maps the rows from ``begin`` on; zeros past its ``count``."""
    place = tl.cast(begin, tl.int64) * C + row[:, None] * C + column[None, :]
    return tl.load(maps + place, mask=(row < count - begin)[:, None] & (column < C)[None, :], other=0.0)


@triton.jit
def _scaled(mean, inverse_std, scale, bias, column, C: tl.constexpr, SUM: tl.constexpr):
    """Mean, factor and offset of channels, [1, BC] each: what BN makes of x is x * factor + offset."""
    centre, factor, shift = normalisation(mean, inverse_std, scale, bias, column, C, SUM)
    return centre[None, :], factor[None, :], (shift - centre * factor)[None, :]


@triton.jit(do_not_specialize=["pixels", "length"])
def stem_statistics_kernel(
    padded, weight, means, squares, pixels, length,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared differences of each channel of the convolution in each group: [groups, C] each."""
    first = tl.program_id(0) * length
    count = tl.minimum(length, pixels - first)
    row, column = tl.arange(0, R), tl.arange(0, BC)
    weights = _weights(weight, column, padded.dtype.element_ty, C)
    mean, square = tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM)
    for begin in range(0, count, R):
        inside = row < count - begin
        patches = _patches(padded, first + begin + row, inside, H, W)
        value = _convolved(patches, weights, R, BC, SUM)
        mean, square = _add_moments(mean, square, value, inside, begin // R + 1)
    write_moments_of(tl.program_id(0), means, squares, mean, square, count, column, C, R)


@triton.jit(do_not_specialize=["pixels", "length"])
def stem_kernel(
    padded, weight, made, mean, inverse_std, scale, bias, slope, next_means, next_squares, pixels, length,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr,
    NEXT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """activation(BN(convolution)), [pixels, C]; and the statistics of what it wrote, rounded as it is (NEXT).

    ``scale``: the weight of BN.
    """
    first = tl.program_id(0) * length
    count = tl.minimum(length, pixels - first)
    row, column = tl.arange(0, R), tl.arange(0, BC)
    weights = _weights(weight, column, padded.dtype.element_ty, C)
    centre, factor, offset = _scaled(mean, inverse_std, scale, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    next_mean, next_square = tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM)
    for begin in range(0, count, R):
        inside = row < count - begin
        patches = _patches(padded, first + begin + row, inside, H, W)
        value = _convolved(patches, weights, R, BC, SUM) * factor + offset
        if ACTIVATION != NO_ACTIVATION:
            value = tl.where(value > 0, value, value * below)
        rounded = value.to(made.dtype.element_ty)
        place = (first + begin).to(tl.int64) * C + row[:, None] * C + column[None, :]
        tl.store(made + place, rounded, mask=inside[:, None] & (column < C)[None, :])
        if NEXT:
            next_mean, next_square = _add_moments(next_mean, next_square, rounded.to(SUM), inside, begin // R + 1)
    if NEXT:
        write_moments_of(tl.program_id(0), next_means, next_squares, next_mean, next_square, count, column, C, R)


@triton.jit(do_not_specialize=["pixels", "length", "groups"])
def stem_gradient_sums_kernel(
    padded, weight, gradient, mean, inverse_std, scale, bias, slope, sums, pixels, length, groups,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """What ``norm_triton.gradient_sums_kernel`` gives, [3 (PReLU) or 2, groups, C], of the convolution.

    Triton reads ahead only what meets a product, so here the gradient's next rows are asked for by hand.
    """
    first = tl.program_id(0) * length
    count = tl.minimum(length, pixels - first)
    row, column = tl.arange(0, R), tl.arange(0, BC)
    known = column < C
    weights = _weights(weight, column, padded.dtype.element_ty, C)
    centre, factor, offset = _scaled(mean, inverse_std, scale, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    plain, centred, sloped = tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM), tl.zeros([R, BC], SUM)
    gradient += first.to(tl.int64) * C
    ahead = _rows(gradient, row, column, 0, count, C)
    for begin in range(0, count, R):
        inside = row < count - begin
        passed = ahead.to(SUM)
        ahead = _rows(gradient, row, column, begin + R, count, C)
        patches = _patches(padded, first + begin + row, inside, H, W)
        maps = _convolved(patches, weights, R, BC, SUM)
        if ACTIVATION != NO_ACTIVATION:
            value = maps * factor + offset
            if ACTIVATION == PRELU:
                sloped += passed * tl.minimum(value, 0.0)
            passed = tl.where(value > 0, passed, passed * below)
        plain += passed
        centred += passed * (maps - centre)
    place = tl.program_id(0) * C + column
    tl.store(sums + place, tl.sum(plain, axis=0), mask=known)
    tl.store(sums + groups * C + place, tl.sum(centred, axis=0), mask=known)
    if ACTIVATION == PRELU:
        tl.store(sums + 2 * groups * C + place, tl.sum(sloped, axis=0), mask=known)


@triton.jit(do_not_specialize=["pixels", "length"])
def stem_weight_gradient_kernel(
    padded, weight, gradient, mean, inverse_std, scale, bias, slope, totals, partial, pixels, length,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BC: tl.constexpr, ACTIVATION: tl.constexpr,
    BATCH: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The gradient by the convolution's weights, in parts: [groups, C, 27].

    That by its maps is what ``norm_triton.map_gradient_kernel`` writes, of the same ``totals`` [2, C] (BATCH), rounded
    to the images' type as there.
    """
    first = tl.program_id(0) * length
    count = tl.minimum(length, pixels - first)
    row, column = tl.arange(0, R), tl.arange(0, BC)
    known = column < C
    weights = _weights(weight, column, padded.dtype.element_ty, C)
    centre, factor, offset = _scaled(mean, inverse_std, scale, bias, column, C, SUM)
    below = _slopes(slope, column, C, ACTIVATION, SUM)
    level, tilt = tl.zeros([1, BC], SUM), tl.zeros([1, BC], SUM)
    if BATCH:
        spread = tl.load(inverse_std + column, mask=known, other=0.0).to(SUM)[None, :]
        level = tl.load(totals + column, mask=known, other=0.0)[None, :] / pixels
        tilt = tl.load(totals + C + column, mask=known, other=0.0)[None, :] / pixels * spread * spread * factor
        level = level * factor - centre * tilt
    gradient += first.to(tl.int64) * C
    total = tl.zeros([BC, PATCH], SUM)
    for begin in range(0, count, R):
        inside = row < count - begin
        passed = _rows(gradient, row, column, begin, count, C).to(SUM)
        patches = _patches(padded, first + begin + row, inside, H, W)
        maps = _convolved(patches, weights, R, BC, SUM)
        if ACTIVATION != NO_ACTIVATION:
            passed = tl.where(maps * factor + offset > 0, passed, passed * below)
        passed *= factor
        if BATCH:
            passed -= level + maps * tilt
        rounded = passed.to(padded.dtype.element_ty)  # what is outside meets patches of zeros
        total = _product(tl.trans(rounded), patches, total, SUM)
    place = tl.arange(0, PATCH)
    there = (place < 36) & (place % 4 < 3)
    start = partial + tl.program_id(0).to(tl.int64) * C * 27
    place = column[:, None] * 27 + (place // 4 * 3 + place % 4)[None, :]
    tl.store(start + place, total, mask=known[:, None] & there[None, :])
