"""Every s-th row and column of maps: slicing here, ``MaxPool2d(1, s)`` for whoever writes the network down.

Pooling makes an int64 index of each output, four times the bytes of the maps in bfloat16, also where no gradient will
be asked for. Slicing makes nothing. Plain ``maps[:, :, ::s, ::s]`` would do, but its gradient is laid out channel by
channel: the layers before would go on in that layout.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn


class Subsample(nn.MaxPool2d):
    """[B, C, H, W] to [B, C, ceil(H / s), ceil(W / s)], the values and gradients of ``MaxPool2d(1, s)`` to the bit.

    It is one for all who look at the network: exports and other files of weights know pooling.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        if torch.jit.is_tracing() or (torch.compiler.is_compiling() and not maps.requires_grad):
            return super().forward(maps)
        return cast(Tensor, _Sliced.apply(maps, self.stride))


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, stride: int) -> Tensor:
        ctx.stride, ctx.shape = stride, maps.shape
        by_pixel = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
        ctx.layout = torch.channels_last if by_pixel else torch.contiguous_format  # as pooling chooses it
        return maps[:, :, ::stride, ::stride].contiguous(memory_format=ctx.layout)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (gradient,) = gradients
        result = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout).zero_()
        result[:, :, :: ctx.stride, :: ctx.stride] = gradient
        return result, None
