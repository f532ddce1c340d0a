"""The stem of a network, convolution, BatchNorm and activation, as the kernels in ``stem_triton`` compute it.

In units of one map of the stem: 1 forward (0 for the statistics) and 2 backward. A convolution of cuDNN's with
``norm.normalise`` moves 1 + 3 and 2 + 3 + 1, and pads the images' channels besides, forward and backward.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hrfr_fast.model.kernels import stem_launch as launch
from hrfr_fast.model.kernels.batch_norm import BatchNorm
from hrfr_fast.model.kernels.norm import numbers_of
from hrfr_fast.model.kernels.norm_launch import Norm, Statistics, as_rows, totals_of
from hrfr_fast.model.kernels.stem_launch import Convolution


def computes(convolution: nn.Module, images: Tensor) -> bool:
    """Whether ``convolution`` of ``images`` is one that ``stem`` computes, and no gradient by them is asked for."""
    if type(convolution) is not nn.Conv2d or images.requires_grad or images.ndim != 4:
        return False  # a subclass may have an adapter
    given = convolution.weight.dtype, images.dtype
    dtype = computed_in(images)
    known = set(given) <= {torch.float32, dtype} if autocasts(images) else given[0] == given[1]
    shape = convolution.weight.shape[1:], convolution.stride, convolution.padding, convolution.dilation
    size = images.shape[0] * (images.shape[2] + 2) * (images.shape[3] + 2)
    return (
        known
        and (images.device.type != "cuda" or dtype in (torch.bfloat16, torch.float16))  # others: no tensor cores
        and shape == ((3, 3, 3), (1, 1), (1, 1), (1, 1))
        and (convolution.groups, convolution.bias, convolution.padding_mode) == (1, None, "zeros")
        and images.shape[1] == 3
        and convolution.out_channels <= launch.WIDEST
        and 0 < size < 1 << 31
    )


def autocasts(images: Tensor) -> bool:
    """Whether autocast would round ``images`` for a convolution."""
    return torch.is_autocast_enabled(_kind(images)) and images.dtype in (torch.float32, torch.float16, torch.bfloat16)


def computed_in(images: Tensor) -> torch.dtype:
    """The type that a convolution of ``images`` is computed in, and its maps have."""
    return torch.get_autocast_dtype(_kind(images)) if autocasts(images) else images.dtype


def stem(
    images: Tensor, weight: Tensor, norm: BatchNorm, activation: str = "none", slope: Tensor | None = None,
    *, measure: bool = False,
) -> tuple[Tensor, Statistics | None]:  # fmt: skip
    """activation(BN(convolution(images))), channels-last [B, C, H, W]; and with ``measure`` its statistics.

    Args:
        images: [B, 3, H, W], at any strides; without gradient.
        weight: the convolution's, [C, 3, 3, 3], of any floating type; rounded to the type of the maps.
        activation: none, relu, or prelu with ``slope`` [C].

    Raises:
        ValueError: one value a channel in training, as torch does.
    """
    convolution = Convolution(launch.padded(images, computed_in(images)), launch.taps(weight))
    if norm.training and convolution.groups.rows == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got one pixel {tuple(images.shape)}")
    made, means, squares = _Stem.apply(convolution, weight, norm.weight, norm.bias, slope, norm, activation, measure)
    return made, Statistics(means, squares, convolution.groups) if measure else None


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, convolution: Convolution, by: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None,
        norm: BatchNorm, activation: str, measure: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        numbers = numbers_of(norm, launch.statistics(convolution) if norm.training else None)
        made, following = launch.normalised(convolution, numbers, activation, slope, measure=measure)
        context.save_for_backward(convolution.padded, by, *numbers, slope)
        context.activation, context.training = activation, norm.training
        context.set_materialize_grads(False)
        measured = (following.means, following.squares) if following else (None, None)
        if following:
            context.mark_non_differentiable(*measured)
        return made.permute(0, 3, 1, 2), *measured

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        padded, by, mean, inverse_std, weight, bias, slope = context.saved_tensors
        if gradients[0] is None:
            return (None,) * 8
        convolution, numbers = Convolution(padded, launch.taps(by)), Norm(mean, inverse_std, weight, bias)
        gradient, wanted, activation = as_rows(gradients[0]), context.needs_input_grad, context.activation
        sums, by_weight = None, None
        if any(wanted[2:5]) or context.training:
            sums = totals_of(launch.gradient_sums(convolution, gradient, numbers, activation, slope), inverse_std)
        if wanted[1]:
            totals = sums if context.training else None
            found = launch.weight_gradient(convolution, gradient, numbers, totals, activation, slope)
            by_weight = found.view(-1, 3, 3, 3).permute(0, 3, 1, 2).to(by.dtype)
        if sums is None:
            return None, by_weight, *(None,) * 6
        by_slope = sums[2].to(slope.dtype) if activation == "prelu" else None
        return None, by_weight, sums[-1].to(weight.dtype), sums[0].to(bias.dtype), by_slope, *(None,) * 3


def _kind(images: Tensor) -> str:
    """The kind of device that autocast asks about; on the meta device launches are only counted."""
    return "cpu" if images.device.type == "meta" else images.device.type
