"""The one resampling definition, and its kernel for CPUs.

Definition (Keys 1981 with a = -0.5, scaled by the shrink factor as PIL and DALI do): the centre of output pixel i
lies at ``c = x0 + (i + 0.5) * step`` in source pixels, ``step = (x1 - x0) / out``; source pixel j (centre j + 0.5)
weighs ``k((j + 0.5 - c) / s)`` with ``s = max(1, |step|)``, the weights normalised to sum 1; a tap beyond the edge
reads the edge pixel; float32 between the two passes; one clamp and one rounding (half up) at the end. The box kernel
is 1 where -0.5 + TIE < t <= 0.5 + TIE: pixels do fall on its edges (36 -> 24), and without the nudge rounding errors
would decide whether they count, which is worth up to 24 levels.

The kernel's loop order is what makes it fast: the x pass runs with the *rows* as the vector dimension, on a
transposed copy of the source, the y pass with whole output rows; and the colour matrix is applied between them,
on the smaller picture, which is exact because all three steps are linear and the y weights sum to 1. With
per-picture boxes 36 -> 144 px this gives several times the straightforward loop, see benchmarks/RESULTS.md.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.caches import numba_keeps_kernels
from hrfr_fast.sampling.augmentation import Augmentation

CUBIC, LINEAR, BOX = range(3)
ERASE_LEVEL = 128
TIE = 1e-4  # below 1 / (2 size), the least distance from an edge that is not a tie; above the errors of float32
CHUNK = 8  # pictures that share one set of scratch buffers

_KEPT = numba_keeps_kernels()
_jit = numba.njit(cache=_KEPT, fastmath={"contract", "nsz", "arcp", "nnan", "ninf"}, nogil=True)


def resample(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    size: int,
    augmentation: Augmentation,
    out: NDArray[Any],
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Execute ``augmentation`` on B raw pictures, on all cores.

    Args:
        data: uint8 [bytes], where the pictures lie (a memory map will do).
        offsets: int64 [B], where each begins; each is size x size x 3 bytes, RGB.
        size: side of the sources in pixels.
        augmentation: B rows.
        out: [N, S, S, 3], written in place. uint8: levels. float32, or uint16 for the bits of a bfloat16:
            (level - 127.5) / 127.5 of the same rounded levels. Written so, a normalised batch costs one pass over
            memory instead of four.
        rows: int64 [B], the row of ``out`` each picture goes to; None: 0 .. B - 1.
    """
    rows = np.arange(len(offsets)) if rows is None else rows
    data = data.view(np.ndarray)
    data.flags.writeable = False  # of this view: memory maps are read-only, and one kind compiles one kernel
    _resample_batch(data, offsets, size, *augmentation, out, rows)


def shrink(picture: NDArray[np.uint8], small: int, kernel: int) -> NDArray[np.float32]:
    """Degrade one uint8 [size, size, 3] to float32 levels [small, small, 3] with ``kernel`` (of FILTERS), unrounded."""
    return np.asarray(_shrink(np.ascontiguousarray(picture).reshape(-1), picture.shape[0], small, kernel))


@_jit
def _shrink(pixels, size, small, kernel):
    source = np.empty(size * 3 * size, np.float32)
    shrunk = np.empty(small * 3 * small, np.float32)
    _transpose_in(pixels, size, source)
    _degrade(source, size, small, kernel, shrunk)
    out = np.empty((small, small, 3), np.float32)
    for y in range(small):
        for x in range(small):
            for c in range(3):
                out[y, x, c] = shrunk[(x * 3 + c) * small + y]
    return out


def copy_records(data: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Copy the records at ``offsets`` (int64 [B]) of ``data`` into the rows of ``out`` (uint8, B rows, contiguous)."""
    data = data.view(np.ndarray)
    data.flags.writeable = False
    _copy_records(data, offsets, out.reshape(len(out), math.prod(out.shape[1:])))


@_jit
def _copy_records(data, offsets, out):
    for b in range(len(offsets)):
        out[b] = data[offsets[b] : offsets[b] + out.shape[1]]


@numba.njit(cache=_KEPT, parallel=True, nogil=True)
def _resample_batch(data, offsets, size, box, colour, degrade, kernel, blur, erase, out, rows):
    side = out.shape[1]
    largest = max(size, np.max(degrade)) if len(degrade) else size
    for chunk in numba.prange((len(offsets) + CHUNK - 1) // CHUNK):
        source = np.empty(size * 3 * size, np.float32)  # [x][channel][y]: transposed
        shrunk = np.empty(largest * 3 * largest, np.float32)
        between = np.empty((largest, side * 3), np.float32)
        result = np.empty((side, side * 3), np.float32)
        for b in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(offsets))):
            _transpose_in(data[offsets[b] : offsets[b] + size * size * 3], size, source)
            frame, frame_size = source, size
            if degrade[b] > 0 and degrade[b] != size:
                _degrade(source, size, degrade[b], kernel[b], shrunk)
                frame, frame_size = shrunk, degrade[b]
            x0, y0, x1, y1 = box[b, 0], box[b, 1], box[b, 2], box[b, 3]
            _horizontal(frame, frame_size, x0, x1, CUBIC, between, side, frame_size)
            gain = _apply_colour(between, frame_size, side, colour[b])
            if blur[b] > 0 or erase[b, 2] > erase[b, 0]:
                _vertical(between, frame_size, y0, y1, gain, result)
                if blur[b] > 0:
                    _gaussian_blur(result, side, blur[b] * side)
                _erase(result, side, erase[b])
                _round_out(result, out[rows[b]].reshape(side, side * 3))
            else:
                _vertical_rounded(between, frame_size, y0, y1, gain, out[rows[b]].reshape(side, side * 3))


@_jit
def _transpose_in(pixels, size, source):
    """uint8 [y][x * 3 + c] to float32 [x * 3 + c][y]."""
    for y in range(size):
        line = pixels[y * size * 3 : (y + 1) * size * 3]
        for x in range(size * 3):
            source[x * size + y] = line[x]


@_jit
def _weight(t, kernel):
    if kernel == BOX:
        return 1.0 if -0.5 + TIE < t <= 0.5 + TIE else 0.0
    t = abs(t)
    if kernel == CUBIC:
        if t < 1:
            return (1.5 * t - 2.5) * t * t + 1
        if t < 2:
            return ((-0.5 * t + 2.5) * t - 4) * t + 2
        return 0.0
    return max(1 - t, 0.0)


@_jit
def _taps(start, stop, size, side, kernel, first, weights):
    """Fill ``first`` [side] and ``weights`` [side, taps]; returns the number of taps.

    Positions in float64: a float32 position near 144 is off by 1e-5 px, which noise shows as 0.01 levels.
    """
    step = (np.float64(stop) - np.float64(start)) * size / side
    stretch = max(1.0, abs(step))
    radius = (2.0 if kernel == CUBIC else 1.0 if kernel == LINEAR else 0.5) * stretch
    count = min(int(math.ceil(2 * radius)) + (0 if stretch == 1.0 else 1), weights.shape[1])
    if kernel == CUBIC and stretch == 1.0:
        _cubic_taps(np.float64(start) * size, step, side, first, weights)
        return count
    for i in range(side):
        centre = np.float64(start) * size + (i + 0.5) * step
        low = int(math.floor(centre - radius + 0.5 + TIE * stretch))
        total = 0.0
        for k in range(count):
            weight = _weight((low + k + 0.5 - centre) / stretch, kernel)
            weights[i, k] = weight
            total += weight
        for k in range(count):
            weights[i, k] /= total
        first[i] = low
    return count


@_jit
def _cubic_taps(origin, step, side, first, weights):
    """The four taps of the cubic that does not shrink, without branches; they sum to 1 by themselves."""
    for i in range(side):
        at = origin + (i + 0.5) * step - 0.5
        low = math.floor(at)
        t = at - low
        first[i] = int(low) - 1
        weights[i, 0] = ((-0.5 * t + 1) * t - 0.5) * t
        weights[i, 1] = (1.5 * t - 2.5) * t * t + 1
        weights[i, 2] = ((-1.5 * t + 2) * t + 0.5) * t
        weights[i, 3] = (0.5 * t - 0.5) * t * t


@_jit
def _most_taps(start, stop, size, side):
    return int(math.ceil(4 * max(1.0, abs(stop - start) * size / side))) + 2


@_jit
def _clip(index, size):
    return min(max(index, 0), size - 1)


@_jit
def _horizontal(frame, size, start, stop, kernel, between, side, lines):
    """x pass: frame [x][c][y] to between [y][i * 3 + c].

    Vectorised over channels and the ``lines`` rows y together: they lie in one piece.
    """
    first = np.empty(side, np.int64)
    weights = np.empty((side, _most_taps(start, stop, size, side)), np.float32)
    count = _taps(start, stop, size, side, kernel, first, weights)
    length = 3 * lines
    line = np.empty(length, np.float32)
    for i in range(side):
        if count == 4:
            w0, w1, w2, w3 = weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3]
            r0 = frame[_clip(first[i], size) * length :]
            r1 = frame[_clip(first[i] + 1, size) * length :]
            r2 = frame[_clip(first[i] + 2, size) * length :]
            r3 = frame[_clip(first[i] + 3, size) * length :]
            for y in range(length):
                line[y] = w0 * r0[y] + w1 * r1[y] + w2 * r2[y] + w3 * r3[y]
        else:
            line[:] = 0
            for k in range(count):
                w = weights[i, k]
                r = frame[_clip(first[i] + k, size) * length :]
                for y in range(length):
                    line[y] += w * r[y]
        for y in range(lines):
            target = between[y]
            target[i * 3] = line[y]
            target[i * 3 + 1] = line[lines + y]
            target[i * 3 + 2] = line[2 * lines + y]


@_jit
def _apply_colour(between, lines, side, colour):
    """Apply the 3 x 4 matrix in place; a plain brightness factor is returned instead, to go into the y weights."""
    gain = colour[0, 0]
    plain = True
    for row in range(3):
        for column in range(4):
            plain = plain and colour[row, column] == (gain if row == column else np.float32(0))
    if plain:
        return gain
    for y in range(lines):
        line = between[y]
        for i in range(side):
            r, g, b = line[3 * i], line[3 * i + 1], line[3 * i + 2]
            for c in range(3):
                line[3 * i + c] = colour[c, 0] * r + colour[c, 1] * g + colour[c, 2] * b + colour[c, 3]
    return np.float32(1)


@_jit
def _put_line(line, target):
    """Clamp and round a float32 line, then store it as ``resample`` describes for the type of ``target``.

    ``itemsize`` is a constant to the compiler, which keeps one of the three loops.
    """
    half, top, middle, scale = np.float32(0.5), np.float32(255), np.float32(127.5), np.float32(1 / 127.5)
    if target.itemsize == 1:
        for x in range(len(line)):
            target[x] = np.uint8(np.int32(min(max(line[x], np.float32(0)), top) + half))
        return
    for x in range(len(line)):
        line[x] = (np.float32(np.int32(min(max(line[x], np.float32(0)), top) + half)) - middle) * scale
    if target.itemsize == 4:
        for x in range(len(line)):
            target[x] = line[x]
    else:
        bits = line.view(np.uint32)
        for x in range(len(line)):  # to the nearest, ties to even, as torch rounds
            rounded = np.uint32(bits[x] + np.uint32(0x7FFF) + ((bits[x] >> np.uint32(16)) & np.uint32(1)))
            target[x] = np.uint16(rounded >> np.uint32(16))


@_jit
def _vertical_rounded(between, size, start, stop, gain, out):
    """y pass with the final clamp and rounding: between [y][x] to out [i][x]."""
    side, width = out.shape
    first = np.empty(side, np.int64)
    weights = np.empty((side, _most_taps(start, stop, size, side)), np.float32)
    count = _taps(start, stop, size, side, CUBIC, first, weights)
    line = np.empty(width, np.float32)
    for i in range(side):
        if count == 4:
            w0, w1 = weights[i, 0] * gain, weights[i, 1] * gain
            w2, w3 = weights[i, 2] * gain, weights[i, 3] * gain
            r0, r1 = between[_clip(first[i], size)], between[_clip(first[i] + 1, size)]
            r2, r3 = between[_clip(first[i] + 2, size)], between[_clip(first[i] + 3, size)]
            if out.itemsize == 1:  # in one pass: storing and reading the line again costs a third more
                target = out[i]
                for x in range(width):
                    value = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
                    target[x] = np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255)) + np.float32(0.5)))
                continue
            for x in range(width):
                line[x] = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
        else:
            _weighted_rows(between, size, first[i], weights[i], count, gain, line)
        _put_line(line, out[i])


@_jit
def _vertical(between, size, start, stop, gain, result):
    """y pass in float32, for what still comes before the rounding."""
    side = result.shape[0]
    first = np.empty(side, np.int64)
    weights = np.empty((side, _most_taps(start, stop, size, side)), np.float32)
    count = _taps(start, stop, size, side, CUBIC, first, weights)
    for i in range(side):
        _weighted_rows(between, size, first[i], weights[i], count, gain, result[i])


@_jit
def _weighted_rows(between, size, first, weights, count, gain, line):
    line[:] = 0
    for k in range(count):
        w = weights[k] * gain
        r = between[_clip(first + k, size)]
        for x in range(len(line)):
            line[x] += w * r[x]


@_jit
def _degrade(source, size, small, kernel, shrunk):
    """source [x * 3 + c][y] of side ``size`` to shrunk [x * 3 + c][y] of side ``small``, both passes."""
    between = np.empty((size, small * 3), np.float32)
    _horizontal(source, size, np.float32(0), np.float32(1), kernel, between, small, size)
    first = np.empty(small, np.int64)
    weights = np.empty((small, _most_taps(0.0, 1.0, size, small)), np.float32)
    count = _taps(np.float32(0), np.float32(1), size, small, kernel, first, weights)
    line = np.empty(small * 3, np.float32)
    for i in range(small):
        _weighted_rows(between, size, first[i], weights[i], count, np.float32(1), line)
        for x in range(small * 3):
            shrunk[x * small + i] = line[x]


@_jit
def _reflect(index, size):
    """Reflect-101, as DALI's gaussian_blur does at borders."""
    if size == 1:
        return 0
    period = 2 * (size - 1)
    index = abs(index) % period
    return period - index if index >= size else index


@_jit
def _gaussian_blur(picture, side, sigma):
    """In place on float32 [y][x * 3 + c]; radius ceil(3 sigma), weights normalised."""
    radius = int(math.ceil(3 * sigma))
    weights = np.empty(2 * radius + 1, np.float32)
    for k in range(-radius, radius + 1):
        weights[k + radius] = math.exp(-0.5 * (k / sigma) ** 2)
    weights /= weights.sum()
    other = np.zeros_like(picture)
    for y in range(side):
        for k in range(-radius, radius + 1):
            line = picture[_reflect(y + k, side)]
            for x in range(side * 3):
                other[y, x] += weights[k + radius] * line[x]
    picture[:] = 0
    for y in range(side):
        for x in range(side):
            for k in range(-radius, radius + 1):
                at = 3 * _reflect(x + k, side)
                for c in range(3):
                    picture[y, 3 * x + c] += weights[k + radius] * other[y, at + c]


@_jit
def _erase(picture, side, box):
    """In place on float32 [y][x * 3 + c]."""
    x0, x1 = int(math.floor(box[0] * side)), int(math.ceil(box[2] * side))
    y0, y1 = int(math.floor(box[1] * side)), int(math.ceil(box[3] * side))
    if box[2] > box[0]:
        picture[max(y0, 0) : min(y1, side), 3 * max(x0, 0) : 3 * min(x1, side)] = np.float32(ERASE_LEVEL)


@_jit
def _round_out(result, out):
    for y in range(len(out)):
        _put_line(result[y], out[y])
