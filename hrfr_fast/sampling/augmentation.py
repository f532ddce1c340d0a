"""Augmentation parameters of every image, as arrays of numbers.

They are drawn from integers alone, ``(seed, epoch, position, view)``: the *position* in the stream and not the record,
so that a face drawn twice in an epoch, or seen as two views, differs. Engines execute these parameters and draw nothing
themselves, which is why they agree.

Order of execution: degrade (downsample to a few pixels), resample the crop box to the output, blur, colour, erase, then
one clamp and one rounding. Where ``order`` is not negative, the degradation is the chain of ``sampling.degradation``:
optical blur, downsampling, noise and JPEG, whose result is a picture of whole pixel values.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.philox import AUGMENT, philox, uniform
from hrfr_fast.settings import AugmentSettings

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
MIDDLE_VALUE = np.float32(127.5)
FILTERS = ("cubic", "linear", "box", "nearest", "lanczos")
"""Filters of the degradation, by index: Catmull-Rom cubic (a = -0.5), triangle, box and Lanczos of three lobes, all
antialiased, and the nearest pixel, which is not. New ones are appended: augmentation
parameters hold the index."""
DRAWN_FILTERS = 3
"""``AugmentSettings.degrade`` draws among the first three."""
PLAIN = -1
"""``Augmentation.order`` of an image that is downsampled at most."""
FILTER_BLOCK = 6
"""Of random numbers, after those of ``draw_augmentation``: the filter of a second view, among those of its regime."""


class Augmentation(NamedTuple):
    """Parameters of B images, as C-contiguous arrays with B rows."""

    box: NDArray[np.float32]
    """[B, 4] x0, y0, x1, y1 of the crop box as shares of the frame; x0 > x1 flips; may leave [0, 1]."""
    colour: NDArray[np.float32]
    """[B, 3, 4]: output channel = row . (r, g, b, 1), in pixel values 0 to 255."""
    degrade: NDArray[np.int32]
    """[B] size in pixels to which the frame is downsampled first; 0: not at all."""
    filter: NDArray[np.int32]
    """[B] index into FILTERS, used where degrade > 0."""
    blur: NDArray[np.float32]
    """[B] sigma as a share of the output's size; 0: none."""
    erase: NDArray[np.float32]
    """[B, 4] x0, y0, x1, y1 as shares of the output; empty where x1 <= x0."""
    order: NDArray[np.int32]
    """[B] index into ``degradation.ORDERS``; PLAIN: the fields below are not used."""
    up: NDArray[np.int32]
    """[B] index into FILTERS: the filter by which the degraded picture is resampled to the output."""
    optics: NDArray[np.float32]
    """[B] sigma of the blur before or after downsampling, as a share of the frame's side; 0: none."""
    noise: NDArray[np.int32]
    """[B, 2] standard deviation of the noise of each channel alone, and of all three together, in units of
    ``degradation.NOISE_UNIT`` pixel values."""
    noise_key: NDArray[np.int64]
    """[B] key, below 2**63, of the generator that gives every pixel its noise."""
    jpeg: NDArray[np.int32]
    """[B] quality of the JPEG compression, 1 to 100; 0: none."""

    def take(self, rows: NDArray[np.int64]) -> "Augmentation":
        """The parameters of some of the images."""
        return Augmentation(*(np.ascontiguousarray(array[rows]) for array in self))  # type: ignore[arg-type]

    def part(self, rows: slice) -> "Augmentation":
        """The parameters of consecutive images, as views."""
        return Augmentation(*(array[rows] for array in self))  # type: ignore[arg-type]


def no_augmentation(count: int, *, degrade: int = 0) -> Augmentation:
    """Parameters that keep the whole frame unchanged but for an optional fixed degradation.

    Test views are made so: LR36 of a 144-px face is ``degrade=36`` (cubic, antialiased).
    """
    box = np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1))
    colour = np.zeros((count, 3, 4), np.float32)
    colour[:, range(3), range(3)] = 1
    return Augmentation(
        box,
        colour,
        np.full(count, degrade, np.int32),
        np.zeros(count, np.int32),
        np.zeros(count, np.float32),
        np.zeros((count, 4), np.float32),
        np.full(count, PLAIN, np.int32),
        np.zeros(count, np.int32),
        np.zeros(count, np.float32),
        np.zeros((count, 2), np.int32),
        np.zeros(count, np.int64),
        np.zeros(count, np.int32),
    )


def draw_augmentation(
    settings: AugmentSettings,
    seed: int,
    epoch: NDArray[np.int64],
    position: NDArray[np.int64],
    view: int = 0,
) -> Augmentation:
    """The parameters of the samples at (epoch, position), int64 arrays [B]; ``view`` numbers views of one sample."""

    def numbers(block: int) -> NDArray[np.float32]:
        return uniform(philox(seed, epoch, position, purpose=AUGMENT, view=view, block=block))

    augmentation = no_augmentation(len(position))
    _draw_box(augmentation.box, settings, numbers(0))
    if settings.brightness or settings.contrast or settings.saturation or settings.grey:
        augmentation.colour[:] = _colour(settings, numbers(1))
    if settings.degrade:
        _draw_degradation(augmentation, settings, numbers(2))
    if settings.blur:
        drawn = numbers(3)
        augmentation.blur[:] = np.where(drawn[:, 0] < settings.blur, drawn[:, 1] * np.float32(settings.blur_sigma), 0)
    if settings.erase:
        augmentation.erase[:] = _erased(settings, numbers(4), numbers(5))
    return augmentation


def _draw_box(box: NDArray[np.float32], settings: AugmentSettings, drawn: NDArray[np.float32]) -> None:
    size = 1 + np.float32(settings.zoom) * (2 * drawn[:, 3] - 1)
    for axis in (0, 1):
        middle = np.float32(0.5) + np.float32(settings.shift) * (2 * drawn[:, 1 + axis] - 1)
        box[:, axis], box[:, 2 + axis] = middle - size / 2, middle + size / 2
    flipped = drawn[:, 0] < settings.flip
    box[flipped] = box[flipped][:, [2, 1, 0, 3]]


def _colour(settings: AugmentSettings, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour matrices: brightness scales, contrast scales about the middle value, saturation mixes with the luma."""
    brightness = 1 + np.float32(settings.brightness) * (2 * drawn[:, 0] - 1)
    contrast = 1 + np.float32(settings.contrast) * (2 * drawn[:, 1] - 1)
    saturation = 1 + np.float32(settings.saturation) * (2 * drawn[:, 2] - 1)
    saturation = np.where(drawn[:, 3] < settings.grey, np.float32(0), saturation)
    mix = saturation[:, None, None] * np.eye(3, dtype=np.float32) + (1 - saturation[:, None, None]) * LUMA
    colour = np.empty((len(drawn), 3, 4), np.float32)
    colour[:, :, :3] = (contrast * brightness)[:, None, None] * mix
    colour[:, :, 3] = ((1 - contrast) * MIDDLE_VALUE)[:, None]
    return colour


def _draw_degradation(augmentation: Augmentation, settings: AugmentSettings, drawn: NDArray[np.float32]) -> None:
    choices = settings.degrade_max - settings.degrade_min + 1
    size = settings.degrade_min + (drawn[:, 1] * choices).astype(np.int32)
    augmentation.degrade[:] = np.where(drawn[:, 0] < settings.degrade, size, 0)
    augmentation.filter[:] = (drawn[:, 2] * DRAWN_FILTERS).astype(np.int32)


def _erased(settings: AugmentSettings, drawn: NDArray[np.float32], shape: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rectangles of random erasing (Zhong et al. 2020, section 3.2): area 2 to 20 %, aspect 0.3 to 3.3."""
    area = np.float32(0.02) + np.float32(0.18) * drawn[:, 1]
    aspect = np.exp(np.log(np.float32(3.3)) * (2 * shape[:, 0] - 1))
    width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    left, top = drawn[:, 2] * (1 - width), drawn[:, 3] * (1 - height)
    box = np.stack([left, top, left + width, top + height], axis=1)
    box[drawn[:, 0] >= settings.erase] = 0
    return box.astype(np.float32)
