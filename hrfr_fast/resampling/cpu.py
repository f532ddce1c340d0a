"""The resampling definition (see ``spec``) as a numba kernel for CPUs.

The order of its loops is what makes it fast: the horizontal pass vectorises over the rows of a transposed copy of the
source, the vertical pass over whole output rows; and the colour matrix is applied after the horizontal pass, on the
smaller image, which is exact because all three steps are linear and the vertical weights sum to 1. With a box for every
image, 36 -> 144 px, this is several times as fast as the straightforward loop, see benchmarks/results/loaders.md.

Images that are only cropped, flipped and made brighter or darker, and shrunk to no less than four fifths, are computed
in 16-bit fixed point, 32 values at a time: 64 steps a level after the horizontal pass, 16 after the vertical one. All
others are computed in float32. An image's augmentation alone decides which.

Longer than 300 lines because numba keeps compiled kernels and notices changes in a kernel's own file only: a function
that another file holds could stay in use after that file has changed.
"""

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from hrfr_fast.resampling.spec import BOX, BOX_TIE, CUBIC, ERASE_VALUE, KEYS_A, LANCZOS, LINEAR, NEAREST
from hrfr_fast.runtime.caches import numba_keeps_kernels
from hrfr_fast.sampling.augmentation import Augmentation

PAGE = 4096  # bytes of memory that are read together, at least
CHUNK = 8  # images that share one set of scratch buffers
LANES = 32  # 16-bit numbers of one vector: a register of AVX-512, two of AVX2
MOST_GAIN = 1.999  # brightness that fixed point can hold: times 1 << 14, the largest weight of the vertical pass

FOUR, SIX = (0,) * 4, (0,) * 6
"""Numbers of taps whose loops the compiler unrolls: a tuple's length is part of its type. It saves a third."""

_KEPT = numba_keeps_kernels()
_jit = numba.njit(cache=_KEPT, fastmath={"contract", "nsz", "arcp", "nnan", "ninf"}, nogil=True)


_no_pictures = np.empty(0, np.uint8)


def resample(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    size: int,
    augmentation: Augmentation,
    out: NDArray[Any],
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Execute ``augmentation`` on B raw images, on all cores.

    Args:
        data: uint8 [bytes], where the images lie (a memory map will do).
        offsets: int64 [B], where each begins; each is size x size x 3 bytes, RGB.
        size: width and height of the sources in pixels.
        augmentation: B rows.
        out: [N, S, S, 3], written in place. uint8: pixel values. float32, or uint16 for the bits of a bfloat16:
            (value - 127.5) / 127.5 of the same rounded values; one pass over memory instead of the four that
            normalising uint8 afterwards would take.
        rows: int64 [B], the row of ``out`` each image goes to; None: 0 .. B - 1.
    """
    rows = np.arange(len(offsets)) if rows is None else rows
    data = data.view(np.ndarray)
    data.flags.writeable = False  # of this view, as memory maps are: one kernel is compiled for them and for arrays
    small, begins = _no_pictures, offsets
    if (augmentation.order >= 0).any():
        from hrfr_fast.resampling.low_resolution import low_resolution  # it needs the filters of this file

        small, begins = low_resolution(data, offsets, size, augmentation)
    _resample_batch(data, offsets, size, *augmentation[:6], augmentation.up, small, begins, out, rows)


def downsample(image: NDArray[np.uint8], small: int, filter: int) -> NDArray[np.float32]:
    """One uint8 image [size, size, 3] as unrounded float32 [small, small, 3]; ``filter`` is an index into FILTERS."""
    return np.asarray(_downsample(np.ascontiguousarray(image).reshape(-1), image.shape[0], small, filter))


@_jit
def _downsample(pixels, size, small, filter):
    source = np.empty(size * 3 * size, np.float32)
    degraded = np.empty(small * 3 * small, np.float32)
    _transpose_in(pixels, size, source)
    _degrade(source, size, small, filter, degraded)
    out = np.empty((small, small, 3), np.float32)
    for y in range(small):
        for x in range(small):
            for c in range(3):
                out[y, x, c] = degraded[(x * 3 + c) * small + y]
    return out


def crop(image: NDArray[np.uint8], box: NDArray[np.float32], out_size: int, filter: int) -> NDArray[np.float32]:
    """The ``box`` (see Augmentation) of one uint8 image [size, size, 3], unrounded float32 [out_size, out_size, 3]."""
    return np.asarray(_crop(np.ascontiguousarray(image).reshape(-1), image.shape[0], box, out_size, filter))


@_jit
def _crop(pixels, size, box, out_size, filter):
    source = np.empty(size * 3 * size, np.float32)
    intermediate = np.empty((size, out_size * 3), np.float32)
    out = np.empty((out_size, out_size * 3), np.float32)
    _transpose_in(pixels, size, source)
    _horizontal(source, size, box[0], box[2], filter, intermediate, out_size, size)
    _vertical(intermediate, size, box[1], box[3], filter, np.float32(1), out)
    return out.reshape(out_size, out_size, 3)


def copy_records(data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Copy the records at ``offsets`` (int64 [B]) of ``data`` into the rows of ``out`` (uint8, B rows, contiguous)."""
    data = data.view(np.ndarray)
    data.flags.writeable = False
    _copy_records(data, offsets, out.reshape(len(out), math.prod(out.shape[1:])))


def touch(data: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
    """Read a byte of every page of the records at ``offsets`` with ``lengths`` (int64 [B]) of ``data``; their sum."""
    data = data.view(np.ndarray)
    data.flags.writeable = False
    return int(_touch(data, offsets, lengths))


@_jit
def _touch(data, offsets, lengths):
    total = 0
    for b in range(len(offsets)):
        for at in range(offsets[b], offsets[b] + lengths[b], PAGE):
            total += data[at]
        total += data[offsets[b] + lengths[b] - 1]
    return total


@_jit
def _copy_records(data, offsets, out):
    for b in range(len(offsets)):
        out[b] = data[offsets[b] : offsets[b] + out.shape[1]]


@numba.njit(cache=_KEPT, parallel=True, nogil=True)
def _resample_batch(data, offsets, size, box, colour, degrade, filter, blur, erase, up, small, begins, out, rows):
    out_size = out.shape[1]
    largest = max(size, np.max(degrade)) if len(degrade) else size
    pitch = (4 * size + LANES - 1) // LANES * LANES
    for chunk in numba.prange((len(offsets) + CHUNK - 1) // CHUNK):
        fixed_source = np.empty(size * pitch, np.int16)  # [x][y][red, green, blue, unused]
        fixed_intermediate = np.empty(size * (3 * out_size + 1), np.int16)  # [y][x][channel], a number more a row
        source = np.empty(size * 3 * size, np.float32)  # [x][channel][y]: transposed
        degraded = np.empty(largest * 3 * largest, np.float32)
        intermediate = np.empty((largest, out_size * 3), np.float32)
        result = np.empty((out_size, out_size * 3), np.float32)
        for b in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(offsets))):
            pixels = data[offsets[b] : offsets[b] + size * size * 3]
            degraded_first = degrade[b] > 0 and degrade[b] != size
            finished_later = blur[b] > 0 or erase[b, 2] > erase[b, 0]
            taps = _fixed_taps(box[b], size, out_size)
            chained = len(small) > 0 and begins[b] >= 0
            if not degraded_first and not chained and not finished_later and taps and _is_fixed_gain(colour[b]):
                _widen(pixels, size, pitch, fixed_source)
                picture = out[rows[b]].reshape(out_size, out_size * 3)
                if taps == 4:
                    _fixed(fixed_source, size, pitch, box[b], colour[b, 0, 0], FOUR, fixed_intermediate, picture)
                else:
                    _fixed(fixed_source, size, pitch, box[b], colour[b, 0, 0], SIX, fixed_intermediate, picture)
                continue
            frame, frame_size, enlarging = source, size, CUBIC
            if chained:
                frame, frame_size, enlarging = degraded, degrade[b], up[b]
                _transpose_in(small[begins[b] : begins[b] + frame_size * frame_size * 3], frame_size, degraded)
            else:
                _transpose_in(pixels, size, source)
            if degraded_first and not chained:
                _degrade(source, size, degrade[b], filter[b], degraded)
                frame, frame_size = degraded, degrade[b]
            x0, y0, x1, y1 = box[b, 0], box[b, 1], box[b, 2], box[b, 3]
            _horizontal(frame, frame_size, x0, x1, enlarging, intermediate, out_size, frame_size)
            gain = _apply_colour(intermediate, frame_size, out_size, colour[b])
            if finished_later:
                _vertical(intermediate, frame_size, y0, y1, enlarging, gain, result)
                if blur[b] > 0:
                    _gaussian_blur(result, out_size, blur[b] * out_size)
                _erase(result, out_size, erase[b])
                _store_rows(result, out[rows[b]].reshape(out_size, out_size * 3))
            else:
                picture = out[rows[b]].reshape(out_size, out_size * 3)
                _vertical_rounded(intermediate, frame_size, y0, y1, enlarging, gain, picture)


@_jit
def _transpose_in(pixels, size, source):
    """uint8 [y][x * 3 + c] to float32 [x * 3 + c][y]."""
    for y in range(size):
        row = pixels[y * size * 3 : (y + 1) * size * 3]
        for x in range(size * 3):
            source[x * size + y] = row[x]


@_jit
def _weight(t, filter):
    if filter in (BOX, NEAREST):
        return 1.0 if -0.5 + BOX_TIE < t <= 0.5 + BOX_TIE else 0.0
    t = abs(t)
    if filter == CUBIC:
        if t < 1:
            return ((KEYS_A + 2) * t - (KEYS_A + 3)) * t * t + 1
        if t < 2:
            return ((KEYS_A * t - 5 * KEYS_A) * t + 8 * KEYS_A) * t - 4 * KEYS_A
        return 0.0
    if filter == LANCZOS:
        if t < 1e-8:
            return 1.0
        return 3 * math.sin(math.pi * t) * math.sin(math.pi * t / 3) / (math.pi * t) ** 2 if t < 3 else 0.0
    return max(1 - t, 0.0)


@_jit
def _taps(start, stop, size, out_size, filter, first, weights):
    """Fill ``first`` [out_size] and ``weights`` [out_size, taps] of one axis; returns the number of taps.

    Positions are float64: a float32 position near 144 is off by 1e-5 px, on noise 0.01 of a pixel value.
    """
    step = (np.float64(stop) - np.float64(start)) * size / out_size
    filter_scale = 1.0 if filter == NEAREST else max(1.0, abs(step))
    radius = (2.0 if filter == CUBIC else 1.0 if filter == LINEAR else 3.0 if filter == LANCZOS else 0.5) * filter_scale
    count = min(int(math.ceil(2 * radius)) + (0 if filter_scale == 1.0 else 1), weights.shape[1])
    if filter == CUBIC and filter_scale == 1.0:
        _cubic_taps(np.float64(start) * size, step, out_size, first, weights)
        return count
    for i in range(out_size):
        centre = np.float64(start) * size + (i + 0.5) * step
        low = int(math.floor(centre - radius + 0.5 + BOX_TIE * filter_scale))
        total = 0.0
        for k in range(count):
            weight = _weight((low + k + 0.5 - centre) / filter_scale, filter)
            weights[i, k] = weight
            total += weight
        for k in range(count):
            weights[i, k] /= total
        first[i] = low
    return count


@_jit
def _cubic_taps(origin, step, out_size, first, weights):
    """The four taps of the cubic filter where nothing is downsampled, without branches; their sum is 1."""
    for i in range(out_size):
        at = origin + (i + 0.5) * step - 0.5
        low = math.floor(at)
        t = at - low
        first[i] = int(low) - 1
        weights[i, 0] = ((KEYS_A * t - 2 * KEYS_A) * t + KEYS_A) * t
        weights[i, 1] = ((KEYS_A + 2) * t - (KEYS_A + 3)) * t * t + 1
        weights[i, 2] = ((-(KEYS_A + 2) * t + (2 * KEYS_A + 3)) * t - KEYS_A) * t
        weights[i, 3] = (-KEYS_A * t + KEYS_A) * t * t


@_jit
def _max_taps(start, stop, size, out_size):
    return int(math.ceil(6 * max(1.0, abs(stop - start) * size / out_size))) + 2


@_jit
def _clamp(index, size):
    return min(max(index, 0), size - 1)


@_jit
def _horizontal(frame, size, start, stop, filter, intermediate, out_size, height):
    """Horizontal pass: frame [x][c][y] to intermediate [y][i * 3 + c].

    Vectorised over channels and the ``height`` rows y together, which are contiguous.
    """
    first = np.empty(out_size, np.int64)
    weights = np.empty((out_size, _max_taps(start, stop, size, out_size)), np.float32)
    count = _taps(start, stop, size, out_size, filter, first, weights)
    length = 3 * height
    line = np.empty(length, np.float32)
    for i in range(out_size):
        if count == 4:
            w0, w1, w2, w3 = weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3]
            r0 = frame[_clamp(first[i], size) * length :]
            r1 = frame[_clamp(first[i] + 1, size) * length :]
            r2 = frame[_clamp(first[i] + 2, size) * length :]
            r3 = frame[_clamp(first[i] + 3, size) * length :]
            for y in range(length):
                line[y] = w0 * r0[y] + w1 * r1[y] + w2 * r2[y] + w3 * r3[y]
        else:
            line[:] = 0
            for k in range(count):
                w = weights[i, k]
                r = frame[_clamp(first[i] + k, size) * length :]
                for y in range(length):
                    line[y] += w * r[y]
        for y in range(height):
            target = intermediate[y]
            target[i * 3] = line[y]
            target[i * 3 + 1] = line[height + y]
            target[i * 3 + 2] = line[2 * height + y]


@_jit
def _is_gain(colour):
    """Whether the 3 x 4 matrix is a mere brightness factor."""
    plain = True
    for row in range(3):
        for column in range(4):
            plain = plain and colour[row, column] == (colour[0, 0] if row == column else np.float32(0))
    return plain


@_jit
def _apply_colour(intermediate, height, out_size, colour):
    """Apply the 3 x 4 matrix in place; a mere brightness factor is returned instead, for the vertical weights."""
    if _is_gain(colour):
        return colour[0, 0]
    for y in range(height):
        line = intermediate[y]
        for i in range(out_size):
            r, g, b = line[3 * i], line[3 * i + 1], line[3 * i + 2]
            for c in range(3):
                line[3 * i + c] = colour[c, 0] * r + colour[c, 1] * g + colour[c, 2] * b + colour[c, 3]
    return np.float32(1)


@_jit
def _store_row(line, target):
    """Clamp and round a float32 line, then store it as ``resample`` describes for the type of ``target``.

    ``itemsize`` is a constant to the compiler, which keeps one of the loops.
    """
    half, top = np.float32(0.5), np.float32(255)
    if target.itemsize == 1:
        for x in range(len(line)):
            target[x] = np.uint8(np.int32(min(max(line[x], np.float32(0)), top) + half))
        return
    for x in range(len(line)):
        line[x] = np.float32(np.int32(min(max(line[x], np.float32(0)), top) + half))
    _store_levels(line, line, target)


@_jit
def _store_levels(levels, line, target):
    """Store a line of rounded pixel values as floats; ``line`` is float32 to work in, and may be ``levels`` itself."""
    middle, scale = np.float32(127.5), np.float32(1 / 127.5)
    if target.itemsize == 4:
        for x in range(len(target)):
            target[x] = (np.float32(levels[x]) - middle) * scale
        return
    for x in range(len(target)):
        line[x] = (np.float32(levels[x]) - middle) * scale
    bits = line.view(np.uint32)
    for x in range(len(target)):  # to the nearest, ties to even, as torch rounds
        rounded = np.uint32(bits[x] + np.uint32(0x7FFF) + ((bits[x] >> np.uint32(16)) & np.uint32(1)))
        target[x] = np.uint16(rounded >> np.uint32(16))


@_jit
def _vertical_rounded(intermediate, size, start, stop, filter, gain, out):
    """Vertical pass with the final clamp and rounding: intermediate [y][x] to out [i][x]."""
    out_size, width = out.shape
    first = np.empty(out_size, np.int64)
    weights = np.empty((out_size, _max_taps(start, stop, size, out_size)), np.float32)
    count = _taps(start, stop, size, out_size, filter, first, weights)
    line = np.empty(width, np.float32)
    for i in range(out_size):
        if count == 4:
            w0, w1 = weights[i, 0] * gain, weights[i, 1] * gain
            w2, w3 = weights[i, 2] * gain, weights[i, 3] * gain
            r0, r1 = intermediate[_clamp(first[i], size)], intermediate[_clamp(first[i] + 1, size)]
            r2, r3 = intermediate[_clamp(first[i] + 2, size)], intermediate[_clamp(first[i] + 3, size)]
            if out.itemsize == 1:  # in one pass: storing and reading the line again costs a third more
                target = out[i]
                for x in range(width):
                    value = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
                    target[x] = np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255)) + np.float32(0.5)))
                continue
            for x in range(width):
                line[x] = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
        else:
            _weighted_rows(intermediate, size, first[i], weights[i], count, gain, line)
        _store_row(line, out[i])


@_jit
def _vertical(intermediate, size, start, stop, filter, gain, result):
    """Vertical pass in float32, for images that are blurred or erased before the rounding."""
    out_size = result.shape[0]
    first = np.empty(out_size, np.int64)
    weights = np.empty((out_size, _max_taps(start, stop, size, out_size)), np.float32)
    count = _taps(start, stop, size, out_size, filter, first, weights)
    for i in range(out_size):
        _weighted_rows(intermediate, size, first[i], weights[i], count, gain, result[i])


@_jit
def _weighted_rows(intermediate, size, first, weights, count, gain, line):
    line[:] = 0
    for k in range(count):
        w = weights[k] * gain
        r = intermediate[_clamp(first + k, size)]
        for x in range(len(line)):
            line[x] += w * r[x]


@_jit
def _degrade(source, size, small, filter, degraded):
    """Downsample source [x * 3 + c][y] of ``size`` pixels to degraded [x * 3 + c][y] of ``small`` pixels."""
    intermediate = np.empty((size, small * 3), np.float32)
    _horizontal(source, size, np.float32(0), np.float32(1), filter, intermediate, small, size)
    first = np.empty(small, np.int64)
    weights = np.empty((small, _max_taps(0.0, 1.0, size, small)), np.float32)
    count = _taps(np.float32(0), np.float32(1), size, small, filter, first, weights)
    line = np.empty(small * 3, np.float32)
    for i in range(small):
        _weighted_rows(intermediate, size, first[i], weights[i], count, np.float32(1), line)
        for x in range(small * 3):
            degraded[x * small + i] = line[x]


@_jit
def _reflect(index, size):
    """Index reflected at the borders without repeating them (reflect-101), as DALI's gaussian_blur does."""
    if size == 1:
        return 0
    period = 2 * (size - 1)
    index = abs(index) % period
    return period - index if index >= size else index


@_jit
def _gaussian_blur(image, out_size, sigma):
    """Blur in place on float32 [y][x * 3 + c]; radius ceil(3 sigma), weights normalised."""
    radius = int(math.ceil(3 * sigma))
    weights = np.empty(2 * radius + 1, np.float32)
    for k in range(-radius, radius + 1):
        weights[k + radius] = math.exp(-0.5 * (k / sigma) ** 2)
    weights /= weights.sum()
    vertical = np.zeros_like(image)
    for y in range(out_size):
        for k in range(-radius, radius + 1):
            line = image[_reflect(y + k, out_size)]
            for x in range(out_size * 3):
                vertical[y, x] += weights[k + radius] * line[x]
    image[:] = 0
    for y in range(out_size):
        for x in range(out_size):
            for k in range(-radius, radius + 1):
                at = 3 * _reflect(x + k, out_size)
                for c in range(3):
                    image[y, 3 * x + c] += weights[k + radius] * vertical[y, at + c]


@_jit
def _erase(image, out_size, box):
    """Set a rectangle to ERASE_VALUE, in place on float32 [y][x * 3 + c]; ``box`` holds shares of the image."""
    x0, x1 = int(math.floor(box[0] * out_size)), int(math.ceil(box[2] * out_size))
    y0, y1 = int(math.floor(box[1] * out_size)), int(math.ceil(box[3] * out_size))
    if box[2] > box[0]:
        image[max(y0, 0) : min(y1, out_size), 3 * max(x0, 0) : 3 * min(x1, out_size)] = np.float32(ERASE_VALUE)


@_jit
def _store_rows(result, out):
    for y in range(len(out)):
        _store_row(result[y], out[y])


# Fixed point. numba knows no vectors; what the compiler makes of loops over 16-bit numbers depends on their length and
# on what it can prove about overlaps. So each of these is a few instructions on whole vectors, given in LLVM's terms.

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _at(context, builder, array_type, array, index, kind):
    """Address of an element of a contiguous array, as that of a ``kind``."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _load(builder, address, align):
    value = builder.load(address)
    value.align = align
    return value


def _splat(builder, value):
    """A vector of LANES copies."""
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _constant(element, value, count=LANES):
    return ir.Constant(ir.VectorType(element, count), [value] * count)


def _weighted_sum(builder, values, weights, bias):
    """``bias`` and the LANES int16 ``values`` times ``weights``, each product divided by 65,536 and rounded down.

    Of 32-bit products only the upper half is kept: one instruction for multiplication, division and rounding.
    """
    total, wide = _splat(builder, bias), ir.VectorType(_I32, LANES)
    for value, weight in zip(values, weights, strict=True):
        product = builder.mul(builder.sext(value, wide), builder.sext(_splat(builder, weight), wide))
        total = builder.add(total, builder.trunc(builder.ashr(product, _constant(_I32, 16)), value.type))
    return total


def _levels(builder, sixteenths):
    """uint8 pixel values of int16 ones with 16 steps a level: rounded half up, clamped."""
    levels = builder.ashr(builder.add(sixteenths, _constant(_I16, 8)), _constant(_I16, 4))
    low, high = _constant(_I16, 0), _constant(_I16, 255)
    levels = builder.select(builder.icmp_signed(">", levels, low), levels, low)
    levels = builder.select(builder.icmp_signed("<", levels, high), levels, high)
    return builder.trunc(levels, ir.VectorType(_I8, LANES))


def _weigh(frame, places, weights, i, kind, bias, at, target, element):
    """``target[at + lane]`` = ``bias`` + the sum over k of ``frame[places[i, k] + at + lane] * weights[i, k]``."""

    def generate(context, builder, signature, arguments):
        frame, places, weights, i, _, bias, at, target = arguments
        kinds, vector, values, factors = signature.args, ir.VectorType(_I16, LANES), [], []
        taps = kinds[4].count
        for k in range(taps):
            tap = builder.add(builder.mul(i, ir.Constant(_I64, taps)), ir.Constant(_I64, k))
            begin = builder.add(builder.load(_at(context, builder, kinds[1], places, tap, _I64)), at)
            values.append(_load(builder, _at(context, builder, kinds[0], frame, begin, vector), 2))
            factors.append(builder.load(_at(context, builder, kinds[2], weights, tap, _I16)))
        total = _weighted_sum(builder, values, factors, bias)
        if element is _I8:
            total = _levels(builder, total)
        address = _at(context, builder, kinds[7], target, at, ir.VectorType(element, LANES))
        builder.store(total, address).align = 1
        return context.get_dummy_value()

    return types.void(frame, places, weights, types.intp, kind, types.int16, types.intp, target), generate


@intrinsic
def _weigh_into_fixed(typing_context, frame, places, weights, i, kind, bias, at, target):
    return _weigh(frame, places, weights, i, kind, bias, at, target, _I16)


@intrinsic
def _weigh_into_levels(typing_context, frame, places, weights, i, kind, bias, at, target):
    return _weigh(frame, places, weights, i, kind, bias, at, target, _I8)


@intrinsic
def _move_pixel(typing_context, source, at, target, to):
    """Copy four int16."""

    def generate(context, builder, signature, arguments):
        source, at, target, to = arguments
        value = _load(builder, _at(context, builder, signature.args[0], source, at, _I64), 2)
        builder.store(value, _at(context, builder, signature.args[2], target, to, _I64)).align = 2
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic
def _widen_pixel(typing_context, source, at, target, to):
    """Four uint8 to int16 of 128 steps a level."""

    def generate(context, builder, signature, arguments):
        source, at, target, to = arguments
        four, wide = ir.VectorType(_I8, 4), ir.VectorType(_I16, 4)
        value = builder.zext(_load(builder, _at(context, builder, signature.args[0], source, at, four), 1), wide)
        value = builder.shl(value, _constant(_I16, 7, 4))
        builder.store(value, _at(context, builder, signature.args[2], target, to, wide)).align = 2
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@_jit
def _is_fixed_gain(colour):
    return _is_gain(colour) and 0 <= colour[0, 0] <= MOST_GAIN


@_jit
def _fixed_taps(box, size, out_size):
    """Taps to compute in fixed point with: 4 or 6; 0 where it takes more, or a row is shorter than a vector."""
    taps = max(_axis_taps(box[0], box[2], size, out_size), _axis_taps(box[1], box[3], size, out_size))
    return taps if 3 * out_size >= LANES and taps <= 6 else 0


@_jit
def _axis_taps(start, stop, size, out_size):
    """Taps of the cubic filter, as ``_taps`` counts them."""
    filter_scale = max(1.0, abs((np.float64(stop) - np.float64(start)) * size / out_size))
    return 4 if filter_scale == 1.0 else int(math.ceil(4 * filter_scale)) + 1


@_jit
def _widen(pixels, size, pitch, source):
    """uint8 [y][x * 3 + c] to int16 [x][y * 4 + c] of 128 steps a level, rows of ``pitch``."""
    for y in range(size):
        for x in range(size - (y == size - 1)):  # four bytes are read at a time: not beyond the last pixel
            _widen_pixel(pixels, (y * size + x) * 3, source, x * pitch + y * 4)
    last = size - 1
    for c in range(3):
        source[last * pitch + last * 4 + c] = np.int16(pixels[(size * size - 1) * 3 + c]) << 7


@_jit
def _fixed_weights(start, stop, size, out_size, kind, scale, pitch):
    """Taps of one axis: where the row of each begins, int64 [out_size, taps]; its weight times ``scale``, int16 alike;
    and int16 [out_size]: half the number of weights that are not 0, which rounding their products down takes away.
    """
    taps = len(kind)
    first = np.empty(out_size, np.int64)
    weights = np.empty((out_size, _max_taps(start, stop, size, out_size)), np.float32)
    count = _taps(start, stop, size, out_size, CUBIC, first, weights)
    places, scaled = np.empty((out_size, taps), np.int64), np.empty((out_size, taps), np.int16)
    bias = np.empty(out_size, np.int16)
    half, largest = np.float32(0.5), np.float32(32767)
    for i in range(out_size):
        rounded = 0
        for k in range(taps):
            places[i, k] = _clamp(first[i] + k, size) * pitch
            weight = weights[i, k] if k < count else np.float32(0)
            scaled[i, k] = np.int16(math.floor(min(weight * scale + half, largest)))
            rounded += scaled[i, k] != 0
        bias[i] = rounded // 2
    return places, scaled, bias


@_jit
def _fixed(source, size, pitch, box, gain, kind, intermediate, out):
    """Both passes in fixed point, with as many taps as ``kind`` is long.

    source [x][y * 4 + c] becomes intermediate [y][i * 3 + c] of 64 steps a level, and that out [i][x]; before the last
    rounding there are 16 steps a level. Pixels of the intermediate are written four numbers wide, from left to right:
    the next one overwrites the fourth.
    """
    out_size, width = out.shape
    places, weights, bias = _fixed_weights(box[0], box[2], size, out_size, kind, np.float32(1 << 15), pitch)
    line = np.empty(pitch, np.int16)
    for i in range(out_size):
        for at in range(0, pitch, LANES):
            _weigh_into_fixed(source, places, weights, i, kind, bias[i], at, line)
        for y in range(size):
            _move_pixel(line, 4 * y, intermediate, y * (width + 1) + 3 * i)
    scale = np.float32(1 << 14) * gain
    places, weights, bias = _fixed_weights(box[1], box[3], size, out_size, kind, scale, width + 1)
    levels, normalised = np.empty(width, np.uint8), np.empty(width, np.float32)
    for i in range(out_size):
        if out.itemsize == 1:
            _fixed_row(intermediate, places, weights, i, kind, bias[i], out[i])
        else:
            _fixed_row(intermediate, places, weights, i, kind, bias[i], levels)
            _store_levels(levels, normalised, out[i])


@_jit
def _fixed_row(intermediate, places, weights, i, kind, bias, levels):
    """One row of the vertical pass, as pixel values."""
    for begin in range(0, len(levels), LANES):
        at = min(begin, len(levels) - LANES)  # the last vector may overlap the one before
        _weigh_into_levels(intermediate, places, weights, i, kind, bias, at, levels)
