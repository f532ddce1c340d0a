"""A BatchNorm layer as the tensors and numbers that the kernels take, on CPUs and GPUs."""

from typing import NamedTuple, cast

from torch import Tensor, nn


class BatchNorm(NamedTuple):
    """A BatchNorm layer as tensors, [C] each."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    counter: Tensor | None
    """``num_batches_tracked``; None: not counted."""
    momentum: float
    eps: float
    training: bool
    """Whether it normalises by the batch's statistics and moves the running ones."""


def as_tensors(norm: nn.Module) -> BatchNorm:
    """A BatchNorm2d layer in the mode that it is in."""
    norm = cast(nn.BatchNorm2d, norm)
    return BatchNorm(
        norm.weight, norm.bias, cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var),
        norm.num_batches_tracked, cast(float, norm.momentum), norm.eps, norm.training,
    )  # fmt: skip
