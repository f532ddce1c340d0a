"""Products of float32 matrices on CPUs, by oneDNN.

torch multiplies with MKL, which takes the AVX2 path on processors that are not Intel's; oneDNN, which computes torch's
convolutions, uses what there is. One core of an AMD EPYC with AVX-512: 105 GFLOP/s and 220, for [128, 512] times [512,
5000] and the two products of its gradient; as fast as MKL where only AVX2 is allowed.
"""

import platform
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, of two matrices in any layout."""
    if _by_onednn and a.dtype == b.dtype == torch.float32 and a.numel() and b.numel():
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], ""))
    return a @ b


# What torch's own compiler calls for linear layers. Elsewhere than on x86, MKL is not what torch multiplies with.
_by_onednn = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def linear(values: Tensor, layer: nn.Linear) -> Tensor:
    """``layer`` of float32 [B, in]."""
    made: Tensor = _Linear.apply(values, layer.weight)
    return made if layer.bias is None else made + layer.bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(values, weight)
        return product(values, weight.t())

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        values, weight = context.saved_tensors
        by_values = product(gradients[0], weight) if context.needs_input_grad[0] else None
        return by_values, product(gradients[0].t(), values) if context.needs_input_grad[1] else None
