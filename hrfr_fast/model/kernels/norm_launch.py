"""Launching of the kernels in ``norm_triton``: how a batch is divided among programs, and what each launch is given.

Nothing here waits for the device or depends on values, so all of it can be captured in a CUDA graph.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hrfr_fast.model.kernels import merge_triton
from hrfr_fast.model.kernels import norm_triton as kernels
from hrfr_fast.model.kernels.launching import launch

TILE = 2048
"""Values of two bytes of a tile of a program that sums nothing up, half as many of four: with 4 warps 16 a thread, two
loads of 16 bytes from each of up to four maps."""
SUM_TILE = 1024
"""Of a program that sums up, which is one warp: 32 a thread, four loads of 16 bytes from each map at a time."""
STATISTICS_TILE = 2048
"""Of a program that reads one map and nothing else: as many loads underway as of two maps."""
WIDEST = 64
"""Channels of a tile, where that leaves no rows without work: 128 bytes of bfloat16."""
SPAN = 256
"""Values of two bytes that a warp reads at a time, 16 bytes a thread: what is further apart is one thread's."""
PROGRAMS, REGISTERS = 2048, 128
"""Programs that sum up: 16 on each of 132 multiprocessors, which run at the same time at up to so many registers a
thread. There are as many groups where maps have 64 channels, and fewer where they have more; a second launch merges
them."""
MOST_TILES, WAVE = 8, 792
"""Tiles of a program that sums nothing up: what it reads of each channel then costs little beside its tiles. Up to
twice as many, or fewer, where so many programs do all the work: six on each of 132 multiprocessors, which run at the
same time, so that none is left to run by itself."""
STAGES, STAGED_TILES, STAGED_REGISTERS = 2, 4, 80
"""A program of so many tiles or more has the next one copied into shared memory while it computes, so that loads are
underway at all times and take no registers; with 1 stage none does. So many registers a thread are enough for a
gradient's then, and six programs run at the same time."""
MERGED_ROWS, MERGED_COLUMNS, MERGED_EACH = 2048, 4, 512
"""Groups and channels that one program merges at a time, and how many of these values make it a warp wider."""
ACTIVATIONS = {"none": 0, "relu": 1, "prelu": 2}


class Groups(NamedTuple):
    """How the rows of ``images`` images of ``size`` rows each are divided: ``splits`` groups of ``length`` an image."""

    images: int
    size: int
    splits: int
    length: int

    @property
    def number(self) -> int:
        """How many groups there are."""
        return self.images * self.splits

    @property
    def rows(self) -> int:
        """Rows of the whole batch."""
        return self.images * self.size


class Statistics(NamedTuple):
    """What one reading of maps gives: each channel's mean and sum of squared differences from it, in every group."""

    means: Tensor
    """float32 [groups, C] (float64 of float64 maps), as the other."""
    squares: Tensor
    groups: Groups


class Norm(NamedTuple):
    """A BatchNorm's numbers for one batch."""

    mean: Tensor
    """float32 [C], as the other."""
    inverse_std: Tensor
    weight: Tensor
    bias: Tensor


class Running(NamedTuple):
    """What a BatchNorm moves in training."""

    mean: Tensor
    var: Tensor
    counter: Tensor | None
    """int64 scalar, ``num_batches_tracked``."""
    momentum: float


def as_rows(maps: Tensor) -> Tensor:
    """[B, C, H, W] as [B, H, W, C], contiguous: a view of channels-last maps, else a copy."""
    return maps.permute(0, 2, 3, 1).contiguous()


def groups_of_batch(rows: Tensor, programs: int) -> Groups:
    """The whole batch as one image, for about so many programs; 0: for kernels that sum nothing up."""
    channels = rows.shape[-1]
    count = rows.numel() // channels
    tall, columns = _tile(rows, count, SUM_TILE if programs else TILE)
    across = triton.cdiv(channels, columns)
    if programs:
        tiles = triton.cdiv(triton.cdiv(count, max(1, programs // across)), tall)
    else:
        tiles = triton.cdiv(triton.cdiv(count, tall) * across, WAVE)
        tiles = tiles if tiles <= 2 * MOST_TILES else MOST_TILES
    length = min(tall * tiles, count)
    return Groups(1, count, triton.cdiv(count, length), length)


def groups_of_images(rows: Tensor) -> Groups:
    """Every image by itself, in more than one group where there are few images."""
    (images, *sides), channels = rows.shape[:3], rows.shape[-1]
    size = sides[0] * sides[1]
    tall, columns = _tile(rows, size, SUM_TILE)
    splits = max(1, PROGRAMS // (images * triton.cdiv(channels, columns)))
    length = min(triton.cdiv(triton.cdiv(size, splits), tall) * tall, size)
    return Groups(images, size, triton.cdiv(size, length), length)


def statistics(rows: Tensor, groups: Groups) -> Statistics:
    """Of maps [B, H, W, C]."""
    found = empty_statistics(rows, groups)
    _launch(kernels.statistics_kernel, rows, groups, rows, found.means, found.squares, summing=STATISTICS_TILE)
    return found


def empty_statistics(rows: Tensor, groups: Groups) -> Statistics:
    """Statistics that a kernel is to write."""
    both = torch.empty((2, groups.number, rows.shape[-1]), dtype=sum_type(rows), device=rows.device)
    return Statistics(both[0], both[1], groups)


def merged(found: Statistics, eps: float, running: Running | None) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of the batch, [C] each; ``running`` moves, its variance the unbiased one."""
    groups, channels = found.groups, found.means.shape[1]
    mean, inverse_std = (found.means.new_empty(channels) for _ in range(2))
    counter = running.counter if running else None
    launch(
        merge_triton.merge_statistics_kernel, (triton.cdiv(channels, MERGED_COLUMNS),),
        found.means, found.squares, mean, inverse_std, running.mean if running else mean,
        running.var if running else mean, mean if counter is None else counter,
        groups.number, groups.size, groups.splits, groups.length, groups.rows,
        running.momentum if running else 0.0, eps,
        C=channels, RUNNING=running is not None, COUNTED=counter is not None, SUM=triton_type(mean),
        **_merging(groups.number),
    )  # fmt: skip
    return mean, inverse_std


def normalised(
    rows: Tensor, norm: Norm, activation: str = "none", slope: Tensor | None = None, gate: Tensor | None = None,
    shortcut: Tensor | None = None, *, measure: bool = False,
) -> tuple[Tensor, Statistics | None]:  # fmt: skip
    """activation(BN(rows)) * gate + shortcut, [B, H, W, C] of the type of ``rows``; with ``measure`` its statistics."""
    groups, made = groups_of_batch(rows, PROGRAMS if measure else 0), torch.empty_like(rows)
    strided = shortcut is not None and not shortcut.is_contiguous()
    if strided and shortcut is not None and shortcut.stride(-1) != 1:
        shortcut, strided = shortcut.contiguous(), False
    steps = shortcut.stride()[:3] if strided and shortcut is not None else (0, 0, 0)
    following = empty_statistics(rows, groups) if measure else None
    spare = norm.mean  # stands in for what is not there and not read
    _launch(
        kernels.normalise_kernel, rows, groups, rows, made, *norm, _or(slope, spare), _or(gate, spare),
        _or(shortcut, spare), following.means if following else spare, following.squares if following else spare,
        after=(rows.shape[1] * rows.shape[2], *rows.shape[1:3], *steps), ACTIVATION=ACTIVATIONS[activation],
        GATED=gate is not None, ADDED=shortcut is not None, STRIDED=strided, NEXT=measure,
        summing=SUM_TILE if measure else 0,
    )  # fmt: skip
    return made, following


def gradient_sums(
    rows: Tensor, gradient: Tensor, norm: Norm, groups: Groups, activation: str = "none", slope: Tensor | None = None
) -> Tensor:
    """Partial sums [3 (prelu) or 2, groups, C], see ``gradient_sums_kernel``."""
    kinds = 3 if activation == "prelu" else 2
    sums = torch.empty((kinds, groups.number, rows.shape[-1]), dtype=sum_type(rows), device=rows.device)
    _launch(
        kernels.gradient_sums_kernel, rows, groups, rows, gradient, *norm, _or(slope, norm.mean), sums,
        after=(groups.number,), ACTIVATION=ACTIVATIONS[activation], summing=SUM_TILE,
    )  # fmt: skip
    return sums


def totals_of(sums: Tensor, inverse_std: Tensor) -> Tensor:
    """[K + 1, C] of partial sums [K, groups, C]: each summed up, and the second times ``inverse_std``, last."""
    kinds, groups, channels = sums.shape
    totals = sums.new_empty(kinds + 1, channels)
    launch(
        merge_triton.merge_sums_kernel, (triton.cdiv(channels, MERGED_COLUMNS), kinds),
        sums, inverse_std, totals, groups, kinds,
        C=channels, SUM=triton_type(sums), **_merging(groups),
    )  # fmt: skip
    return totals


def map_gradient(
    rows: Tensor, gradient: Tensor, norm: Norm, totals: Tensor | None, activation: str = "none",
    slope: Tensor | None = None, gate: Tensor | None = None, pooled: Tensor | None = None,
    bypass: Tensor | None = None, step: int = 1,
) -> Tensor:  # fmt: skip
    """The gradient by ``rows``, see ``map_gradient_kernel``. ``totals`` None: the statistics are not the batch's.

    ``bypass``: of every ``step``-th line and pixel, [B, ceil(H / step), ceil(W / step), C].
    """
    groups, made, spare = groups_of_batch(rows, 0), torch.empty_like(rows), norm.mean
    _launch(
        kernels.map_gradient_kernel, rows, groups, rows, gradient, made, *norm, _or(slope, spare),
        _or(totals, spare), _or(gate, spare), _or(pooled, spare), _or(bypass, spare),
        after=(rows.shape[1] * rows.shape[2], *rows.shape[1:3], groups.rows), ACTIVATION=ACTIVATIONS[activation],
        GATED=gate is not None, POOLED=pooled is not None, BYPASSED=bypass is not None, STEP=step,
        BATCH=totals is not None,
    )  # fmt: skip
    return made


def sum_type(tensor: Tensor) -> torch.dtype:
    """What sums over ``tensor`` are made in: float32, float64 of float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _tile(rows: Tensor, length: int, values: int) -> tuple[int, int]:
    """Rows and columns of a tile of so many values of two bytes: few rows more than a group of ``length`` has."""
    most = triton.next_power_of_2(rows.shape[-1])
    columns, values = min(WIDEST, most), 2 * values // rows.element_size()
    tall = min(values // columns, triton.next_power_of_2(length))
    return tall, min(most, values // tall)


def _merging(groups: int) -> dict[str, int]:
    """The tile of a merging program, and its warps."""
    tall = min(MERGED_ROWS, triton.next_power_of_2(groups))
    return {
        "RG": tall,
        "BC": MERGED_COLUMNS,
        "num_warps": max(1, min(8, tall * MERGED_COLUMNS // MERGED_EACH)),
    }


def triton_type(tensor: Tensor) -> Any:
    """``sum_type`` as Triton calls it."""
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


def _or(tensor: Tensor | None, spare: Tensor) -> Tensor:
    return spare if tensor is None else tensor


def _launch(
    kernel: Any, rows: Tensor, groups: Groups, *given: Tensor, after: tuple[int, ...] = (), summing: int = 0,
    **constants: Any,
) -> None:  # fmt: skip
    channels = rows.shape[-1]
    tall, wide = _tile(rows, groups.length, summing or TILE)
    staged = STAGES > 1 and groups.length >= STAGED_TILES * tall
    options = {"num_warps": 1, "maxnreg": REGISTERS} if summing else {"num_warps": 4}
    if kernel is kernels.map_gradient_kernel and staged:
        options["maxnreg"] = STAGED_REGISTERS
    if summing or kernel is kernels.normalise_kernel:
        constants["S"] = min(tall, max(1, 2 * SPAN // (rows.element_size() * wide)))
    if "GATED" in constants:
        whole = groups.length % tall == 0 and rows.shape[1] * rows.shape[2] % tall == 0
        constants["WHOLE"] = constants["GATED"] and whole
    launch(
        kernel, (groups.number * triton.cdiv(channels, wide),),
        *given, groups.size, groups.splits, groups.length, *after,
        C=channels, R=tall, BC=wide, STAGES=STAGES if staged else 1, SUM=triton_type(rows), **constants, **options,
    )  # fmt: skip
