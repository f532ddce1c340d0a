"""Launching of the kernels in ``norm_numba``: torch's maps as flat arrays, in segments.

Factors, terms and what else there is of each channel are float32 here, [1 or segments, C]; sums are float64, so that
one over segments loses nothing.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrfr_fast.model.kernels import norm_numba
from hrfr_fast.model.kernels.cpu_threads import over_segments

Array = NDArray[np.float64]
Narrow = NDArray[np.float32]
SEGMENT = 1 << 16
"""Numbers of a segment, about: 128 KiB in bfloat16, which stay in the second-level cache."""


class Segments(NamedTuple):
    """How maps are divided: ``number`` segments of ``pixels`` pixels each, the last of which may be shorter."""

    number: int
    pixels: int
    all_pixels: int


def segments_of_batch(maps: Tensor) -> Segments:
    """Segments of about ``SEGMENT`` numbers, whatever the images."""
    all_pixels = maps.numel() // maps.shape[1]
    pixels = max(1, min(all_pixels, SEGMENT // maps.shape[1]))
    return Segments(-(-all_pixels // pixels), pixels, all_pixels)


def segments_of_images(maps: Tensor) -> Segments:
    """One segment an image."""
    images, _, height, width = maps.shape
    return Segments(images, height * width, images * height * width)


def channels_last(maps: Tensor) -> Tensor:
    """``maps`` [B, C, H, W] as a contiguous tensor [B, H, W, C], a view where they are channels-last."""
    return maps.detach().permute(0, 2, 3, 1).contiguous()


def flat(rows: Tensor) -> NDArray[np.generic]:
    """The numbers of a contiguous tensor; those of a bfloat16 one as their bits, uint16."""
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.uint16).numpy().reshape(-1)
    return rows.numpy().reshape(-1)


def segment_moments(maps: Tensor, segments: Segments) -> tuple[Array, Array]:
    """Each segment's means and sums of squared deviations from them, [segments, C] both. ``maps``: [B, H, W, C]."""
    channels = maps.shape[-1]
    mean, spread = np.empty((segments.number, channels)), np.empty((segments.number, channels))
    over_segments(
        norm_numba.moments, segments.number, maps.numel(), flat(maps), channels, segments.pixels, mean, spread
    )
    return mean, spread


def normalised(
    maps: Tensor, segments: Segments, factor: Narrow, term: Narrow, slope: Tensor | None = None,
    shortcut: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """prelu(factor * maps + term) + shortcut, [B, H, W, C]; without PReLU or without a shortcut where they are None.

    Not both ``slope`` and ``shortcut``.
    """
    out = torch.empty_like(maps)
    over_segments(
        norm_numba.normalise, segments.number, maps.numel(), flat(maps), maps.shape[-1], segments.pixels,
        factor, term, _slopes(slope),
        None if shortcut is None else flat(shortcut), flat(out),
    )  # fmt: skip
    return out


def gradient_sums(
    gradient: Tensor, maps: Tensor, segments: Segments, mean: Narrow, factor: Narrow, term: Narrow,
    slope: Tensor | None = None,
) -> Array:  # fmt: skip
    """What gradients are made of, [segments, 3, C]: sums of g, of g (maps - mean) and, by the slope, of gradient
    times min(v, 0); g is the gradient by v = factor * maps + term. ``mean``, ``factor``, ``term``: [1, C]."""
    sums = np.zeros((segments.number, 3, maps.shape[-1]))
    over_segments(
        norm_numba.gradient_sums, segments.number, maps.numel(), flat(gradient), flat(maps), maps.shape[-1],
        segments.pixels, mean, factor, term, _slopes(slope), sums,
    )  # fmt: skip
    return sums


def gradient_by_maps(
    gradient: Tensor, maps: Tensor, segments: Segments, scale: Narrow, linear: Narrow, constant: Narrow, factor: Narrow,
    term: Narrow, slope: Tensor | None = None, other: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """scale * g + linear * maps + constant + other, [B, H, W, C], g as in ``gradient_sums``.

    ``scale``, ``linear``, ``constant``: [1 or segments, C]. With ``slope``, ``other`` is added afterwards.
    """
    out = torch.empty_like(maps)
    over_segments(
        norm_numba.gradient_by_maps, segments.number, maps.numel(), flat(gradient), flat(maps), maps.shape[-1],
        segments.pixels, scale, linear, constant, factor, term, _slopes(slope),
        None if other is None else flat(other), flat(out),
    )  # fmt: skip
    return out if other is None or slope is None else out.add_(other)


def _slopes(slope: Tensor | None) -> Narrow | None:
    """In the type of the kernels' arithmetic."""
    return None if slope is None else slope.detach().float().numpy()
