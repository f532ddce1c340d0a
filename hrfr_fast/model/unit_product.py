"""Cosines between unit vectors and class vectors of any length, without a copy of the normalised class vectors."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST = 1e-12
"""Shorter class vectors count as this long, as in ``torch.nn.functional.normalize``."""


class UnitProduct(torch.autograd.Function):
    """directions @ (weight / |weight|).T, float32 [B, C], of float32 [B, D] and [C, D].

    The columns of the product are divided, not the class vectors, and the part of the gradient along a class vector,
    which its normalisation removes, is sum of gradient times cosine over the batch, again a number a class. So a step
    passes 8 times over matrices of the weight's size, where ``normalize`` and ``linear`` do about 20 times; at 50,000
    classes and 512 dimensions one is 100 MB.
    """

    @staticmethod
    def forward(context: Any, directions: Tensor, weight: Tensor) -> Tensor:
        lengths = weight.norm(dim=1).clamp_(min=SHORTEST)
        cosines = (directions @ weight.t()).div_(lengths)
        context.save_for_backward(directions, weight, lengths, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        directions, weight, lengths, cosines = context.saved_tensors
        scaled = gradients[0] / lengths
        by_directions = scaled @ weight if context.needs_input_grad[0] else None
        if not context.needs_input_grad[1]:
            return by_directions, None
        by_weight = scaled.t() @ directions
        along = (scaled * cosines).sum(0).div_(lengths).masked_fill_(lengths <= SHORTEST, 0.0)
        return by_directions, by_weight.addcmul_(weight, along[:, None], value=-1)
