"""Matrix products of 16-bit operands whose sums and results are float32."""

from typing import Any

import torch
from torch import Tensor


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, whatever their type.

    On CUDA tensor cores multiply 16-bit matrices so; elsewhere they are converted to float32 first.
    """
    if a.dtype == b.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class RoundedProduct(torch.autograd.Function):
    """a @ b.T, both rounded to 16 bits, summed and returned in float32; the backward's two products likewise."""

    @staticmethod
    def forward(context: Any, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        a, b = a.to(dtype), b.to(dtype)
        context.save_for_backward(a, b)
        return wide_product(a, b.t())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = context.saved_tensors
        gradient = gradients[0].to(a.dtype)
        return wide_product(gradient, b), wide_product(gradient.t(), a), None
