"""Launches the kernels of ``triton_kernels``: which variant, which tiles. Decided from settings, never from data."""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from hrfr_fast.resampling.triton_kernels import compose_kernel, resample_kernel
from hrfr_fast.sampling.augmentation_triton import kernel_settings
from hrfr_fast.settings import AugmentSettings


class ResidentSplit(NamedTuple):
    """One split in device memory."""

    pixels: Tensor
    """uint8 [n, size, size, 3]."""
    begin: int
    """The number of its first record among all sources' records."""


class EpochOrders(NamedTuple):
    """Which record comes when: see ``sampler_torch.epoch_records``."""

    records: Tensor
    """int32 [slots, epoch_length]; epoch e is in row e % slots."""
    labels: Tensor
    """int64 [records of all sources], offset by source."""


class Tiles(NamedTuple):
    """What one program makes at a time: ``rows`` x ``columns`` outputs (a column is a pixel's channel), from
    ``row_keys`` x ``column_keys`` source values. Powers of two, at least 16."""

    rows: int
    columns: int
    row_keys: int
    column_keys: int
    each: int
    """Tiles beside each other that one program makes, one after the other, from one drawing of the augmentation."""
    registers: int
    """Most registers a thread: 168 leave room for three programs of 4 warps on a multiprocessor."""
    warps: int = 4


def tiles_for(size: int, side: int) -> Tiles:
    """Tiles for a source of ``size`` and an output of ``side`` pixels.

    64 x 128 outputs keep sums and horizontal weights at 64 registers a thread each; at 36 -> 144 px the 16 to 21
    source pixels of 128 output columns lie within 64 source columns, so that the weights are made once a tile column.
    Chosen by counting instructions of the sm_90 code: 54,000 a picture at 36 -> 144 px, against 66,000 with 64 x 64
    tiles and 77,000 with those and 8 warps. Without the cap on registers the compiler takes 254, and two programs fit.
    """
    if side <= 32:
        return Tiles(32, 128 if side > 21 else 64, 64, 32, 1, 168)
    return Tiles(64, 128, 32 if size <= side // 2 else 64, 64, 2, 168)


class Resampler:
    """Makes the pictures of one source at one output size.

    Args:
        source: where the pictures lie.
        side: of the output in pixels.
        settings: the augmentation.
        seed: of the order, 0 <= seed < 2**63.
        tiles: None: ``tiles_for``.
    """

    def __init__(
        self, source: ResidentSplit, side: int, settings: AugmentSettings, seed: int, tiles: Tiles | None = None
    ) -> None:
        self.source, self.side, self.seed, self.settings = source, side, seed, settings
        size, device = source.pixels.shape[1], source.pixels.device
        self.tiles = tiles or tiles_for(size, side)
        self.composed = bool(settings.degrade or settings.blur)
        self.values = torch.from_numpy(kernel_settings(settings)).to(device)
        self.matrices = torch.empty(0, dtype=torch.float16, device=device)
        self.constants = self._choose_constants(size)

    def _choose_constants(self, size: int) -> dict[str, Any]:
        tiles, settings, side = self.tiles, self.settings, self.side
        # The steepest step there can be: a box of 1 + zoom frames. A little more, for rounding.
        step = (1 + settings.zoom) * size / side * (1 + 1e-6)
        shrinks = step > 1 + 2e-6
        taps = math.ceil(4 * step) + 1 if shrinks else 4
        rows = math.ceil(step * (min(tiles.rows, side) - 1)) + 1 + taps
        columns = min(3 * size, 3 * (math.ceil(step * ((tiles.columns - 1) // 3 + 1)) + 1 + taps) + 3)
        if self.composed:
            rows, columns = size, 3 * size
        return {
            "SIZE": size, "SIDE": side, "BM": tiles.rows, "BN": tiles.columns,
            "KR": tiles.row_keys, "KC": tiles.column_keys, "EACH": tiles.each,
            "ROW_CHUNKS": triton.cdiv(rows, tiles.row_keys),
            "COLUMN_CHUNKS": triton.cdiv(columns, tiles.column_keys),
            "TAPS": 0 if shrinks else taps, "COMPOSED": self.composed,
            "COLOUR": bool(settings.brightness or settings.contrast or settings.saturation or settings.grey),
            "MIX": bool(settings.saturation or settings.grey), "ERASE": bool(settings.erase),
        }  # fmt: skip

    @property
    def compose_constants(self) -> dict[str, Any]:
        """What ``compose_kernel`` is compiled for."""
        settings, size, side = self.settings, self.constants["SIZE"], self.side
        step = (1 + settings.zoom) * max(size, settings.degrade_max if settings.degrade else 0) / side
        shrink = max(1.0, size / settings.degrade_min)
        return {
            "SIZE": size, "SIDE": side, "BO": 64 if side > 32 else 32, "BS": 64, "BD": 64,
            "DEGRADE": bool(settings.degrade), "BLUR": bool(settings.blur),
            "BLUR_TERMS": triton.next_power_of_2(math.ceil(3 * settings.blur_sigma * side) + 2),
            "UP_TERMS": triton.next_power_of_2(math.ceil(4 * max(1.0, step)) + 2),
            "DOWN_TERMS": triton.next_power_of_2(math.ceil(4 * shrink) + 3),
        }  # fmt: skip

    def __call__(self, images: Tensor, labels: Tensor, table: EpochOrders, counter: Tensor, skip: int) -> None:
        """Write those pictures of the batch that come from this source; launches and returns.

        Args:
            images: [B, side, side, 3] contiguous; uint8 levels, or a float type in [-1, 1].
            labels: int64 [B], written beside them.
            counter: int64 [1] on the device: samples consumed before this batch.
            skip: samples of the batch that belong to earlier ranks.
        """
        count, begin = len(images), self.source.begin
        slots, length = table.records.shape
        where = (self.seed, skip, length, slots, begin, begin + len(self.source.pixels))
        if self.composed:
            self._compose(count, table, counter, where)
        programs = count * triton.cdiv(triton.cdiv(3 * self.side, self.tiles.columns), self.tiles.each)
        resample_kernel[(programs,)](
            images, labels, self.source.pixels, table.labels, table.records, counter, self.values, self.matrices,
            *where, **self.constants, LEVELS=images.dtype == torch.uint8,
            num_warps=self.tiles.warps, num_stages=2, enable_fp_fusion=False,
            maxnreg=255 if self.composed else self.tiles.registers,
        )  # fmt: skip

    def _compose(self, count: int, table: EpochOrders, counter: Tensor, where: tuple[int, ...]) -> None:
        size, side = self.constants["SIZE"], self.side
        constants = self.compose_constants
        if self.matrices.shape[:1] != (count,):
            self.matrices = torch.empty((count, 2, side, size), dtype=torch.float16, device=self.values.device)
        programs = count * 2 * triton.cdiv(side, constants["BO"]) * triton.cdiv(size, constants["BS"])
        compose_kernel[(programs,)](
            self.matrices, table.records, counter, self.values, *where, **constants,
            num_warps=4, num_stages=2, enable_fp_fusion=False,
        )  # fmt: skip
