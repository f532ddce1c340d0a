"""Launching of the GPU kernels: variant and tile sizes are chosen by settings, never by data."""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from hrfr_fast.resampling.triton_compose import compose_kernel
from hrfr_fast.resampling.triton_kernels import resample_kernel
from hrfr_fast.sampling.augmentation_triton import kernel_settings, second_view_settings
from hrfr_fast.settings import AugmentSettings


class ResidentSplit(NamedTuple):
    """One split in device memory."""

    pixels: Tensor
    """uint8 [n, size, size, 3]."""
    begin: int
    """Number of its first record when the records of all splits are counted through."""


class EpochOrders(NamedTuple):
    """Record of every position of some epochs, see ``sampler_torch.epoch_records``, and the label of every record."""

    records: Tensor
    """int32 [slots, epoch_length]; epoch e is in row e % slots."""
    labels: Tensor
    """int64 [records of all splits], offset by split."""


class Rows(NamedTuple):
    """Where the images of a resampler lie in the batch: image k in row ``k // run * pitch + first + k % run * stride``.

    As it is, in row k.
    """

    run: int = 1 << 30
    pitch: int = 0
    first: int = 0
    stride: int = 1


class View(NamedTuple):
    """Which view of a face is drawn, see ``draw_augmentation``, and the filters that its degradation chooses from."""

    number: int = 0
    filters: tuple[str, ...] = ()
    """None: any."""


ONE_VIEW, ALL_ROWS = View(), Rows()
LAUNCH: dict[str, Any] = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": False}
"""How kernels are launched that draw: without fused multiply-adds, see ``augmentation_triton``."""


MATRIX_TILE = 32
"""Rows and columns of a matrix that a program makes: with tiles of 64 the compiler runs out of registers."""


def blur_terms(sigma: float) -> int:
    """A power of two that is no less than the terms of half a Gaussian of radius ceil(3 sigma)."""
    return int(triton.next_power_of_2(math.ceil(3 * sigma) + 2))


class Tiles(NamedTuple):
    """Sizes of what a program computes at a time: ``rows`` x ``columns`` outputs (a column is one channel of a pixel)
    from ``row_keys`` x ``column_keys`` source values. Powers of two, at least 16."""

    rows: int
    columns: int
    row_keys: int
    column_keys: int
    each: int
    """Neighbouring tiles that one program makes one after the other, drawing the augmentation once."""
    registers: int
    """Largest number of registers a thread: with 168 three programs of 4 warps fit on a multiprocessor."""
    warps: int = 4


def tiles_for(size: int, out_size: int, *, composed: bool = False) -> Tiles:
    """Tiles for a source of ``size`` and an output of ``out_size`` pixels; ``composed``: where matrices are read.

    64 x 128 outputs keep sums and horizontal weights at 64 registers a thread each; at 36 -> 144 px the 16 to 21
    source pixels of 128 output columns lie within 64 source columns, so that the weights are made once a tile column.
    Chosen by counting instructions of the sm_90 code: 54,000 an image at 36 -> 144 px, against 66,000 with 64 x 64
    tiles and 77,000 with those and 8 warps. Without the cap on registers the compiler takes 254, and two programs fit.
    With matrices that are read, 32 source columns at a time keep the compiler within 255 registers.
    """
    if out_size <= 32:
        return Tiles(32, 128 if out_size > 21 else 64, 64, 32, 1, 168)
    if composed:
        return Tiles(64, 128, 32, 32, 2, 255)
    return Tiles(64, 128, 32 if size <= out_size // 2 else 64, 64, 2, 168)


class Resampler:
    """Augments and resamples the records of one split to one output size.

    Args:
        source: the split's pixels.
        out_size: width and height of the output in pixels.
        settings: the augmentation.
        seed: the sampler's, 0 <= seed < 2**63.
        tiles: None: ``tiles_for``.
        view: of the faces.
    """

    def __init__(
        self, source: ResidentSplit, out_size: int, settings: AugmentSettings, seed: int, tiles: Tiles | None = None,
        view: View = ONE_VIEW,
    ) -> None:  # fmt: skip
        self.source, self.out_size, self.seed, self.settings = source, out_size, seed, settings
        self.made = False  # whether the resampled pictures are made of the records first
        size, device = source.pixels.shape[1], source.pixels.device
        self.composed = bool(settings.degrade or settings.blur)
        self.tiles = tiles or tiles_for(size, out_size, composed=self.composed)
        self.view = view
        values = second_view_settings(settings, view.filters) if view.filters else kernel_settings(settings)
        self.values = torch.from_numpy(values).to(device)
        self.matrices = torch.empty(0, dtype=torch.float16, device=device)
        self.constants = self._choose_constants(size)

    def _choose_constants(self, size: int) -> dict[str, Any]:
        tiles, settings, out_size = self.tiles, self.settings, self.out_size
        # The longest step that can be drawn, that of a box of 1 + zoom frames, and a little more for rounding.
        step = (1 + settings.zoom) * size / out_size * (1 + 1e-6)
        shrinks = step > 1 + 2e-6
        taps = math.ceil(4 * step) + 1 if shrinks else 4
        rows = math.ceil(step * (min(tiles.rows, out_size) - 1)) + 1 + taps
        columns = min(3 * size, 3 * (math.ceil(step * ((tiles.columns - 1) // 3 + 1)) + 1 + taps) + 3)
        if self.composed:
            rows, columns = size, 3 * size
        return {
            "SIZE": size, "OUT": out_size, "BM": tiles.rows, "BN": tiles.columns,
            "KR": tiles.row_keys, "KC": tiles.column_keys, "TILES_EACH": tiles.each,
            "ROW_CHUNKS": triton.cdiv(rows, tiles.row_keys),
            "COLUMN_CHUNKS": triton.cdiv(columns, tiles.column_keys),
            "TAPS": 0 if shrinks else taps, "COMPOSED": self.composed,
            "COLOUR": bool(settings.brightness or settings.contrast or settings.saturation or settings.grey),
            "MIX": bool(settings.saturation or settings.grey), "ERASE": bool(settings.erase),
            "VIEW": self.view.number, "MADE": self.made,
        }  # fmt: skip

    @property
    def compose_constants(self) -> dict[str, Any]:
        """Constants that ``compose_kernel`` is compiled for."""
        settings, size, out_size = self.settings, self.constants["SIZE"], self.out_size
        return {
            "SIZE": size, "OUT": out_size, "TILE": MATRIX_TILE,
            "DEGRADE": bool(settings.degrade), "BLUR": bool(settings.blur),
            "BLUR_TERMS": blur_terms(settings.blur_sigma * out_size),
            "VIEW": self.view.number, "CHOSEN": bool(self.view.filters),
        }  # fmt: skip

    def __call__(
        self, images: Tensor, labels: Tensor, orders: EpochOrders, counter: Tensor, skip: int,
        rows: Rows = ALL_ROWS, count: int | None = None,
    ) -> None:  # fmt: skip
        """Write those images of the batch that come from this split; launches and returns.

        Args:
            images: [B, out_size, out_size, 3] contiguous; uint8 pixel values, or a float type in [-1, 1].
            labels: int64 [B], written beside them.
            counter: int64 [1] on the device: samples consumed before this batch.
            skip: samples of the batch that belong to earlier ranks.
            rows: of the batch.
            count: of its images; None: as many as ``images`` has.
        """
        count, begin = len(images) if count is None else count, self.source.begin
        slots, length = orders.records.shape
        where = (self.seed, skip, length, slots, begin, begin + len(self.source.pixels))
        pictures = self._prepare(count, (orders.records, counter, self.values, *where))
        programs = count * triton.cdiv(triton.cdiv(3 * self.out_size, self.tiles.columns), self.tiles.each)
        resample_kernel[(programs,)](
            images, labels, pictures, orders.labels, orders.records, counter, self.values, self.matrices,
            *where, *rows, **self.constants, ROUND=images.dtype == torch.uint8,
            num_warps=self.tiles.warps, num_stages=2, enable_fp_fusion=False,
            maxnreg=255 if self.composed else self.tiles.registers,
        )  # fmt: skip

    def _prepare(self, count: int, sampling: tuple[Any, ...]) -> Tensor:
        """Compute the matrices of ``count`` images, where they have some; returns the pictures to resample.

        ``sampling``: the arguments that say which record is an image's, and what is drawn for it.
        """
        if self.composed:
            constants, out_size = self.compose_constants, self.out_size
            size = constants["SIZE"]
            self._reserve(count, size)
            programs = count * 2 * triton.cdiv(out_size, MATRIX_TILE) * triton.cdiv(size, MATRIX_TILE)
            compose_kernel[(programs,)](self.matrices, *sampling, **constants, **LAUNCH)
        return self.source.pixels

    def _reserve(self, count: int, size: int) -> None:
        """See that there is memory for the matrices of ``count`` images that come from ``size`` pixels."""
        if self.matrices.shape[:1] != (count,):
            shape = (count, 2, self.out_size, size)
            self.matrices = torch.empty(shape, dtype=torch.float16, device=self.values.device)
