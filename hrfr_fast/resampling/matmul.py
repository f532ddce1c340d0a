"""The resampling definition (see ``spec``) as batched matrix products, for torch on any device.

All of an augmentation but colour and erasing is separable and linear, so degradation, box resampling and blur of one
image collapse into one [out_size, size] matrix an axis: out = V @ image @ H^T. The matrices are built on the device.
"""

import math

import torch
from torch import Tensor

from hrfr_fast.resampling.spec import BOX_TIE, CUBIC, ERASE_VALUE, KEYS_A, LINEAR
from hrfr_fast.sampling.augmentation import Augmentation


def resample_torch(pixels: Tensor, augmentation: Augmentation, out_size: int) -> Tensor:
    """Execute ``augmentation`` on uint8 [B, size, size, 3]: float32 pixel values [B, out_size, out_size, 3], 0 to 255.

    The caller rounds (to uint8) or normalises (to a 16-bit float, without rounding first, which would cost a pass and
    add an error of up to 0.5).
    """
    device, size = pixels.device, pixels.shape[1]
    box, colour, degrade, filter, blur, erase = (torch.as_tensor(array, device=device) for array in augmentation)
    degrades, blurs = bool((augmentation.degrade > 0).any()), bool((augmentation.blur > 0).any())
    largest = max(int(augmentation.degrade.max()), size) if degrades else size
    # The largest steps are read off the augmentation on the host: fetching them from the device would wait for it.
    down_step = size / int(augmentation.degrade[augmentation.degrade > 0].min()) if degrades else 1.0
    step = float(abs(augmentation.box[:, 2:] - augmentation.box[:, :2]).max()) * largest / out_size
    axes = []
    for low, high in ((1, 3), (0, 2)):
        matrix = _axis_matrix(box[:, low], box[:, high], size, out_size, degrade, filter, largest, step, down_step)
        if blurs:
            matrix = _blur_matrix(blur * out_size, out_size, float(augmentation.blur.max()) * out_size) @ matrix
        axes.append(matrix)
    image = pixels.to(torch.float32)
    count = len(pixels)
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
    return _weights(start, stop, torch.tensor([size]), size, out_size, torch.zeros(1), size / out_size)[0]


def _axis_matrix(
    start: Tensor, stop: Tensor, size: int, out_size: int, degrade: Tensor, filter: Tensor, largest: int, step: float,
    down_step: float,
) -> Tensor:  # fmt: skip
    """[B, out_size, size]: the box resampling of one axis, after the degradation where there is one.

    ``largest``: pixels of the largest frame that the box is cut from; ``step`` and ``down_step``: the longest steps.
    """
    if down_step == 1.0 and largest == size:
        return _weights(start, stop, torch.full_like(degrade, size), size, out_size, torch.zeros_like(filter), step)
    sizes = torch.where(degrade > 0, degrade, size)
    zeros, ones = torch.zeros_like(start), torch.ones_like(stop)
    down = _weights(zeros, ones, torch.full_like(degrade, size), size, largest, filter, down_step, sizes)
    return _weights(start, stop, sizes, largest, out_size, torch.zeros_like(filter), step) @ down


def _weights(
    start: Tensor, stop: Tensor, sizes: Tensor, columns: int, rows: int, filter: Tensor, longest_step: float,
    outputs: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """float32 [B, rows, columns]; ``sizes`` [B] pixels in each source, ``outputs`` [B] rows used of each.

    ``longest_step``: no step of any image is longer, in source pixels.
    """
    sizes = sizes.double()[:, None]
    count = torch.full_like(sizes, rows) if outputs is None else outputs.double()[:, None]
    step = (stop.double() - start.double())[:, None] * sizes / count
    filter_scale = step.abs().clamp(min=1.0)
    index = torch.arange(rows, device=start.device, dtype=torch.float64)
    centre = start.double()[:, None] * sizes + (index + 0.5) * step
    radius = 2.0 * filter_scale
    taps = math.ceil(4 * max(1.0, longest_step * (1 + 1e-6))) + 1
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
    return torch.where(filter == CUBIC, cubic, torch.where(filter == LINEAR, linear, box))


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
