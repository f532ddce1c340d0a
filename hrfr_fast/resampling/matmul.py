"""The resampling definition (see ``spec``) as batched matrix products, for torch on any device.

All of an augmentation but colour and erasing is separable and linear, so degradation, box resampling and blur of one
image collapse into one [out_size, size] matrix an axis: out = V @ image @ H^T. The matrices are built on the device.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrfr_fast.resampling.spec import BOX_TIE, CUBIC, ERASE_VALUE, KEYS_A, LANCZOS, LINEAR, NEAREST
from hrfr_fast.sampling.augmentation import Augmentation


def resample_torch(pixels: Tensor, augmentation: Augmentation, out_size: int) -> Tensor:
    """Execute ``augmentation`` on uint8 [B, size, size, 3]: float32 pixel values [B, out_size, out_size, 3], 0 to 255.

    The caller rounds (to uint8) or normalises (to a 16-bit float, without rounding first, which would cost a pass and
    add an error of up to 0.5).
    """
    chained = np.flatnonzero(augmentation.order >= 0)
    if not len(chained):
        return _resampled(pixels, augmentation, out_size)
    plain = np.flatnonzero(augmentation.order < 0)
    result = torch.empty((len(pixels), out_size, out_size, 3), dtype=torch.float32, device=pixels.device)
    for chosen, step in ((plain, _resampled), (chained, _degraded)):
        if len(chosen):
            rows = torch.from_numpy(chosen).to(pixels.device)
            result[rows] = step(pixels[rows], augmentation.take(chosen), out_size)
    return result


def _degraded(pixels: Tensor, augmentation: Augmentation, out_size: int) -> Tensor:
    """``resample_torch`` of images that all undergo the degradation chain."""
    from hrfr_fast.resampling.low_resolution_torch import low_resolution_torch  # it needs the weights of this file

    device, small = pixels.device, low_resolution_torch(pixels, augmentation)
    box, sizes, up = (torch.from_numpy(array).to(device) for array in (augmentation.box, augmentation.degrade,
                                                                        augmentation.up))  # fmt: skip
    width = np.abs(augmentation.box[:, 2:] - augmentation.box[:, :2]).max(axis=1)
    step, lobes = float((width * augmentation.degrade).max()) / out_size, lobes_of(augmentation.up)
    axes = [
        axis_weights(box[:, low], box[:, high], sizes, small.shape[1], out_size, up, step, lobes=lobes)
        for low, high in ((1, 3), (0, 2))
    ]
    return _finished(small, _blurred(axes, augmentation, out_size), augmentation, out_size)


def _resampled(pixels: Tensor, augmentation: Augmentation, out_size: int) -> Tensor:
    """``resample_torch`` of images that are downsampled at most."""
    device, size = pixels.device, pixels.shape[1]
    box, degrade, filter = (torch.as_tensor(array, device=device) for array in (augmentation.box, augmentation.degrade,
                                                                                 augmentation.filter))  # fmt: skip
    degrades = bool((augmentation.degrade > 0).any())
    largest = max(int(augmentation.degrade.max()), size) if degrades else size
    # The largest steps are read off the augmentation on the host: fetching them from the device would wait for it.
    down_step = size / int(augmentation.degrade[augmentation.degrade > 0].min()) if degrades else 1.0
    step = float(abs(augmentation.box[:, 2:] - augmentation.box[:, :2]).max()) * largest / out_size
    lobes = lobes_of(augmentation.filter[augmentation.degrade > 0])
    axes = [
        _axis_matrix(box[:, low], box[:, high], size, out_size, degrade, filter, largest, step, down_step, lobes)
        for low, high in ((1, 3), (0, 2))
    ]
    return _finished(pixels.to(torch.float32), _blurred(axes, augmentation, out_size), augmentation, out_size)


def _blurred(axes: list[Tensor], augmentation: Augmentation, out_size: int) -> list[Tensor]:
    """The matrices of both axes, each followed by the blur of the output where there is one."""
    if not (augmentation.blur > 0).any():
        return axes
    blur = torch.as_tensor(augmentation.blur, device=axes[0].device)
    largest = float(augmentation.blur.max()) * out_size
    return [_blur_matrix(blur * out_size, out_size, largest) @ matrix for matrix in axes]


def _finished(image: Tensor, axes: list[Tensor], augmentation: Augmentation, out_size: int) -> Tensor:
    """Pixel values of float32 images [B, size, size, 3] after the matrices of both axes, colour and erasing."""
    count, size = image.shape[:2]
    colour, erase = (torch.as_tensor(array, device=image.device) for array in (augmentation.colour, augmentation.erase))
    rows = torch.bmm(axes[0], image.reshape(count, size, size * 3)).reshape(count, out_size, size, 3)
    # One small product an image: [out_size * 3, size] x [size, out_size] on the transposed rows.
    result = torch.einsum("bixc,bjx->bijc", rows, axes[1])
    result = torch.einsum("bijc,bdc->bijd", result, colour[:, :, :3]) + colour[:, None, None, :, 3]
    result = result.clamp_(0, 255)
    erases = bool((augmentation.erase[:, 2] > augmentation.erase[:, 0]).any())
    return _erased(result, erase * out_size) if erases else result


def downsample_matrix(size: int, out_size: int) -> Tensor:
    """float32 [out_size, size]: one axis of a whole frame of ``size`` pixels, downsampled by the cubic filter."""
    start, stop = torch.zeros(1), torch.ones(1)
    return axis_weights(start, stop, torch.tensor([size]), size, out_size, torch.zeros(1), size / out_size)[0]


def lobes_of(filters: NDArray[np.int32]) -> int:
    """Half the width, in units of its scale, of the widest of some filters: 2 or 3."""
    return 3 if (filters == LANCZOS).any() else 2


def _axis_matrix(
    start: Tensor, stop: Tensor, size: int, out_size: int, degrade: Tensor, filter: Tensor, largest: int, step: float,
    down_step: float, lobes: int,
) -> Tensor:  # fmt: skip
    """[B, out_size, size]: the box resampling of one axis, after the degradation where there is one.

    ``largest``: pixels of the largest frame that the box is cut from; ``step`` and ``down_step``: the longest steps.
    """
    if down_step == 1.0 and largest == size:
        return axis_weights(start, stop, torch.full_like(degrade, size), size, out_size, torch.zeros_like(filter), step)
    sizes = torch.where(degrade > 0, degrade, size)
    zeros, ones = torch.zeros_like(start), torch.ones_like(stop)
    down = axis_weights(zeros, ones, torch.full_like(degrade, size), size, largest, filter, down_step, sizes, lobes)
    return axis_weights(start, stop, sizes, largest, out_size, torch.zeros_like(filter), step) @ down


def axis_weights(
    start: Tensor, stop: Tensor, sizes: Tensor, columns: int, rows: int, filter: Tensor, longest_step: float,
    outputs: Tensor | None = None, lobes: int = 2,
) -> Tensor:  # fmt: skip
    """float32 [B, rows, columns]; ``sizes`` [B] pixels in each source, ``outputs`` [B] rows used of each.

    ``longest_step``: no step of any image is longer, in source pixels. ``lobes``: as ``lobes_of`` says for ``filter``.
    """
    sizes = sizes.double()[:, None]
    count = torch.full_like(sizes, rows) if outputs is None else outputs.double()[:, None]
    step = (stop.double() - start.double())[:, None] * sizes / count
    filter_scale = torch.where(filter[:, None] == NEAREST, 1.0, step.abs().clamp(min=1.0))
    index = torch.arange(rows, device=start.device, dtype=torch.float64)
    centre = start.double()[:, None] * sizes + (index + 0.5) * step
    radius = float(lobes) * filter_scale
    taps = math.ceil(2 * lobes * max(1.0, longest_step * (1 + 1e-6))) + 1
    low = torch.floor(centre - radius + 0.5)
    at = low[:, :, None] + torch.arange(taps, device=start.device)
    distance = (at + 0.5 - centre[:, :, None]) / filter_scale[:, :, None]
    weights = _filter_weights(distance, filter[:, None, None])
    weights = weights / weights.sum(dim=2, keepdim=True)
    inside = at.clamp(min=0).minimum(sizes[:, :, None] - 1).long()
    matrix = torch.zeros(len(start), rows, columns, device=start.device, dtype=torch.float64)
    return matrix.scatter_add_(2, inside, weights).float()


def _filter_weights(distance: Tensor, filter: Tensor) -> Tensor:
    """Unnormalised weights at distances in source pixels over the filter's scale; ``filter`` indexes FILTERS."""
    t = distance.abs()
    near = ((KEYS_A + 2) * t - (KEYS_A + 3)) * t * t + 1
    far = ((KEYS_A * t - 5 * KEYS_A) * t + 8 * KEYS_A) * t - 4 * KEYS_A
    cubic = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    linear = (1 - t).clamp(min=0)
    box = ((distance > -0.5 + BOX_TIE) & (distance <= 0.5 + BOX_TIE)).to(t.dtype)
    lanczos = torch.where(t < 3, torch.sinc(t) * torch.sinc(t / 3), 0.0)
    rest = torch.where(filter == LANCZOS, lanczos, box)  # nearest is a box
    return torch.where(filter == CUBIC, cubic, torch.where(filter == LINEAR, linear, rest))


def _blur_matrix(sigma: Tensor, out_size: int, largest: float) -> Tensor:
    """float32 [B, out_size, out_size]; radius ceil(3 sigma), reflect-101; the identity where sigma is 0."""
    radius = min(math.ceil(3 * largest), out_size - 1)
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    width = sigma.double()[:, None]
    weights = torch.exp(-0.5 * (offset / width.clamp(min=1e-6)) ** 2) * (offset.abs() <= torch.ceil(3 * width))
    weights = weights / weights.sum(dim=1, keepdim=True)
    at = (torch.arange(out_size, device=sigma.device)[:, None] + offset).abs()
    at = torch.where(at >= out_size, 2 * (out_size - 1) - at, at)
    matrix = torch.zeros(len(sigma), out_size, out_size, device=sigma.device, dtype=torch.float64)
    source = weights[:, None, :].expand(-1, out_size, -1)
    return matrix.scatter_add_(2, at.expand(len(sigma), -1, -1), source).float()


def _erased(values: Tensor, box: Tensor) -> Tensor:
    """Pixel values [B, S, S, 3] with the rectangles ``box`` [B, 4], in pixels, erased."""
    index = torch.arange(values.shape[1], device=values.device)
    columns = (index >= torch.floor(box[:, 0:1])) & (index < torch.ceil(box[:, 2:3]))
    rows = (index >= torch.floor(box[:, 1:2])) & (index < torch.ceil(box[:, 3:4]))
    hidden = rows[:, :, None] & columns[:, None, :] & (box[:, 2] > box[:, 0])[:, None, None]
    return values.masked_fill(hidden[..., None], float(ERASE_VALUE))
