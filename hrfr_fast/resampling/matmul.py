"""The resampling definition as batched matrix products, for torch on any device.

All of an augmentation but colour and erasing is separable and linear, so degradation, box resampling and blur of one
picture collapse into one [S, size] matrix an axis: out = V @ picture @ H^T. The matrices are built on the device.
"""

import math
from typing import TYPE_CHECKING

from hrfr_fast.resampling.cpu import ERASE_LEVEL, TIE
from hrfr_fast.sampling.augmentation import Augmentation

if TYPE_CHECKING:
    from torch import Tensor


def resample_torch(pixels: "Tensor", augmentation: Augmentation, side: int) -> "Tensor":
    """Execute ``augmentation`` on uint8 [B, size, size, 3]; returns float32 levels [B, side, side, 3] in [0, 255].

    The caller rounds (to uint8) or normalises (to a 16-bit float, where the rounding to levels is skipped: it would
    cost a pass and add up to half a level).
    """
    import torch

    device, size = pixels.device, pixels.shape[1]
    box, colour, degrade, kernel, blur, erase = (torch.as_tensor(array, device=device) for array in augmentation)
    shrinks, blurs = bool((augmentation.degrade > 0).any()), bool((augmentation.blur > 0).any())
    small = int(augmentation.degrade.max()) if shrinks else size
    # The steepest steps are read off the augmentation on the host, not fetched from the device.
    down = size / int(augmentation.degrade[augmentation.degrade > 0].min()) if shrinks else 1.0
    steepest = float(abs(augmentation.box[:, 2:] - augmentation.box[:, :2]).max()) * max(size, small) / side
    axes = []
    for low, high in ((1, 3), (0, 2)):
        matrix = _axis(box[:, low], box[:, high], size, side, degrade, kernel, max(small, size), steepest, down)
        if blurs:
            matrix = _blur_matrix(blur * side, side, float(augmentation.blur.max()) * side) @ matrix
        axes.append(matrix)
    picture = pixels.to(torch.float32)
    count = len(pixels)
    rows = torch.bmm(axes[0], picture.reshape(count, size, size * 3)).reshape(count, side, size, 3)
    # One small product a picture: [side * 3, size] x [size, side] on the transposed rows.
    result = torch.einsum("bixc,bjx->bijc", rows, axes[1])
    result = torch.einsum("bijc,bdc->bijd", result, colour[:, :, :3]) + colour[:, None, None, :, 3]
    result = result.clamp_(0, 255)
    return (
        _erased(result, erase * side) if bool((augmentation.erase[:, 2] > augmentation.erase[:, 0]).any()) else result
    )


def downsample_matrix(size: int, side: int) -> "Tensor":
    """float32 [side, size]: the whole frame of ``size`` pixels resampled to ``side``, one axis (antialiased cubic)."""
    import torch

    start, stop = torch.zeros(1), torch.ones(1)
    return _weights(start, stop, torch.tensor([size]), size, side, torch.zeros(1), size / side)[0]


def _axis(
    start: "Tensor",
    stop: "Tensor",
    size: int,
    side: int,
    degrade: "Tensor",
    kernel: "Tensor",
    most: int,
    steepest: float,
    steepest_down: float,
) -> "Tensor":
    """[B, side, size]: the box resampling of one axis, after the degradation where there is one."""
    import torch

    if steepest_down == 1.0 and most == size:
        return _weights(start, stop, torch.full_like(degrade, size), size, side, torch.zeros_like(kernel), steepest)
    middle = torch.where(degrade > 0, degrade, size)
    zeros, ones = torch.zeros_like(start), torch.ones_like(stop)
    down = _weights(zeros, ones, torch.full_like(degrade, size), size, most, kernel, steepest_down, middle)
    return _weights(start, stop, middle, most, side, torch.zeros_like(kernel), steepest) @ down


def _weights(
    start: "Tensor",
    stop: "Tensor",
    sizes: "Tensor",
    columns: int,
    rows: int,
    kernel: "Tensor",
    steepest: float,
    outputs: "Tensor | None" = None,
) -> "Tensor":
    """float32 [B, rows, columns]; ``sizes`` [B] pixels in each source, ``outputs`` [B] rows used of each.

    ``steepest``: no step of any picture is longer, in source pixels.
    """
    import torch

    sizes = sizes.double()[:, None]
    count = torch.full_like(sizes, rows) if outputs is None else outputs.double()[:, None]
    step = (stop.double() - start.double())[:, None] * sizes / count
    stretch = step.abs().clamp(min=1.0)
    index = torch.arange(rows, device=start.device, dtype=torch.float64)
    centre = start.double()[:, None] * sizes + (index + 0.5) * step
    radius = 2.0 * stretch
    taps = math.ceil(4 * max(1.0, steepest * (1 + 1e-6))) + 1
    low = torch.floor(centre - radius + 0.5)
    at = low[:, :, None] + torch.arange(taps, device=start.device)
    distance = (at + 0.5 - centre[:, :, None]) / stretch[:, :, None]
    weights = _kernel(distance, kernel[:, None, None])
    weights = weights / weights.sum(dim=2, keepdim=True)
    inside = at.clamp(min=0).minimum(sizes[:, :, None] - 1).long()
    matrix = torch.zeros(len(start), rows, columns, device=start.device, dtype=torch.float64)
    return matrix.scatter_add_(2, inside, weights).float()


def _kernel(distance: "Tensor", kernel: "Tensor") -> "Tensor":
    import torch

    t = distance.abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    cubic = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    linear = (1 - t).clamp(min=0)
    box = ((distance > -0.5 + TIE) & (distance <= 0.5 + TIE)).to(t.dtype)
    return torch.where(kernel == 0, cubic, torch.where(kernel == 1, linear, box))


def _blur_matrix(sigma: "Tensor", side: int, largest: float) -> "Tensor":
    """float32 [B, side, side]; radius ceil(3 sigma), reflect-101; the identity where sigma is 0."""
    import torch

    radius = min(math.ceil(3 * largest), side - 1)
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    width = sigma.double()[:, None]
    weights = torch.exp(-0.5 * (offset / width.clamp(min=1e-6)) ** 2) * (offset.abs() <= torch.ceil(3 * width))
    weights = weights / weights.sum(dim=1, keepdim=True)
    at = (torch.arange(side, device=sigma.device)[:, None] + offset).abs()
    at = torch.where(at >= side, 2 * (side - 1) - at, at)
    matrix = torch.zeros(len(sigma), side, side, device=sigma.device, dtype=torch.float64)
    source = weights[:, None, :].expand(-1, side, -1)
    return matrix.scatter_add_(2, at.expand(len(sigma), -1, -1), source).float()


def _erased(levels: "Tensor", box: "Tensor") -> "Tensor":
    import torch

    index = torch.arange(levels.shape[1], device=levels.device)
    columns = (index >= torch.floor(box[:, 0:1])) & (index < torch.ceil(box[:, 2:3]))
    rows = (index >= torch.floor(box[:, 1:2])) & (index < torch.ceil(box[:, 3:4]))
    hidden = rows[:, :, None] & columns[:, None, :] & (box[:, 2] > box[:, 0])[:, None, None]
    return levels.masked_fill(hidden[..., None], float(ERASE_LEVEL))
