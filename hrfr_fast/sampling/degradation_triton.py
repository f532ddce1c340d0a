"""``draw_degradation`` inside GPU kernels: each program draws the degradation of its own image, equal to the last bit.

The kernels need ``enable_fp_fusion=False``, see ``augmentation_triton``, with whose settings these share an array.
"""

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray

from hrfr_fast.runtime.philox import NOISE
from hrfr_fast.sampling.augmentation import FILTERS
from hrfr_fast.sampling.augmentation_triton import FIELDS, draw, draw_words, kernel_settings
from hrfr_fast.sampling.degradation import (
    FEWEST_PIXELS,
    FIRST_BLOCK,
    NOISE_SPREAD,
    NOISE_SUM,
    NOISE_UNIT,
    ORDERS,
    weighted_names,
)
from hrfr_fast.settings import AugmentSettings, DegradationSettings

RANGES = ("side", "blur", "noise")
"""Of each the least value and the width of the range, which a uniform number spans."""
CHANCES = ("blur", "noise", "noise_grey", "jpeg")
CHOICES = ("down", "up", "orders")
"""Of each where its list begins in the array, and its length K: K indices, then K bounds."""

FIRST = len(FIELDS)
SIDE, SIGMA, SPREAD = (tl.constexpr(FIRST + 2 * number) for number in range(3))
BLURRED, NOISY, GREY_NOISE, COMPRESSED = (tl.constexpr(FIRST + 6 + number) for number in range(4))
QUALITY, QUALITIES = tl.constexpr(FIRST + 10), tl.constexpr(FIRST + 11)
DOWN, UP, ORDER = (tl.constexpr(FIRST + 12 + 2 * number) for number in range(3))
LISTS = FIRST + 18
"""Where the settings' numbers stand, and the lists behind them."""

BLOCK = tl.constexpr(FIRST_BLOCK)
FEWEST = tl.constexpr(FEWEST_PIXELS)
UNITS_EACH = tl.constexpr(float(np.float32(NOISE_SPREAD * NOISE_UNIT)))
UNIT, MEAN_SUM = tl.constexpr(NOISE_UNIT), tl.constexpr(NOISE_SUM)
NOISE_TAG = tl.constexpr(NOISE << 16)
EVEN = tl.constexpr(1.5 * 2.0**23)
"""A float32 below 2**22 plus this and less it again is rounded to a whole number, half to even, as NumPy's rint is."""


def native_settings(augment: AugmentSettings, degradation: DegradationSettings) -> NDArray[np.float32]:
    """float32 [n]: the settings of every view, as ``kernel_settings`` has them, and those of the degradation."""
    values: list[float] = []
    for name in RANGES:
        low, high = getattr(degradation, f"{name}_min"), getattr(degradation, f"{name}_max")
        values += [low, high - low]
    values += [getattr(degradation, name) for name in CHANCES]
    values += [degradation.jpeg_min, degradation.jpeg_max - degradation.jpeg_min + 1]
    lists: list[float] = []
    for setting, known in zip(CHOICES, (FILTERS, FILTERS, ORDERS), strict=True):
        indices, bounds = weighted_names(getattr(degradation, setting), known, setting)
        values += [LISTS + len(lists), len(indices)]
        # Drawn numbers are multiples of 2**-24: bounds rounded up to such are float32 and part them the same way.
        lists += [*indices.tolist(), *(np.ceil(bounds * 2**24) / 2**24).tolist()]
    return np.concatenate([kernel_settings(augment), np.array(values + lists, np.float32)])


@triton.jit
def _between(settings, name: tl.constexpr, drawn):
    """Uniform in the range that begins at ``settings[name]`` and is ``settings[name + 1]`` wide."""
    return tl.load(settings + name) + tl.load(settings + name + 1) * drawn


@triton.jit
def _chosen(settings, name: tl.constexpr, drawn):
    """int32: the index that ``drawn`` falls on, in the list of ``settings[name]``."""
    begin, count = tl.load(settings + name).to(tl.int32), tl.load(settings + name + 1).to(tl.int32)
    at = count * 0
    for entry in range(count):
        at += (drawn >= tl.load(settings + begin + count + entry)).to(tl.int32)
    return tl.load(settings + begin + at).to(tl.int32)


@triton.jit
def _whole(value):
    return ((value + EVEN) - EVEN).to(tl.int32)


@triton.jit
def draw_small(settings, seed, epoch, position, SIZE: tl.constexpr, VIEW: tl.constexpr):
    """Side in pixels, downsampling filter (both int32), and sigma of the blur as a share of the frame (0: none)."""
    side, chance, sigma, _ = draw(seed, epoch, position, BLOCK, VIEW)
    down, _, _, _ = draw(seed, epoch, position, BLOCK + 1, VIEW)
    small = tl.minimum(tl.maximum(_whole(_between(settings, SIDE, side) * SIZE), tl.minimum(FEWEST, SIZE)), SIZE)
    optics = tl.where(chance < tl.load(settings + BLURRED), _between(settings, SIGMA, sigma), 0.0)
    return small, _chosen(settings, DOWN, down), optics


@triton.jit
def draw_order(settings, seed, epoch, position, VIEW: tl.constexpr):
    """int32, an index into ORDERS."""
    _, _, _, order = draw(seed, epoch, position, BLOCK, VIEW)
    return _chosen(settings, ORDER, order)


@triton.jit
def draw_up(settings, seed, epoch, position, VIEW: tl.constexpr):
    """int32, an index into FILTERS: the filter of the upscaling."""
    _, up, _, _ = draw(seed, epoch, position, BLOCK + 1, VIEW)
    return _chosen(settings, UP, up)


@triton.jit
def draw_spread(settings, seed, epoch, position, VIEW: tl.constexpr):
    """Spread of each channel's own noise and of that which all share, int32 in units, and the key, two uint32."""
    _, _, chance, spread = draw(seed, epoch, position, BLOCK + 1, VIEW)
    kind, _, _, _ = draw(seed, epoch, position, BLOCK + 2, VIEW)
    spread = tl.where(chance < tl.load(settings + NOISY), _between(settings, SPREAD, spread), 0.0)
    units = _whole(tl.div_rn(spread, UNITS_EACH))
    grey = kind < tl.load(settings + GREY_NOISE)
    low, high, _, _ = draw_words(seed, epoch, position, BLOCK + 3, VIEW)
    return tl.where(grey, 0, units), tl.where(grey, units, 0), low, high >> 1


@triton.jit
def draw_quality(settings, seed, epoch, position, VIEW: tl.constexpr):
    """int32: quality of the JPEG compression, 0: none."""
    _, chance, drawn, _ = draw(seed, epoch, position, BLOCK + 2, VIEW)
    quality = tl.load(settings + QUALITY).to(tl.int32) + (drawn * tl.load(settings + QUALITIES)).to(tl.int32)
    return tl.where(chance < tl.load(settings + COMPRESSED), quality, 0)


@triton.jit
def noise_of(at, own, grey, low, high):
    """float32 noise of red, green and blue, exact, of the pixels ``at``, int32; the rest is ``draw_spread``'s."""
    zero = at.to(tl.uint32) & 0
    red, green, blue, shared = tl.philox_impl(at.to(tl.uint32), zero, zero + NOISE_TAG, zero, low, high)
    grey = _bytes_sum(shared) * grey
    return (
        (_bytes_sum(red) * own + grey).to(tl.float32) * UNIT,
        (_bytes_sum(green) * own + grey).to(tl.float32) * UNIT,
        (_bytes_sum(blue) * own + grey).to(tl.float32) * UNIT,
    )


@triton.jit
def _bytes_sum(word):
    """Sum of a word's four bytes less its mean, int32."""
    total = (word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24)
    return total.to(tl.int32) - MEAN_SUM
