"""Convolutions on CPUs whose weights are larger than their maps, as products of matrices.

oneDNN brings weights into a layout of its own and their gradient back, which takes most of the time where a step uses
each weight for few pixels. A product reads and writes channels-last weights as they are. Forward and both gradients of
3x3 convolutions of 512 channels, 32 images, one core of an AMD EPYC, as oneDNN does it and so: 2x2 maps 11.7 and 4.2 ms
in bfloat16, 27 and 8.3 ms in float32; 4x4 with stride 2 16 and 4.4 ms, 35 and 8.3 ms.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hrfr_fast.model.kernels.cpu_product import product

LARGE = 1 << 19
"""Entries of a weight below which calls cost more than layouts."""


def fits(layer: nn.Module, maps: Tensor) -> bool:
    """Whether ``layer`` is such a convolution of ``maps``, and ``convolved`` computes it: the gradient of the weight is
    taken, and there are no more pixels in the result than channels. With 512 of 256 it took as long either way."""
    if type(layer) is not nn.Conv2d or layer.weight.numel() < LARGE or not layer.weight.requires_grad:
        return False
    sizes = {(len(set(pair)), type(pair[0])) for pair in (layer.kernel_size, layer.stride, layer.padding)}
    plain = layer.bias is None and layer.groups == 1 and set(layer.dilation) == {1} and sizes == {(1, int)}
    return plain and layer.padding_mode == "zeros" and len(maps) * _side(layer, maps) ** 2 <= layer.out_channels


def convolved(layer: nn.Conv2d, maps: Tensor) -> Tensor:
    """[B, out, H / stride, W / stride] of square ``maps`` [B, in, H, W], channels-last, in their type."""
    given = layer.weight.to(maps.dtype), layer.stride[0], cast(int, layer.padding[0])
    made: Tensor = _Convolved.apply(maps, *given)
    return made


def _side(layer: nn.Conv2d, maps: Tensor) -> int:
    size = max(maps.shape[2:]) + 2 * cast(int, layer.padding[0]) - layer.kernel_size[0]
    return size // layer.stride[0] + 1


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, maps: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        context.save_for_backward(maps, weight)
        context.stride, context.padding = stride, padding
        windows = _windows(maps, weight.shape[2], stride, padding)
        made = product(_rows(windows), _matrix(weight).t())
        return made.view(*windows.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = context.saved_tensors
        stride, padding = context.stride, context.padding
        images, channels, height, width = maps.shape
        gradient = gradients[0].permute(0, 2, 3, 1)
        down, right = gradient.shape[1:3]
        rows, size = gradient.reshape(-1, len(weight)), weight.shape[2]
        by_maps = by_weight = None
        if context.needs_input_grad[0]:
            by_window = product(rows, _matrix(weight)).view(images, down, right, size, size, channels)
            padded = maps.new_zeros(images, height + 2 * padding, width + 2 * padding, channels)
            for y in range(size):
                for x in range(size):
                    padded[:, y : y + stride * down : stride, x : x + stride * right : stride] += by_window[
                        :, :, :, y, x
                    ]
            by_maps = padded[:, padding : padding + height, padding : padding + width].permute(0, 3, 1, 2)
        if context.needs_input_grad[1]:
            by_weight = product(rows.t(), _rows(_windows(maps, size, stride, padding)))
            by_weight = by_weight.view(-1, size, size, channels).permute(0, 3, 1, 2)
        return by_maps, by_weight, None, None


def _windows(maps: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """What each pixel of the result sees, [B, H, W, size, size, C], a view of the maps with their margin."""
    padded = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4))
    return padded.unfold(1, size, stride).unfold(2, size, stride).permute(0, 1, 2, 4, 5, 3)


def _rows(windows: Tensor) -> Tensor:
    return windows.reshape(windows.shape[:3].numel(), -1)


def _matrix(weight: Tensor) -> Tensor:
    """[out, size * size * in], a view where the weight is channels-last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
