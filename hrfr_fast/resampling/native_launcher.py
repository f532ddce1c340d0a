"""Launching of the GPU kernels of the native degradation, see ``low_resolution_triton``."""

from typing import Any

import torch
import triton
from torch import Tensor

from hrfr_fast.resampling.jpeg_triton import TILE as JPEG_TILE
from hrfr_fast.resampling.jpeg_triton import jpeg_constants, levels_kernel
from hrfr_fast.resampling.launcher import (
    LAUNCH,
    MATRIX_TILE,
    Resampler,
    ResidentSplit,
    View,
    blur_terms,
    tiles_for,
)
from hrfr_fast.resampling.low_resolution_triton import enlarging_kernel, shrink_kernel, shrinking_kernel
from hrfr_fast.sampling.degradation import largest_side
from hrfr_fast.sampling.degradation_triton import native_settings
from hrfr_fast.settings import AugmentSettings, DegradationSettings

WIDE = 64
"""Columns of a small picture that a program makes."""


class NativeResampler(Resampler):
    """Degrades the records of one split as native low resolution is, then augments and resamples them.

    Args:
        source: the split's pixels.
        out_size: width and height of the output in pixels.
        augment: the augmentation; its own degradation takes no part.
        degradation: what is drawn.
        seed: the sampler's, 0 <= seed < 2**63.
        view: number of the view, see ``draw_degradation``.
    """

    def __init__(
        self, source: ResidentSplit, out_size: int, augment: AugmentSettings, degradation: DegradationSettings,
        seed: int, view: int,
    ) -> None:  # fmt: skip
        super().__init__(source, out_size, augment.replaced(degrade=0.0), seed, view=View(view))
        device, self.size = source.pixels.device, source.pixels.shape[1]
        self.degradation = degradation
        self.largest = triton.cdiv(largest_side(degradation, self.size), 4) * 4  # rows of whole 4-byte pieces
        self.values = torch.from_numpy(native_settings(self.settings, degradation)).to(device)
        self.dct, self.tables = jpeg_constants(device)
        self.composed, self.made, self.tiles = True, True, tiles_for(self.largest, out_size, composed=True)
        self.constants = self._choose_constants(self.largest)
        self._shrinking = self._small = self.pictures = torch.empty(0, device=device)

    def _prepare(self, count: int, sampling: tuple[Any, ...]) -> Tensor:
        self._reserve(count, self.largest)
        rows, columns = triton.cdiv(self.largest, MATRIX_TILE), triton.cdiv(self.size, MATRIX_TILE)
        shared = {"SIZE": self.size, "LARGEST": self.largest, "VIEW": self.view.number, **LAUNCH}
        shrinking_kernel[(count * rows * columns,)](
            self._shrinking, *sampling, TILE=MATRIX_TILE, **shared,
            BLUR_TERMS=blur_terms(self.degradation.blur_max * self.size),
        )  # fmt: skip
        shrink_kernel[(count * 3 * rows * triton.cdiv(self.largest, WIDE),)](
            self._small, self._shrinking, self.source.pixels, *sampling, TILE=MATRIX_TILE, WIDE=WIDE, **shared
        )
        levels_kernel[(count * triton.cdiv(self.largest, JPEG_TILE) ** 2,)](
            self.pictures, self._small, self.dct, self.tables, *sampling, TILE=JPEG_TILE, **shared
        )
        enlarging_kernel[(count * 2 * triton.cdiv(self.out_size, MATRIX_TILE) * rows,)](
            self.matrices, *sampling, OUT=self.out_size, TILE=MATRIX_TILE, BLUR=bool(self.settings.blur),
            BLUR_TERMS=blur_terms(self.settings.blur_sigma * self.out_size), **shared,
        )  # fmt: skip
        return self.pictures

    def _reserve(self, count: int, size: int) -> None:
        super()._reserve(count, size)
        if self.pictures.shape[:1] != (count,):
            frame, device = (size, size), self.values.device
            self._shrinking = torch.empty((count, size, self.size), device=device)
            self._small = torch.empty((count, 3, *frame), device=device)
            self.pictures = torch.empty((count, *frame, 3), dtype=torch.uint8, device=device)
