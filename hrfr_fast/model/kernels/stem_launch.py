"""Launching of the kernels in ``stem_triton``. As in ``norm_launch``, nothing waits for the device."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from hrfr_fast.model.kernels import norm_launch as norms
from hrfr_fast.model.kernels import stem_triton as kernels
from hrfr_fast.model.kernels.launching import launch
from hrfr_fast.model.kernels.norm_launch import ACTIVATIONS, Groups, Norm, Statistics

LEAST, WIDEST = 16, 128
"""Channels of a tile: as few as a product of matrices takes, as many as leave it rows enough for as many values."""
LEAST_ROWS = 32
"""Of a tile; of more channels a program has more warps, so that each thread holds 16 values of a map."""
GROUPS, MOST_REGISTERS = 512, 128
"""Groups, a program each: four on each of 132 multiprocessors, which run at the same time at up to so many registers a
thread; the gradient's sums would take more."""
PADDED = 256
"""Pixels that a program pads."""


class Convolution(NamedTuple):
    """A convolution whose maps nobody wrote."""

    padded: Tensor
    """[B, H + 2, W + 2, 4], of the maps' type."""
    taps: Tensor
    """[C, 27], rounded to that type as they are read."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its maps, [B, H, W, C]."""
        count, height, width, _ = self.padded.shape
        return count, height - 2, width - 2, len(self.taps)

    @property
    def groups(self) -> Groups:
        """The pixels of its maps, as every kernel divides them."""
        count, height, width, channels = self.shape
        pixels, tall = count * height * width, _tile(channels)[0]
        length = min(triton.cdiv(triton.cdiv(pixels, GROUPS), tall) * tall, pixels)
        return Groups(1, pixels, triton.cdiv(pixels, length), length)

    def parts(self, *shape: int) -> Tensor:
        """What groups leave, not yet written: of the type of sums."""
        return self.padded.new_empty(shape, dtype=norms.sum_type(self.padded))


def padded(images: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, H + 2, W + 2, 4] of images [B, 3, H, W], see ``pad_images_kernel``."""
    count, _, height, width = images.shape
    made = images.new_empty((count, height + 2, width + 2, 4), dtype=dtype)
    pixels = made.numel() // 4
    launch(
        kernels.pad_images_kernel, (triton.cdiv(pixels, PADDED),), images, made, pixels, *images.stride(),
        H=height, W=width, N=PADDED, num_warps=4,
    )  # fmt: skip
    return made


def taps(weight: Tensor) -> Tensor:
    """[C, 27] of weights [C, 3, 3, 3]: a view of channels-last ones."""
    return weight.detach().permute(0, 2, 3, 1).reshape(len(weight), 27)


def statistics(convolution: Convolution) -> Statistics:
    """Of the convolution's maps, not rounded."""
    found = _empty_statistics(convolution)
    _launch(kernels.stem_statistics_kernel, convolution, found.means, found.squares)
    return found


def normalised(
    convolution: Convolution, norm: Norm, activation: str, slope: Tensor | None, *, measure: bool
) -> tuple[Tensor, Statistics | None]:
    """activation(BN(convolution)), [B, H, W, C]; with ``measure`` its statistics."""
    made = convolution.padded.new_empty(convolution.shape)
    following = _empty_statistics(convolution) if measure else None
    _launch(
        kernels.stem_kernel, convolution, made, *norm, norm.mean if slope is None else slope,
        *(following[:2] if following else (norm.mean, norm.mean)), ACTIVATION=ACTIVATIONS[activation], NEXT=measure,
    )  # fmt: skip
    return made, following


def gradient_sums(
    convolution: Convolution, gradient: Tensor, norm: Norm, activation: str, slope: Tensor | None
) -> Tensor:
    """Partial sums [3 (prelu) or 2, groups, C], as ``norm_launch.gradient_sums`` gives them."""
    groups = convolution.groups.number
    sums = convolution.parts(3 if activation == "prelu" else 2, groups, len(convolution.taps))
    _launch(
        kernels.stem_gradient_sums_kernel, convolution, gradient, *norm, norm.mean if slope is None else slope, sums,
        after=(groups,), ACTIVATION=ACTIVATIONS[activation], **_kept_small(convolution),
    )  # fmt: skip
    return sums


def weight_gradient(
    convolution: Convolution, gradient: Tensor, norm: Norm, totals: Tensor | None, activation: str,
    slope: Tensor | None,
) -> Tensor:  # fmt: skip
    """[C, 27], in the type of sums. ``totals`` None: the statistics are not the batch's."""
    partial, spare = convolution.parts(convolution.groups.number, *convolution.taps.shape), norm.mean
    _launch(
        kernels.stem_weight_gradient_kernel, convolution, gradient, *norm, spare if slope is None else slope,
        spare if totals is None else totals, partial, ACTIVATION=ACTIVATIONS[activation], BATCH=totals is not None,
    )  # fmt: skip
    return partial.sum(0)


def _empty_statistics(convolution: Convolution) -> Statistics:
    both = convolution.parts(2, convolution.groups.number, len(convolution.taps))
    return Statistics(both[0], both[1], convolution.groups)


def _kept_small(convolution: Convolution) -> dict[str, int]:
    """Options of a launch; products of wider types than 16 bits, which only tests ask for, take what they need."""
    fits = convolution.padded.element_size() == 2 and _tile(len(convolution.taps))[1] >= 64
    return {"maxnreg": MOST_REGISTERS} if fits else {}


def _tile(channels: int) -> tuple[int, int]:
    """Rows and columns of a tile."""
    columns = max(LEAST, triton.next_power_of_2(channels))
    return max(LEAST_ROWS, norms.TILE // columns), columns


def _launch(
    kernel: Any, convolution: Convolution, *given: Tensor, after: tuple[int, ...] = (), **constants: Any
) -> None:
    """A program a group."""
    (_, height, width, channels), groups = convolution.shape, convolution.groups
    tall, wide = _tile(channels)
    launch(
        kernel, (groups.number,), *convolution, *given, groups.rows, groups.length, *after,
        C=channels, H=height, W=width, R=tall, BC=wide, SUM=norms.triton_type(convolution.padded), **constants,
        num_warps=8 if tall * wide > norms.TILE else 4,
    )  # fmt: skip
