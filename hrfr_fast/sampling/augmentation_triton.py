"""``draw_augmentation`` inside GPU kernels: each program draws the augmentation of its own image, in registers.

Everything is bit-equal to the host's but the erased box, whose exponential may differ in the last two bits.
To that end kernels that call these functions are launched with ``enable_fp_fusion=False``: NumPy rounds a product
before it adds, and a fused multiply-add does not. Where fusing is wanted, ``tl.fma`` is called.
"""

from collections.abc import Sequence

import numpy as np
import triton
import triton.language as tl

from hrfr_fast.runtime.philox import AUGMENT
from hrfr_fast.sampling.augmentation import DRAWN_FILTERS, FILTER_BLOCK, FILTERS, LUMA
from hrfr_fast.settings import AugmentSettings

FIELDS = (
    "flip", "shift", "zoom", "brightness", "contrast", "saturation", "grey", "blur", "blur_sigma", "erase",
    "degrade", "degrade_min", "degrade_max",
)  # fmt: skip
"""The settings that kernels read, in the order of their float32 array."""

FLIP, SHIFT, ZOOM, BRIGHTNESS, CONTRAST, SATURATION, GREY, BLUR, BLUR_SIGMA, ERASE, DEGRADE, SMALLEST, LARGEST = (
    tl.constexpr(number) for number in range(len(FIELDS))
)
CHOICES = tl.constexpr(len(FIELDS))
CHOICE_BLOCK = tl.constexpr(FILTER_BLOCK)
TAG = tl.constexpr(AUGMENT << 16)
LUMA_R, LUMA_G, LUMA_B = (tl.constexpr(float(value)) for value in LUMA)
FILTER_COUNT = tl.constexpr(float(DRAWN_FILTERS))
LOG_ASPECT = tl.constexpr(float(np.log(np.float32(3.3))))


def kernel_settings(settings: AugmentSettings) -> np.ndarray:
    """float32 [13]: the settings as kernels read them. Sizes up to 4096 are exact."""
    return np.array([getattr(settings, name) for name in FIELDS], np.float32)


def second_view_settings(settings: AugmentSettings, filters: Sequence[str]) -> np.ndarray:
    """float32 [14 + n]: ``kernel_settings``, how many filters the degradation has to choose from, and their numbers."""
    numbers = [FILTERS.index(name) for name in filters]
    return np.concatenate([kernel_settings(settings), np.array([len(numbers), *numbers], np.float32)])


@triton.jit
def look_up_sample(records, counter, skip, epoch_length, slots, image):
    """Epoch, position and record (int64 scalars) of image number ``image`` of the batch; see ``sampler_torch``."""
    at = tl.load(counter) + skip + image
    epoch = at // epoch_length
    position = at - epoch * epoch_length
    record = tl.load(records + (epoch % slots) * epoch_length + position).to(tl.int64)
    return epoch, position, record


@triton.jit
def draw_words(seed, epoch, position, block, VIEW: tl.constexpr = 0):
    """Four uint32, as ``philox`` gives them. seed, epoch, position: int64 scalars."""
    key = seed.to(tl.uint64)
    zero = position.to(tl.uint32) & 0
    return tl.philox_impl(
        position.to(tl.uint32), epoch.to(tl.uint32), zero + TAG + VIEW, zero + block,
        (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32),
    )  # fmt: skip


@triton.jit
def draw(seed, epoch, position, block, VIEW: tl.constexpr = 0):
    """Four float32 in [0, 1), as ``uniform(philox(...))`` gives them."""
    a, b, c, d = draw_words(seed, epoch, position, block, VIEW)
    return _uniform(a), _uniform(b), _uniform(c), _uniform(d)


@triton.jit
def _uniform(word):
    return (word >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08  # 2**-24


@triton.jit
def _around(settings, name: tl.constexpr, drawn):
    """setting * (2 * drawn - 1): uniform between -setting and setting."""
    return tl.load(settings + name) * (2.0 * drawn - 1.0)


@triton.jit
def draw_box(settings, seed, epoch, position, VIEW: tl.constexpr = 0):
    """x0, y0, x1, y1 of ``Augmentation.box``."""
    flip, x, y, zoom = draw(seed, epoch, position, 0, VIEW)
    half = (1.0 + _around(settings, ZOOM, zoom)) * 0.5
    middle_x, middle_y = 0.5 + _around(settings, SHIFT, x), 0.5 + _around(settings, SHIFT, y)
    left, right = middle_x - half, middle_x + half
    flipped = flip < tl.load(settings + FLIP)
    return tl.where(flipped, right, left), middle_y - half, tl.where(flipped, left, right), middle_y + half


@triton.jit
def draw_colour(settings, seed, epoch, position, VIEW: tl.constexpr = 0):
    """gain, saturation, offset; ``Augmentation.colour`` is gain * (saturation * I + (1 - saturation) * luma)."""
    first, second, third, fourth = draw(seed, epoch, position, 1, VIEW)
    brightness = 1.0 + _around(settings, BRIGHTNESS, first)
    contrast = 1.0 + _around(settings, CONTRAST, second)
    saturation = 1.0 + _around(settings, SATURATION, third)
    saturation = tl.where(fourth < tl.load(settings + GREY), 0.0, saturation)
    return contrast * brightness, saturation, (1.0 - contrast) * 127.5


@triton.jit
def colour_entry(gain, saturation, row, column):
    """One entry of the 3x3 part of ``Augmentation.colour``; row and column are integers 0 to 2, of any shape."""
    luma = tl.where(column == 0, LUMA_R, tl.where(column == 1, LUMA_G, LUMA_B))
    return gain * (tl.where(row == column, saturation, 0.0) + (1.0 - saturation) * luma)


@triton.jit
def draw_degradation(settings, seed, epoch, position, VIEW: tl.constexpr = 0, CHOSEN: tl.constexpr = False):
    """Size in pixels (int32, 0: none) and filter (int32 index into FILTERS) of the degradation.

    CHOSEN: the filter is one of those that ``second_view_settings`` lists, as ``SecondView.draw`` draws it.
    """
    chance, drawn, filter, _ = draw(seed, epoch, position, 2, VIEW)
    smallest = tl.load(settings + SMALLEST)
    choices = tl.load(settings + LARGEST) - smallest + 1.0
    size = smallest.to(tl.int32) + (drawn * choices).to(tl.int32)
    number = (filter * FILTER_COUNT).to(tl.int32)
    if CHOSEN:
        drawn_filter, _, _, _ = draw(seed, epoch, position, CHOICE_BLOCK, VIEW)
        choice = (drawn_filter * tl.load(settings + CHOICES)).to(tl.int32)
        number = tl.load(settings + CHOICES + 1 + choice).to(tl.int32)
    return tl.where(chance < tl.load(settings + DEGRADE), size, 0), number


@triton.jit
def draw_blur(settings, seed, epoch, position, VIEW: tl.constexpr = 0):
    """Sigma as a share of the output's size; 0: none."""
    chance, drawn, _, _ = draw(seed, epoch, position, 3, VIEW)
    return tl.where(chance < tl.load(settings + BLUR), drawn * tl.load(settings + BLUR_SIGMA), 0.0)


@triton.jit
def draw_erasure(settings, seed, epoch, position, VIEW: tl.constexpr = 0):
    """x0, y0, x1, y1 of ``Augmentation.erase``; all 0: nothing is erased."""
    chance, size, x, y = draw(seed, epoch, position, 4, VIEW)
    shape, _, _, _ = draw(seed, epoch, position, 5, VIEW)
    area = 0.02 + 0.18 * size
    exponent = (2.0 * shape - 1.0) * LOG_ASPECT
    aspect = tl.exp(exponent.to(tl.float64)).to(tl.float32)
    width = tl.minimum(tl.sqrt_rn(area * aspect), 1.0)
    height = tl.minimum(tl.sqrt_rn(tl.div_rn(area, aspect)), 1.0)
    left, top = x * (1.0 - width), y * (1.0 - height)
    keep = chance < tl.load(settings + ERASE)
    return (
        tl.where(keep, left, 0.0),
        tl.where(keep, top, 0.0),
        tl.where(keep, left + width, 0.0),
        tl.where(keep, top + height, 0.0),
    )
