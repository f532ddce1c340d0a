"""Cosines of an angle that a margin has changed, from the cosine of the angle.

They are written in cosines, never through acos, whose slope is infinite at |cos| = 1.
"""

import math

import torch
from torch import Tensor

EPSILON = 1e-6  # keeps sqrt(1 - cos^2) differentiable at |cos| = 1; shifts the sine by at most 0.001 there


def sine(cosine: Tensor) -> Tensor:
    """sin(theta) >= 0 for theta in [0, pi], with a finite gradient everywhere."""
    return (1 - cosine * cosine).clamp(min=EPSILON).sqrt()


def shifted_cosine(cosine: Tensor, margin: float) -> Tensor:
    """cos(theta + m) while theta + m <= pi, beyond that the line cos(theta) - m sin(m), which keeps falling.

    The continuation is that of the ArcFace authors' implementation (Deng et al., CVPR 2019): without it the logit
    would rise again for the worst examples. 0 <= m <= pi / 2: the line starts below -1 only for m up to 2.33.
    """
    shifted = cosine * math.cos(margin) - sine(cosine) * math.sin(margin)
    beyond = cosine <= math.cos(math.pi - margin)
    return torch.where(beyond, cosine - margin * math.sin(margin), shifted)


def shifted_cosine_each(cosine: Tensor, margin: Tensor) -> Tensor:
    """``shifted_cosine`` with a margin for each entry, which may be negative: |m| <= pi / 2.

    Where theta + m < 0 the angle is held at 0 (the value at 1, no gradient), as in the AdaFace authors'
    implementation.
    """
    shifted = cosine * margin.cos() - sine(cosine) * margin.sin()
    beyond = (margin > 0) & (cosine <= (math.pi - margin).cos())
    below = (margin < 0) & (cosine >= margin.cos())
    shifted = torch.where(beyond, cosine - margin * margin.sin(), shifted)
    return torch.where(below, torch.ones_like(cosine), shifted)


def folded_cosine(cosine: Tensor, angle: Tensor) -> Tensor:
    """psi = (-1)^k cos(angle) - 2k with k = floor(angle / pi): cos(angle) continued so that it falls for ever.

    Args:
        cosine: cos(angle), with its gradient.
        angle: the angle in radians, >= 0; only k is taken from it.
    Liu et al., CVPR 2017, equation 7. Where k changes both branches have the same value.
    """
    k = torch.floor(angle.detach() / math.pi)
    return torch.where(k % 2 == 0, cosine, -cosine) - 2 * k
