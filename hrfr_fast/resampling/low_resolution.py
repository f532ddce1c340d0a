"""The degradation chain (see ``sampling.degradation``) as numba kernels: sharp pictures to small ones of whole levels.

Blur and downsampling are linear, so one matrix an axis holds both; noise and JPEG then work on the few pixels that are
left. ``cpu.resample`` continues with the result. numba keeps compiled kernels until their own file changes: after a
change of ``_taps`` in ``cpu.py`` or of the constants of ``jpeg.py`` touch this one.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from hrfr_fast.resampling.cpu import _reflect, _taps
from hrfr_fast.resampling.jpeg import (
    BLUE_OF_CB,
    GREEN_OF_CB,
    GREEN_OF_CR,
    MATRIX_BITS,
    PASS_BITS,
    RED_OF_CR,
    TO_YCC,
    TO_YCC_BIAS,
    dct_matrix,
    quantisation_tables,
)
from hrfr_fast.runtime.caches import numba_keeps_kernels
from hrfr_fast.runtime.philox import MULTIPLIER_0, MULTIPLIER_1, ROUNDS, WEYL_0, WEYL_1
from hrfr_fast.runtime.philox import NOISE as NOISE_PURPOSE
from hrfr_fast.sampling.augmentation import Augmentation
from hrfr_fast.sampling.degradation import NOISE_SUM, NOISE_UNIT

_KEPT = numba_keeps_kernels()
_jit = numba.njit(cache=_KEPT, nogil=True)
TABLES, DCT = quantisation_tables(), dct_matrix()
NOISE_TAG = np.uint64(NOISE_PURPOSE << 16)
LOW_WORD, WORD = np.uint64(0xFFFFFFFF), np.uint64(32)


def low_resolution(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], size: int, augmentation: Augmentation
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The degraded pictures of the images whose ``augmentation.order`` is not negative.

    Args:
        data, offsets, size, augmentation: as ``cpu.resample`` has them, of B images.

    Returns:
        uint8 [bytes], the pictures one after the other, each degrade x degrade x 3; and int64 [B], where each begins,
        -1 for an image without.
    """
    begins, chosen = np.full(len(offsets), -1, np.int64), np.flatnonzero(augmentation.order >= 0)
    if not len(chosen):
        return np.empty(0, np.uint8), begins
    lengths = 3 * augmentation.degrade[chosen].astype(np.int64) ** 2
    begins[chosen] = np.cumsum(lengths) - lengths
    pictures = np.empty(int(lengths.sum()), np.uint8)
    data = data.view(np.ndarray)
    data.flags.writeable = False
    a = augmentation.take(chosen)
    _degrade_batch(
        data, offsets[chosen], size, a.degrade, a.filter, a.order, a.optics, a.noise, a.noise_key, a.jpeg,
        pictures, begins[chosen],
    )  # fmt: skip
    return pictures, begins


def low_resolution_images(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], size: int, augmentation: Augmentation
) -> list[NDArray[np.uint8] | None]:
    """``low_resolution`` as one uint8 [small, small, 3] an image, None where there is none."""
    pictures, begins = low_resolution(data, offsets, size, augmentation)
    sides = augmentation.degrade.tolist()
    return [
        pictures[begin : begin + 3 * side * side].reshape(side, side, 3) if begin >= 0 else None
        for begin, side in zip(begins.tolist(), sides, strict=True)
    ]


@numba.njit(cache=_KEPT, parallel=True, nogil=True)
def _degrade_batch(data, offsets, size, degrade, filter, order, optics, noise, noise_key, jpeg, pictures, begins):
    for b in numba.prange(len(offsets)):
        small = degrade[b]
        pixels = data[offsets[b] : offsets[b] + size * size * 3].reshape(size, size * 3)
        picture = pictures[begins[b] : begins[b] + small * small * 3].reshape(small, small * 3)
        values = np.empty((small, small * 3), np.float32)
        _shrink(pixels, _matrix(size, small, filter[b], optics[b], order[b]), values)
        noisy, compressed_first = noise[b, 0] > 0 or noise[b, 1] > 0, jpeg[b] > 0 and order[b] % 2 == 1
        if noisy and not compressed_first:
            _add_noise(values, noise[b], noise_key[b])
        _round(values, picture)
        if jpeg[b] > 0:
            _compress(picture, jpeg[b])
        if noisy and compressed_first:
            for y in range(small):
                for x in range(small * 3):
                    values[y, x] = picture[y, x]
            _add_noise(values, noise[b], noise_key[b])
            _round(values, picture)


@_jit
def _matrix(size, small, filter, optics, order):
    """float32 [small, size] of one axis: blur and downsampling, in the order asked for."""
    from_cpu = np.empty((small, int(math.ceil(6 * size / small)) + 2), np.float32)
    first = np.empty(small, np.int64)
    count = _taps(np.float32(0), np.float32(1), size, small, filter, first, from_cpu)
    down = np.zeros((small, size))
    for i in range(small):
        for k in range(count):
            down[i, min(max(first[i] + k, 0), size - 1)] += from_cpu[i, k]
    if optics > 0:
        after = order >= 2
        blurred_size = small if after else size
        sigma = np.float64(optics) * blurred_size
        radius = int(math.ceil(3 * sigma))
        weights = np.empty(2 * radius + 1)
        for k in range(-radius, radius + 1):
            weights[k + radius] = math.exp(-0.5 * (k / sigma) ** 2)
        weights /= weights.sum()
        blurred = np.zeros((small, size))
        for i in range(small):
            if after:
                for k in range(-radius, radius + 1):
                    source = _reflect(i + k, small)
                    for j in range(size):
                        blurred[i, j] += weights[k + radius] * down[source, j]
            else:
                for j in range(size):
                    if down[i, j] != 0:
                        for k in range(-radius, radius + 1):
                            blurred[i, _reflect(j + k, size)] += weights[k + radius] * down[i, j]
        down = blurred
    return down.astype(np.float32)


@_jit
def _shrink(pixels, matrix, values):
    """uint8 [size][x * 3 + c] to float32 [small][x * 3 + c] by the same ``matrix`` along both axes."""
    small, size = matrix.shape
    line = np.empty(size * 3, np.float32)
    for i in range(small):
        line[:] = 0
        for j in range(size):
            weight = matrix[i, j]
            if weight != 0:
                for x in range(size * 3):
                    line[x] += weight * np.float32(pixels[j, x])
        for k in range(small):
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            for j in range(size):
                weight = matrix[k, j]
                if weight != 0:
                    red += weight * line[3 * j]
                    green += weight * line[3 * j + 1]
                    blue += weight * line[3 * j + 2]
            values[i, 3 * k], values[i, 3 * k + 1], values[i, 3 * k + 2] = red, green, blue


@_jit
def _round(values, picture):
    """Clamp and round half up."""
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            picture[y, x] = np.uint8(np.int32(min(max(values[y, x], np.float32(0)), np.float32(255)) + np.float32(0.5)))


@_jit
def _add_noise(values, spread, key):
    """Add to pixel y * small + x the numbers that Philox gives for it; the sums are exact below 2**24."""
    small = values.shape[0]
    for y in range(small):
        for x in range(small):
            words = _words(np.uint64(key), np.uint64(y * small + x))
            grey = _bytes_sum(words[3]) * np.int64(spread[1])
            for c in range(3):
                units = _bytes_sum(words[c]) * np.int64(spread[0]) + grey
                values[y, 3 * x + c] += np.float32(units) * np.float32(NOISE_UNIT)


@_jit
def _bytes_sum(word):
    """Sum of a word's four bytes less its mean."""
    total = np.int64(0)
    for shift in range(0, 32, 8):
        total += np.int64((word >> np.uint64(shift)) & np.uint64(255))
    return total - NOISE_SUM


@_jit
def _words(key, position):
    """``philox(key, 0, position, purpose=NOISE)``, see ``runtime.philox``."""
    c0, c1, c2, c3 = position, np.uint64(0), NOISE_TAG, np.uint64(0)
    key_0, key_1 = key & LOW_WORD, key >> WORD
    for _ in range(ROUNDS):
        product_0, product_1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1 = (product_1 >> WORD) ^ c1 ^ key_0, product_1 & LOW_WORD
        c2, c3 = (product_0 >> WORD) ^ c3 ^ key_1, product_0 & LOW_WORD
        key_0, key_1 = (key_0 + np.uint64(WEYL_0)) & LOW_WORD, (key_1 + np.uint64(WEYL_1)) & LOW_WORD
    return c0, c1, c2, c3


@_jit
def _compress(picture, quality):
    """JPEG's effect on uint8 [small][x * 3 + c], in place."""
    small = picture.shape[0]
    planes = np.empty((3, 8, 8), np.int64)
    for top in range(0, small, 8):
        for left in range(0, small, 8):
            for y in range(8):
                line = picture[min(top + y, small - 1)]
                for x in range(8):
                    at = 3 * min(left + x, small - 1)
                    red, green, blue = np.int64(line[at]), np.int64(line[at + 1]), np.int64(line[at + 2])
                    for c in range(3):
                        total = TO_YCC[c, 0] * red + TO_YCC[c, 1] * green + TO_YCC[c, 2] * blue + TO_YCC_BIAS[c]
                        planes[c, y, x] = (total >> 16) - 128
            for c in range(3):
                _quantise(planes[c], TABLES[quality, c])
            for y in range(min(8, small - top)):
                for x in range(min(8, small - left)):
                    luma, cb, cr = planes[0, y, x] + 128, planes[1, y, x], planes[2, y, x]
                    at = 3 * (left + x)
                    picture[top + y, at] = _level(luma + ((RED_OF_CR * cr + 32768) >> 16))
                    picture[top + y, at + 1] = _level(luma + ((GREEN_OF_CB * cb + GREEN_OF_CR * cr + 32768) >> 16))
                    picture[top + y, at + 2] = _level(luma + ((BLUE_OF_CB * cb + 32768) >> 16))


@_jit
def _level(value):
    return np.uint8(min(max(value, 0), 255))


@_jit
def _rounded(value, bits):
    """``value`` / 2**bits, rounded half up."""
    return (value + (np.int64(1) << (bits - 1))) >> bits


@_jit
def _quantise(block, table):
    """The 8x8 block, int64 less 128, as it is after DCT, quantisation, and their inverse, in place."""
    half = np.empty((8, 8), np.int64)
    for y in range(8):
        for v in range(8):
            total = np.int64(0)
            for x in range(8):
                total += block[y, x] * DCT[v, x]
            half[y, v] = _rounded(total, MATRIX_BITS - PASS_BITS)
    for u in range(8):
        for v in range(8):
            total = np.int64(0)
            for y in range(8):
                total += DCT[u, y] * half[y, v]
            coefficient, step = _rounded(total, MATRIX_BITS + PASS_BITS), 8 * table[u, v]
            steps = (abs(coefficient) + step // 2) // step
            block[u, v] = (steps if coefficient >= 0 else -steps) * table[u, v]
    for y in range(8):
        for v in range(8):
            total = np.int64(0)
            for u in range(8):
                total += DCT[u, y] * block[u, v]
            half[y, v] = _rounded(total, MATRIX_BITS - PASS_BITS)
    for y in range(8):
        for x in range(8):
            total = np.int64(0)
            for v in range(8):
                total += half[y, v] * DCT[v, x]
            block[y, x] = min(max(_rounded(total, MATRIX_BITS + PASS_BITS + 3), -128), 127)
