"""The degradation of sharp pictures to what native low-resolution pictures look like, as parameters.

x' = up_u(JPEG_q(down_{s,k}(x * g_sigma) + n)): optical blur, downsampling to s pixels a side by the filter k, sensor
noise, compression, and upscaling by the filter u, with the steps in one of four orders. The degraded picture holds
whole pixel values, as a stored picture does, so that all that follows the downsampling is arithmetic of integers: equal
to the last bit on every device once the downsampled pixels are. The model and its ranges are those of blind
super-resolution: BSRGAN (Zhang et al. 2021), Real-ESRGAN (Wang et al. 2021) and, for faces, GFPGAN (Wang et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import AUGMENT, philox, uniform
from hrfr_fast.sampling.augmentation import FILTERS, Augmentation, draw_augmentation
from hrfr_fast.settings import AugmentSettings, DegradationSettings

ORDERS = ("blur-down-noise-jpeg", "blur-down-jpeg-noise", "down-blur-noise-jpeg", "down-blur-jpeg-noise")
"""Orders of the steps, by index: bit 0 says that JPEG comes before the noise, bit 1 that the blur comes after the
downsampling."""
NOISE_UNIT = 2.0**-16
"""Noise is counted in these parts of a pixel value."""
NOISE_SUM, NOISE_SPREAD = 510, float(np.sqrt(4 * (256**2 - 1) / 12))
"""Mean and standard deviation of the sum of a word's four bytes, which stands for a normal number (Irwin-Hall of four
terms: never beyond 3.45 standard deviations)."""
FEWEST_PIXELS = 4
"""A picture is never downsampled to fewer pixels a side."""
FIRST_BLOCK = 7  # of random numbers, after those of draw_augmentation and of SecondView


def weighted_names(text: str, known: Sequence[str], setting: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Indices into ``known``, int32 [K], and bounds for a uniform number, float64 [K], that choose among them.

    ``text`` lists names with commas between, each with an optional weight: "cubic:2,box". A number below bounds[0]
    chooses the first, one below bounds[1] the second, and so on. Raises UsageError naming ``setting``.
    """
    indices, weights = [], []
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        try:
            number = float(weight or 1)
        except ValueError:
            number = -1.0
        if name not in known or not 0 <= number < np.inf:
            raise UsageError(
                f"degradation: {setting} is {text!r}; it must be some of {', '.join(known)}, with commas between and"
                " an optional weight of 0 or more after a colon, as in cubic:2,box"
            )
        indices.append(known.index(name))
        weights.append(number)
    if not sum(weights):
        raise UsageError(f"degradation: {setting} is {text!r}; one weight at least must be above 0")
    bounds = np.cumsum(weights) / sum(weights)
    bounds[np.flatnonzero(weights)[-1] :] = 1.0
    return np.array(indices, np.int32), bounds


def draw_degradation(
    settings: DegradationSettings,
    augmentation: Augmentation,
    seed: int,
    epoch: NDArray[np.int64],
    position: NDArray[np.int64],
    *,
    size: int,
    view: int = 0,
) -> None:
    """Draw the degradation of the samples (epoch, position), int64 [B], into ``augmentation``, of B rows, in place.

    Args:
        size: width and height of the sources in pixels.
        view: numbers views of one sample.

    Raises:
        UsageError: a name among the settings that does not exist.
    """

    def numbers(block: int) -> NDArray[np.float32]:
        return uniform(philox(seed, epoch, position, purpose=AUGMENT, view=view, block=FIRST_BLOCK + block))

    first, second, third = numbers(0), numbers(1), numbers(2)
    augmentation.degrade[:] = _side(settings, first[:, 0], size)
    sigma = between(settings.blur_min, settings.blur_max, first[:, 2])
    augmentation.optics[:] = np.where(first[:, 1] < settings.blur, sigma, 0)
    augmentation.order[:] = _chosen(settings.orders, ORDERS, "orders", first[:, 3])
    augmentation.filter[:] = _chosen(settings.down, FILTERS, "down", second[:, 0])
    augmentation.up[:] = _chosen(settings.up, FILTERS, "up", second[:, 1])
    spread = np.where(second[:, 2] < settings.noise, between(settings.noise_min, settings.noise_max, second[:, 3]), 0)
    units = np.rint(spread / np.float32(NOISE_SPREAD * NOISE_UNIT)).astype(np.int32)
    grey = third[:, 0] < settings.noise_grey
    augmentation.noise[:] = np.stack([np.where(grey, 0, units), np.where(grey, units, 0)], axis=1)
    quality = settings.jpeg_min + (third[:, 2] * (settings.jpeg_max - settings.jpeg_min + 1)).astype(np.int32)
    augmentation.jpeg[:] = np.where(third[:, 1] < settings.jpeg, quality, 0)
    words = philox(seed, epoch, position, purpose=AUGMENT, view=view, block=FIRST_BLOCK + 3).astype(np.int64)
    augmentation.noise_key[:] = words[:, 0] | (words[:, 1] >> 1) << 32


def largest_side(settings: DegradationSettings, size: int) -> int:
    """The largest side in pixels that is ever drawn for sources of ``size`` pixels."""
    return int(_side(settings, np.array([1 - 2.0**-24], np.float32), size)[0])


def _side(settings: DegradationSettings, drawn: NDArray[np.float32], size: int) -> NDArray[np.int32]:
    side = np.rint(between(settings.side_min, settings.side_max, drawn) * np.float32(size)).astype(np.int32)
    return np.clip(side, min(FEWEST_PIXELS, size), size)


def between(low: float, high: float, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
    """Uniform between ``low`` and ``high``, for ``drawn`` in [0, 1)."""
    return np.float32(low) + np.float32(high - low) * drawn


def _chosen(text: str, known: Sequence[str], setting: str, drawn: NDArray[np.float32]) -> NDArray[np.int32]:
    indices, bounds = weighted_names(text, known, setting)
    return indices[np.searchsorted(bounds, drawn, side="right")]


@dataclass(frozen=True)
class NativeView:
    """Degradation of second views to what native low-resolution pictures look like. Raises UsageError."""

    settings: DegradationSettings

    def __post_init__(self) -> None:
        for setting, known in (("down", FILTERS), ("up", FILTERS), ("orders", ORDERS)):
            weighted_names(getattr(self.settings, setting), known, setting)

    def on_top_of(self, augment: AugmentSettings) -> AugmentSettings:
        """``augment`` with a degradation of every image."""
        return augment.replaced(degrade=1.0)

    def draw(
        self, augment: AugmentSettings, seed: int, cycle: NDArray[np.int64], index: NDArray[np.int64], view: int,
        size: int,
    ) -> Augmentation:  # fmt: skip
        """The augmentation of the views of the samples (cycle, index), int64 [K], of sources of ``size`` pixels."""
        augmentation = draw_augmentation(augment.replaced(degrade=0.0), seed, cycle, index, view=view)
        draw_degradation(self.settings, augmentation, seed, cycle, index, size=size, view=view)
        return augmentation

    def largest_side(self, size: int) -> int:
        """The most pixels a side of a degraded picture, of sources of ``size`` pixels."""
        return largest_side(self.settings, size)
