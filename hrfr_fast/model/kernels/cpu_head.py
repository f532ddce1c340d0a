"""Softmax over many classes on CPUs, with few passes over its large matrices: ``class_chunks`` in another execution.

The columns of the product are divided by the class vectors' lengths, not the class vectors, and the part of the
gradient along a class vector, which its normalisation removes, is a sum of gradient times cosine over the batch, again
a number a class. What is elementwise is done for a few rows of the batch at a time, which stay in the cache, and the
margin changes a vector, not the matrix.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrfr_fast.model.kernels.cpu_product import product

SHORTEST = 1e-12
"""Shorter class vectors count as this long, as in ``torch.nn.functional.normalize``."""
BLOCK = 1 << 17
"""Entries of the matrix at a time, about: 512 KiB, half of a second-level cache."""
CLASSES = 4096
"""Whose gradients are computed at a time: of 50,000 classes at once oneDNN took 2.3 times as long."""


def other_classes(directions: Tensor, weight: Tensor, labels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """As ``class_chunks.other_classes``; keeps the matrix [B, C] for the backward pass.

    Args:
        directions: float32 [B, D], unit vectors.
        weight: float32 [C, D], C >= 2, class vectors of any length.
        labels: int64 [B], 0 <= label < C.
        scale: > 0.
    """
    result: tuple[Tensor, Tensor] = _OtherClasses.apply(directions, weight, labels, scale)
    return result


class _OtherClasses(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, directions: Tensor, weight: Tensor, labels: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        lengths = weight.norm(dim=1).clamp_(min=SHORTEST)
        logits = product(directions, weight.t())
        total, target = directions.new_empty(len(logits)), directions.new_empty(len(logits))
        for part in _blocks(logits):
            rows, index = logits[part].div_(lengths).clamp_(-1, 1), labels[part, None]
            cosine = rows.gather(1, index)
            rows.mul_(scale).scatter_(1, index, -torch.inf)
            total[part], target[part] = rows.logsumexp(1), cosine[:, 0]
            rows.scatter_(1, index, cosine * scale)
        context.save_for_backward(directions, weight, labels, lengths, logits, total)
        context.scale = scale
        return total, target

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        directions, weight, labels, lengths, logits, total = context.saved_tensors
        total_gradient, target_gradient = (context.scale * gradients[0])[:, None], gradients[1][:, None]
        scaled, along = torch.empty_like(logits), torch.zeros_like(lengths)
        for part in _blocks(logits):
            rows = torch.sub(logits[part], total[part, None], out=scaled[part]).exp_().mul_(total_gradient[part])
            rows.scatter_(1, labels[part, None], target_gradient[part])
            along += (rows * logits[part]).sum(0)
            rows.div_(lengths)
        by_directions = product(scaled, weight) if context.needs_input_grad[0] else None
        if not context.needs_input_grad[1]:
            return by_directions, None, None, None
        along.div_(lengths.square().mul_(-context.scale)).masked_fill_(lengths <= SHORTEST, 0.0)
        by_weight = torch.empty_like(weight)
        for begin in range(0, len(weight), CLASSES):
            part = slice(begin, begin + CLASSES)
            across = product(scaled[:, part].t(), directions)
            torch.addcmul(across, weight[part], along[part, None], out=by_weight[part])
        return by_directions, by_weight, None, None


def _blocks(matrix: Tensor) -> Iterator[slice]:
    """Rows of about ``BLOCK`` entries, one block after the other."""
    size = max(1, BLOCK // matrix.shape[1])
    return (slice(begin, begin + size) for begin in range(0, len(matrix), size))
