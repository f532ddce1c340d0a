"""Softmax over many classes without a matrix [batch, classes]: the classes are processed in chunks, twice.

The forward pass keeps a running log-sum-exp over all classes but the target, and the target's cosine; the backward
pass makes each chunk's cosines again (the online softmax of Milakov & Gimelshein 2018, recomputed as in Dao et al.,
"FlashAttention", NeurIPS 2022, section 3.1). Margins need neither: they change the target's logit alone, a vector.

For batch B, C classes and D dimensions a step executes 8 B C D operations instead of 6, and keeps 8 B D bytes for the
backward pass instead of 12 B C + 4 C D (counted in both; in float32): at B = 1024 and D = 512, 4 MB instead of 0.75 GB
for 52,500 classes and 14 GB for 1,000,000. A chunk lives for a moment: 32 MiB of cosines, as much for exponentials and
half for their gradient, which the second-level cache of a large GPU holds in part. The weight's own gradient, 4 C D
bytes, is needed either way. Measured on a CPU with B = 256, C = 52,500: the peak rises by 0.21 GB instead of 0.55.

Classes that lie on several ranks are one more cut of the same kind: ranks exchange the largest logit, the sum and the
target's cosine of each sample between the passes.
"""

from typing import Any

import torch
from torch import Tensor

from hrfr_fast.model.peers import Peers
from hrfr_fast.model.rounded import wide_product

ENTRIES = 8 << 20
"""Entries of a chunk, batch x classes: 32 MiB as float32."""


def other_classes(
    directions: Tensor, weight: Tensor, labels: Tensor, scale: float, dtype: torch.dtype, entries: int = ENTRIES,
    *, left_out: Tensor | None = None, peers: Peers | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """log sum exp(scale * cosine) over every class but the target, and the target's cosine: float32 [B] each.

    Args:
        directions: float32 [B, D], unit vectors.
        weight: [C, D], C >= 2, class vectors of any length.
        labels: int64 [B], 0 <= label < C. With ``peers`` any other number says that the target is on another rank.
        scale: > 0.
        dtype: float32, or bfloat16: unit vectors and gradients of cosines are then rounded to it before products.
        entries: largest part of [B, C] in memory at a time.
        left_out: bool [C], classes that take no part and are no sample's target; their gradient is 0.
        peers: the ranks that have the other classes, and the same directions; results are over the classes of all,
            and the gradient of ``directions`` is the part that comes from this rank's.

    Gradients flow to ``directions`` and ``weight``. A cosine that rounding took past 1 is clamped and keeps its
    gradient, which lies along the unit vector and is removed by the normalisation.
    """
    result: tuple[Tensor, Tensor] = _OtherClasses.apply(
        directions, weight, labels, scale, dtype, entries, left_out, peers
    )
    return result


class _OtherClasses(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, directions: Tensor, weight: Tensor, labels: Tensor, scale: float, dtype: torch.dtype,
        entries: int, left_out: Tensor | None, peers: Peers | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        total = directions.new_full((len(directions),), -torch.inf)
        target = torch.zeros_like(total)
        rounded = directions.to(dtype)
        for begin, end in _chunks(len(directions), len(weight), entries):
            cosines = _cosines(rounded, _unit(weight[begin:end])[0])
            index, inside = _targets(labels, begin, end)
            cosine = cosines.gather(1, index)
            target = torch.where(inside, cosine, target[:, None])[:, 0]
            logits = cosines.scatter_(1, index, torch.where(inside, -torch.inf, cosine)).mul_(scale)
            if left_out is not None:
                logits.masked_fill_(left_out[begin:end], -torch.inf)
            total = torch.logaddexp(total, logits.logsumexp(1))
        if peers is not None:
            total, target = _of_all(total, target, peers)
        context.save_for_backward(directions, weight, labels, total, left_out)
        context.scale, context.dtype, context.entries = scale, dtype, entries
        return total, target

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        directions, weight, labels, total, left_out = context.saved_tensors
        total_gradient, target_gradient = (context.scale * gradients[0])[:, None], gradients[1][:, None]
        rounded = directions.to(context.dtype)
        directions_gradient, weight_gradient = torch.zeros_like(directions), torch.empty_like(weight)
        for begin, end in _chunks(len(directions), len(weight), context.entries):
            unit, lengths = _unit(weight[begin:end])
            gradient = _cosines(rounded, unit).mul_(context.scale).sub_(total[:, None]).exp_().mul_(total_gradient)
            if left_out is not None:
                gradient.masked_fill_(left_out[begin:end], 0)
            index, inside = _targets(labels, begin, end)
            gradient.scatter_(1, index, torch.where(inside, target_gradient, gradient.gather(1, index)))
            gradient = gradient.to(context.dtype)
            directions_gradient += wide_product(gradient, unit.to(context.dtype))
            unit_gradient = wide_product(gradient.t(), rounded)
            along = (unit_gradient * unit).sum(1, keepdim=True) * unit  # the gradient of w / |w| is orthogonal to w
            weight_gradient[begin:end] = (unit_gradient - along) / lengths
        return directions_gradient, weight_gradient, None, None, None, None, None, None


def _of_all(total: Tensor, target: Tensor, peers: Peers) -> tuple[Tensor, Tensor]:
    """log sum exp over the classes of all ranks, and the cosine that one of them found and others left at 0."""
    top = peers.max(total.clone()).clamp_(min=torch.finfo(total.dtype).min)  # -inf where no other class takes part
    sums = peers.sum(torch.stack([(total - top).exp(), target]))
    return top + sums[0].log(), sums[1]


def _chunks(batch: int, classes: int, entries: int) -> list[tuple[int, int]]:
    """First class of each chunk, and the one after its last."""
    size = max(1, entries // max(1, batch))
    return [(begin, min(begin + size, classes)) for begin in range(0, classes, size)]


def _unit(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float32 unit vectors, and their lengths [n, 1]; lengths below 1e-12 count as that, as in ``normalize``."""
    weight = weight.float()
    lengths = weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return weight / lengths, lengths


def _cosines(rounded: Tensor, unit: Tensor) -> Tensor:
    return wide_product(rounded, unit.to(rounded.dtype).t()).clamp_(-1, 1)


def _targets(labels: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Each row's target column in this chunk, and whether it lies there: int64 and bool [B, 1]."""
    local = labels[:, None] - begin
    return local.clamp(0, end - begin - 1), (local >= 0) & (local < end - begin)
