"""Margin-softmax heads: embeddings and labels in, mean loss out.

All share one shape: cosines between the normalised embedding and the normalised class vectors, the target's cosine
made smaller by a margin, everything scaled by s, cross entropy. Cosines, margins and loss are float32 whatever the
autocast type: with s = 64 a bfloat16 cosine would be off by 0.2 in the exponent.

Margins are written in cosines, never through acos, whose slope is infinite at |cos| = 1.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.errors import UsageError

EPSILON = 1e-6  # keeps sqrt(1 - cos^2) differentiable at |cos| = 1; shifts the sine by at most 0.001 there


def sine(cosine: Tensor) -> Tensor:
    """sin(theta) >= 0 for theta in [0, pi], with a finite gradient everywhere."""
    return (1 - cosine * cosine).clamp(min=EPSILON).sqrt()


def shifted_cosine(cosine: Tensor, margin: Tensor | float) -> Tensor:
    """cos(theta + m) while theta + m <= pi, beyond that the line cos(theta) - m sin(m), which keeps falling.

    The continuation is that of the ArcFace authors' implementation (Deng et al., CVPR 2019): without it the logit
    would rise again for the worst examples. For m < 0 (AdaFace) the lower end, theta + m < 0, is held at cos(0) = 1
    plus the line's slope in the same way.
    """
    margin = torch.as_tensor(margin, dtype=cosine.dtype, device=cosine.device)
    shifted = cosine * margin.cos() - sine(cosine) * margin.sin()
    beyond = cosine <= (math.pi - margin).cos()
    shifted = torch.where(beyond & (margin > 0), cosine - margin * margin.sin(), shifted)
    below = cosine >= (-margin).cos()
    return torch.where(below & (margin < 0), torch.ones_like(cosine), shifted)


class MarginHead(nn.Module):
    """Base of all heads. ``weight`` is [classes, embedding_size], one direction a class.

    Args:
        embedding_size, classes: shape of the weight.
        scale: s, > 0.
        margin: m, its meaning in each subclass.
    """

    default_scale, default_margin = 64.0, 0.0

    def __init__(self, embedding_size: int, classes: int, scale: float | None, margin: float | None) -> None:
        super().__init__()
        self.scale = self.default_scale if scale is None else scale
        self.margin = self.default_margin if margin is None else margin
        if self.scale <= 0:
            raise UsageError(f"the head's scale is {self.scale}; it must be positive")
        if classes < 2:
            raise UsageError(f"a head over {classes} identities has nothing to tell apart; at least 2 are needed")
        self.weight = nn.Parameter(torch.empty(classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, embeddings: Tensor, labels: Tensor, step: int = 0, reduction: str = "mean") -> Tensor:
        """Cross entropy of the margin logits: a float32 scalar ("mean") or [B] ("none").

        Args:
            embeddings: [B, D], any float type, not normalised.
            labels: int64 [B], 0 <= label < classes.
            step: optimiser steps taken so far, for heads that anneal.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return functional.cross_entropy(self.logits(embeddings, labels, step), labels, reduction=reduction)

    def logits(self, embeddings: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        """float32 [B, classes]: s * cos, the target's entry replaced by its margin version."""
        embeddings = embeddings.float()
        norms = embeddings.norm(dim=1, keepdim=True).clamp(min=1e-12)
        cosines = functional.linear(embeddings / norms, functional.normalize(self.weight.float())).clamp(-1, 1)
        index = labels[:, None]
        target = self.target(cosines.gather(1, index), norms, step)
        return self.scale * cosines.scatter(1, index, target)

    def target(self, cosine: Tensor, norms: Tensor, step: int) -> Tensor:
        """The target logit over s, float32 [B, 1], from its cosine and the embedding's norm, both [B, 1]."""
        raise NotImplementedError


class ArcFace(MarginHead):
    """cos(theta + m), m = 0.5 (Deng et al., CVPR 2019, equation 3)."""

    default_margin = 0.5

    def target(self, cosine: Tensor, norms: Tensor, step: int) -> Tensor:
        return shifted_cosine(cosine, self.margin)


class CosFace(MarginHead):
    """cos(theta) - m, m = 0.35 (Wang et al., CVPR 2018, equation 4)."""

    default_margin = 0.35

    def target(self, cosine: Tensor, norms: Tensor, step: int) -> Tensor:
        return cosine - self.margin


class SphereFace(MarginHead):
    """psi(theta) = (-1)^k cos(m theta) - 2k, m = 4, annealed (Liu et al., CVPR 2017, equation 7 and appendix).

    The target is (lambda cos(theta) + psi(theta)) / (1 + lambda) with lambda = max(5, 1000 / (1 + 0.12 step)).
    The margin is a whole number: cos(m theta) is the Chebyshev polynomial of the cosine.
    """

    default_margin = 4.0

    def __init__(self, embedding_size: int, classes: int, scale: float | None, margin: float | None) -> None:
        super().__init__(embedding_size, classes, scale, margin)
        if self.margin != int(self.margin) or self.margin < 1:
            raise UsageError(f"SphereFace's margin is {self.margin}; it must be a whole number of at least 1")

    def target(self, cosine: Tensor, norms: Tensor, step: int) -> Tensor:
        times = int(self.margin)
        previous, current = torch.ones_like(cosine), cosine
        for _ in range(times - 1):
            previous, current = current, 2 * cosine * current - previous
        with torch.no_grad():
            k = torch.floor(times * torch.acos(cosine) / math.pi).clamp(max=times - 1)
        psi = torch.where(k % 2 == 0, current, -current) - 2 * k
        mix = max(5.0, 1000.0 / (1.0 + 0.12 * step))
        return (mix * cosine + psi) / (1 + mix)


class Combined(MarginHead):
    """cos(m1 theta + m2) - m3 (Deng et al., CVPR 2019, equation 4) with m1 = 1, m2 = 0.3, m3 = 0.2.

    ``margin`` replaces m2. m1 multiplies the *angle*; where m1 theta + m2 > pi the cosine is continued by the line
    -1 - (m1 theta + m2 - pi) sin(m2), so that the logit keeps falling.
    """

    default_margin = 0.3
    angle_factor, cosine_margin = 1.0, 0.2

    def target(self, cosine: Tensor, norms: Tensor, step: int) -> Tensor:
        if self.angle_factor == 1.0:
            return shifted_cosine(cosine, self.margin) - self.cosine_margin
        angle = self.angle_factor * torch.atan2(sine(cosine), cosine) + self.margin
        beyond = -1 - (angle - math.pi) * math.sin(self.margin)
        return torch.where(angle > math.pi, beyond, angle.cos()) - self.cosine_margin


class AdaFace(MarginHead):
    """Margin by image quality, read off the embedding's norm (Kim et al., CVPR 2022, equations 7 to 11).

    m = 0.4, h = 0.333; the batch's norm statistics are averaged exponentially with t_alpha = 0.01, kept as buffers.
    """

    default_margin = 0.4
    concentration, t_alpha = 0.333, 0.01
    mean: Tensor
    std: Tensor

    def __init__(self, embedding_size: int, classes: int, scale: float | None, margin: float | None) -> None:
        super().__init__(embedding_size, classes, scale, margin)
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    def target(self, cosine: Tensor, norms: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            safe = norms.clamp(0.001, 100)
            if self.training and len(safe) > 1:
                self.mean.lerp_(safe.mean(), self.t_alpha)
                self.std.lerp_(safe.std(), self.t_alpha)
            quality = ((safe - self.mean) / (self.std + 1e-3) * self.concentration).clamp(-1, 1)
        return shifted_cosine(cosine, -self.margin * quality) - (self.margin + self.margin * quality)


class NormSoftmax(MarginHead):
    """No margin: softmax over scaled cosines (Wang et al., "NormFace", 2017), s = 32."""

    default_scale = 32.0

    def target(self, cosine: Tensor, norms: Tensor, step: int) -> Tensor:
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
    name: str, embedding_size: int, classes: int, *, scale: float | None = None, margin: float | None = None
) -> MarginHead:
    """The head called ``name``; scale and margin default to its paper's. Raises UsageError for an unknown name."""
    if name not in HEADS:
        raise UsageError(f"no head is called {name!r}; there are {', '.join(HEADS)}")
    return HEADS[name](embedding_size, classes, scale, margin)
