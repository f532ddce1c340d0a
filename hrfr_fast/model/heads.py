"""Margin-softmax heads: embeddings and labels in, mean loss out.

All have one form: cosines between the normalised embedding and the normalised class vectors, the target's cosine
made smaller by a margin, everything scaled by s, cross entropy. Cosines, margins and loss are float32 whatever the
autocast type: with s = 64 a bfloat16 cosine would be off by up to 0.13 in the exponent.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.model.class_chunks import ENTRIES, other_classes
from hrfr_fast.model.class_shards import ClassShard, initial_rows
from hrfr_fast.model.kernels import cpu_head
from hrfr_fast.model.margins import folded_cosine, shifted_cosine, shifted_cosine_each, sine
from hrfr_fast.model.rounded import RoundedProduct
from hrfr_fast.runtime.errors import UsageError

SMALLEST_NORM = 1e-3  # shorter embeddings count as this long: the slope of e / |e| has no bound at 0


class MarginHead(nn.Module, ABC):
    """Base of all heads. ``weight`` is [classes, embedding_size], one direction a class.

    Args:
        embedding_size, classes: shape of the weight.
        rows: of these classes, where other ranks have the others (``class_shards``); None: all.
        scale: s, > 0; None: the paper's.
        margin: m, its meaning and range in each subclass; None: the paper's.

    ``matmul_dtype`` may be set to torch.bfloat16: unit vectors are then rounded to it, their products are still summed
    and kept in float32. A cosine is then off by about 1e-4 (512 dimensions), not by up to 2e-3 as a bfloat16 result.

    ``chunk_entries``: where batch x classes is more than this (8 Mi: 8,192 classes at batch 1024), the loss goes
    through the classes in chunks of this many entries, forward and backward, see ``class_chunks``.

    ``gpu_kernels``: it goes through GPU kernels of our own instead, see ``kernels/head.py``, which says where they can.

    Raises:
        UsageError: scale, margin, matmul_dtype or the number of classes out of range.
    """

    default_scale, default_margin = 64.0, 0.0
    largest_margin = math.inf
    matmul_dtype = torch.float32
    chunk_entries = ENTRIES
    shard: ClassShard | None = None
    """Set where ``weight`` holds a part of the classes, or a part of them is used in a step."""
    gpu_kernels = False
    cpu_kernels = False
    """Whether the loss takes fewer passes over the matrix [batch, classes], in float32, see ``kernels/cpu_head.py``."""

    def __init__(
        self, embedding_size: int, classes: int, scale: float | None, margin: float | None, rows: range | None = None
    ) -> None:
        super().__init__()
        self.scale = self.default_scale if scale is None else scale
        self.margin = self.default_margin if margin is None else margin
        if not 0 < self.scale < math.inf:
            raise UsageError(f"the head's scale is {self.scale}; it must be positive and finite")
        if not (0 <= self.margin <= self.largest_margin and math.isfinite(self.margin)):
            upper = "and finite" if self.largest_margin == math.inf else f"and at most {self.largest_margin:.4f}"
            raise UsageError(f"{type(self).__name__}'s margin is {self.margin}; it must be at least 0 {upper}")
        if classes < 2:
            raise UsageError(f"a head over {classes} identities has nothing to distinguish; at least 2 are needed")
        self.weight = nn.Parameter(initial_rows(classes, embedding_size, rows or range(classes)))

    @property
    def sharded(self) -> bool:
        """Whether the weight is this rank's alone, and not a copy that all ranks have to keep equal."""
        return self.shard is not None and self.shard.peers.count > 1

    @property
    def trained_rows(self) -> nn.Parameter:
        """What an optimiser trains: the weight, or the rows of it that take part in a step."""
        return self.get_parameter("weight" if "weight" in self._parameters else "sampled")

    def forward(self, embeddings: Tensor, labels: Tensor, step: int | Tensor = 0, reduction: str = "mean") -> Tensor:
        """Cross entropy of the margin logits: a float32 scalar ("mean") or [B] ("none").

        Args:
            embeddings: [B, D], any float type, not normalised.
            labels: int64 [B], 0 <= label < classes.
            step: optimiser steps taken so far, for heads that anneal; a scalar tensor on the device will do.
            reduction: "mean" or "none".
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.shard is not None:
                return self.shard.loss(self, embeddings, labels, step, reduction)
            if self.gpu_kernels or self.cpu_kernels or len(embeddings) * len(self.weight) > self.chunk_entries:
                losses = self.chunked_losses(embeddings, labels, step, self.weight)
                return losses.mean() if reduction == "mean" else losses
            return functional.cross_entropy(self.logits(embeddings, labels, step), labels, reduction=reduction)

    def chunked_losses(
        self, embeddings: Tensor, labels: Tensor, step: int | Tensor, weight: Tensor, **more: Any
    ) -> Tensor:
        """float32 [B]: log(exp(others) + exp(target)) - target, with ``others`` the log-sum-exp of all but it.

        ``labels``: rows of ``weight``. ``more``: for ``other_classes``.
        """
        directions, norms = self._directions(embeddings)
        given = (directions, weight, labels, self.scale, self._checked_dtype())
        fits = len(embeddings) * len(weight) <= self.chunk_entries
        if self.gpu_kernels:
            from hrfr_fast.model.kernels import head  # it needs Triton

            others, cosine = head.other_classes(*given)
        elif self.cpu_kernels and fits and given[-1] == torch.float32 and not more:
            others, cosine = cpu_head.other_classes(*given[:-1])
        else:
            others, cosine = other_classes(*given, self.chunk_entries, **more)
        target = self.target(cosine[:, None], norms, step)[:, 0]
        return functional.softplus(others - self.scale * target)

    @staticmethod
    def _directions(embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors float32 [B, D], and their lengths [B, 1]."""
        embeddings = embeddings.float()
        norms = embeddings.norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM)
        return embeddings / norms, norms

    def logits(self, embeddings: Tensor, labels: Tensor, step: int | Tensor = 0) -> Tensor:
        """float32 [B, classes]: s * cos, the target's entry replaced by its margin version."""
        directions, norms = self._directions(embeddings)
        cosines = self.cosines(directions)
        index = labels[:, None]
        target = self.target(cosines.gather(1, index), norms, step)
        return self.scale * cosines.scatter(1, index, target)

    def cosines(self, directions: Tensor) -> Tensor:
        """float32 [B, classes] in [-1, 1] of unit vectors float32 [B, D] and the class vectors."""
        classes, dtype = functional.normalize(self.weight.float()), self._checked_dtype()
        if dtype == torch.float32:
            product = functional.linear(directions, classes)
        else:
            product = RoundedProduct.apply(directions, classes, dtype)
        return product.clamp(-1, 1)  # rounding may go past 1

    def _checked_dtype(self) -> torch.dtype:
        if self.matmul_dtype not in (torch.float32, torch.bfloat16):
            raise UsageError(f"matmul_dtype is {self.matmul_dtype}; it must be torch.float32 or torch.bfloat16")
        return self.matmul_dtype

    @abstractmethod
    def target(self, cosine: Tensor, norms: Tensor, step: int | Tensor) -> Tensor:
        """The target logit over s, float32 [B, 1], from its cosine and the embedding's norm, both [B, 1]."""


class ArcFace(MarginHead):
    """cos(theta + m), m = 0.5 radians, 0 to pi / 2 (Deng et al., CVPR 2019, equation 3)."""

    default_margin, largest_margin = 0.5, math.pi / 2

    def target(self, cosine: Tensor, norms: Tensor, step: int | Tensor) -> Tensor:
        return shifted_cosine(cosine, self.margin)


class CosFace(MarginHead):
    """cos(theta) - m, m = 0.35 in cosines, >= 0 (Wang et al., CVPR 2018, equation 4)."""

    default_margin = 0.35

    def target(self, cosine: Tensor, norms: Tensor, step: int | Tensor) -> Tensor:
        return cosine - self.margin


class SphereFace(MarginHead):
    """psi(theta) = (-1)^k cos(m theta) - 2k, m = 4, annealed (Liu et al., CVPR 2017, equation 7 and appendix).

    The target is (lambda cos(theta) + psi(theta)) / (1 + lambda) with lambda = max(5, 1000 / (1 + 0.12 step)).
    The margin is a whole number: cos(m theta) is the Chebyshev polynomial of the cosine.
    """

    default_margin = 4.0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if not float(self.margin).is_integer() or self.margin < 1:
            raise UsageError(f"SphereFace's margin is {self.margin}; it must be a whole number of at least 1")

    def target(self, cosine: Tensor, norms: Tensor, step: int | Tensor) -> Tensor:
        times = int(self.margin)
        previous, current = torch.ones_like(cosine), cosine
        for _ in range(times - 1):
            previous, current = current, 2 * cosine * current - previous
        angle = times * torch.acos(cosine.detach())
        psi = folded_cosine(current, angle.clamp(max=times * math.pi * (1 - 1e-6)))  # at cos = -1 too, k = m - 1
        mix = annealing(step)
        return (mix * cosine + psi) / (1 + mix)


def annealing(step: int | Tensor) -> float | Tensor:
    """lambda = max(5, 1000 / (1 + 0.12 step)): the margin's share 1 / (1 + lambda) grows from 0.001 to 1/6.

    Schedule of the SphereFace authors' published training code (MarginInnerProduct: base 1000, gamma 0.12, power 1,
    lambda_min 5).
    """
    if isinstance(step, Tensor):  # no max() on the host, which would wait for the device
        return (1000.0 / (1.0 + 0.12 * step)).clamp(min=5.0)
    return max(5.0, 1000.0 / (1.0 + 0.12 * step))


class Combined(MarginHead):
    """cos(m1 theta + m2) - m3 with m1 = 1, m2 = 0.3, m3 = 0.2 (Deng et al., CVPR 2019, equation 4).

    ``margin`` is m2 in radians, 0 to pi / 2. m1 multiplies the *angle* and m3 is in cosines; both are attributes,
    ``angle_factor`` > 0 and ``cosine_margin`` >= 0. Past pi the logit keeps falling: along ArcFace's line for
    m1 = 1, else folded as in SphereFace.
    """

    default_margin, largest_margin = 0.3, math.pi / 2
    angle_factor, cosine_margin = 1.0, 0.2

    def target(self, cosine: Tensor, norms: Tensor, step: int | Tensor) -> Tensor:
        if self.angle_factor == 1.0:
            return shifted_cosine(cosine, self.margin) - self.cosine_margin
        # The clipped sine bounds the angle's slope, -1 / sin(theta), at 1,000.
        angle = self.angle_factor * torch.atan2(sine(cosine), cosine) + self.margin
        return folded_cosine(angle.cos(), angle) - self.cosine_margin


class AdaFace(MarginHead):
    """Margin by image quality, measured by the embedding's norm (Kim et al., CVPR 2022, equations 7 to 11).

    The target is cos(theta - m q) - (m q + m): q = clip(h (|e| - mean) / std, -1, 1), without gradient, is the
    embedding's norm, clipped to 0.001 .. 100, against the averages of the batches' mean and deviation. m = 0.4,
    0 to pi / 2; h = 0.333; the averages move by t_alpha = 0.01 with each micro-batch of training and are buffers, saved
    with the weights. Past pi the target follows ArcFace's line, where the authors' code holds it without gradient.
    """

    default_margin, largest_margin = 0.4, math.pi / 2
    concentration, t_alpha = 0.333, 0.01
    mean: Tensor
    std: Tensor

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    def target(self, cosine: Tensor, norms: Tensor, step: int | Tensor) -> Tensor:
        with torch.no_grad():
            safe = norms.clamp(SMALLEST_NORM, 100)
            if self.training and len(safe) > 1:
                self.mean.lerp_(safe.mean(), self.t_alpha)
                self.std.lerp_(safe.std(), self.t_alpha)
            quality = ((safe - self.mean) / (self.std + 1e-3) * self.concentration).clamp(-1, 1)
        return shifted_cosine_each(cosine, -self.margin * quality) - (self.margin + self.margin * quality)


class NormSoftmax(MarginHead):
    """No margin (``margin`` is ignored): softmax over scaled cosines (Wang et al., "NormFace", 2017), s = 32."""

    default_scale = 32.0

    def target(self, cosine: Tensor, norms: Tensor, step: int | Tensor) -> Tensor:
        return cosine


HEADS: dict[str, type[MarginHead]] = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "sphereface": SphereFace,
    "combined": Combined,
    "adaface": AdaFace,
    "softmax": NormSoftmax,
}


def build_head(
    name: str, embedding_size: int, classes: int, *,
    scale: float | None = None, margin: float | None = None, shard: ClassShard | None = None,
) -> MarginHead:  # fmt: skip
    """The head called ``name``; scale and margin default to its paper's. Raises UsageError for an unknown name.

    ``shard``: of ``classes`` classes; the head then holds its rows alone, as the whole head would have drawn them.
    """
    if name not in HEADS:
        raise UsageError(f"no head is called {name!r}; there are {', '.join(HEADS)}")
    head = HEADS[name](embedding_size, classes, scale, margin, shard.rows if shard else None)
    head.shard = shard
    return head
