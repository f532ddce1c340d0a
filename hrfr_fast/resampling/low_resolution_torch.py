"""The degradation chain (see ``sampling.degradation``) in torch operations, on any device.

Sharp pictures become small ones of whole levels. What follows the downsampling is arithmetic of integers, in int64 and
in float64 where it is a matrix product: the same numbers as those of ``low_resolution``, to the last bit, for the same
downsampled pixels.
"""

import math

import torch
from torch import Tensor

from hrfr_fast.resampling.jpeg import (
    BLUE_OF_CB,
    GREEN_OF_CB,
    GREEN_OF_CR,
    MATRIX_BITS,
    PASS_BITS,
    RED_OF_CR,
    TO_YCC,
    TO_YCC_BIAS,
    dct_matrix,
    quantisation_tables,
)
from hrfr_fast.resampling.matmul import axis_weights, lobes_of
from hrfr_fast.runtime.philox import NOISE
from hrfr_fast.sampling.augmentation import Augmentation
from hrfr_fast.sampling.degradation import NOISE_SUM, NOISE_UNIT
from hrfr_fast.sampling.sampler_torch import philox_words


def low_resolution_torch(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    """The degraded pictures of uint8 [B, size, size, 3], whose ``augmentation.order`` is not negative.

    Returns:
        float32 [B, L, L, 3] of whole pixel values, L the largest side; each picture is in its first ``degrade`` rows
        and columns, the rest repeats its last ones.
    """
    device = pixels.device
    order, degrade, jpeg, noise, key = (
        torch.from_numpy(array).to(device)
        for array in (augmentation.order, augmentation.degrade, augmentation.jpeg, augmentation.noise,
                      augmentation.noise_key)
    )  # fmt: skip
    matrix = _shrinking(pixels.shape[1], augmentation, device)
    rows = torch.einsum("biy,byxc->bixc", matrix, pixels.to(torch.float32))
    values = torch.einsum("bjx,bixc->bijc", matrix, rows)
    side = values.shape[1]
    noisy = bool(augmentation.noise.any())
    if noisy:
        added = _noise(key, noise, degrade, side)
        compressed_first = ((jpeg > 0) & (order % 2 == 1))[:, None, None, None]
        values = values + torch.where(compressed_first, 0, added)
    values = values.clamp_(0, 255).add_(0.5).floor_()
    inside = torch.arange(side, device=device)[None].minimum(degrade[:, None] - 1).long()
    if augmentation.jpeg.any():
        values = torch.where((jpeg > 0)[:, None, None, None], _compressed(values, inside, jpeg), values)
    if noisy:
        with_noise = (values + added).clamp_(0, 255).add_(0.5).floor_()
        values = torch.where(compressed_first, with_noise, values)
    return _repeated(values, inside)


def _shrinking(size: int, augmentation: Augmentation, device: torch.device) -> Tensor:
    """float32 [B, L, size]: blur and downsampling of one axis, in the order asked for."""
    degrade, largest = torch.from_numpy(augmentation.degrade).to(device), int(augmentation.degrade.max())
    filter = torch.from_numpy(augmentation.filter).to(device)
    sizes, zeros = torch.full_like(degrade, size), torch.zeros(len(degrade), device=device)
    step = size / int(augmentation.degrade.min())
    down = axis_weights(
        zeros, zeros + 1, sizes, size, largest, filter, step, degrade, lobes_of(augmentation.filter)
    ).double()
    if not augmentation.optics.any():
        return down.float()
    sigma = torch.from_numpy(augmentation.optics).to(device).double()
    spread, after = float(augmentation.optics.max()), torch.from_numpy(augmentation.order).to(device) >= 2
    blurred_before = down @ _blur(sigma * size, sizes, size, spread * size)
    blurred_after = _blur(sigma * degrade, degrade, largest, spread * largest) @ down
    return torch.where(after[:, None, None], blurred_after, blurred_before).float()


def _blur(sigma: Tensor, sizes: Tensor, columns: int, largest: float) -> Tensor:
    """float64 [B, columns, columns]: Gaussian blur of ``sizes`` pixels, radius ceil(3 sigma), reflect-101."""
    radius = math.ceil(3 * largest)
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    width = sigma[:, None]
    weights = torch.exp(-0.5 * (offset / width.clamp(min=1e-6)) ** 2) * (offset.abs() <= torch.ceil(3 * width))
    weights = weights / weights.sum(dim=1, keepdim=True)
    last = (sizes - 1).long()[:, None, None]
    period = (2 * last).clamp(min=1)
    at = (torch.arange(columns, device=sigma.device)[:, None] + offset)[None].abs() % period
    at = torch.where(at > last, 2 * last - at, at).clamp(max=columns - 1)
    matrix = torch.zeros(len(sigma), columns, columns, device=sigma.device, dtype=torch.float64)
    return matrix.scatter_add_(2, at, weights[:, None, :].expand(-1, columns, -1))


def _noise(key: Tensor, spread: Tensor, degrade: Tensor, side: int) -> Tensor:
    """float32 [B, side, side, 3], exact; pixel (y, x) of an image of s pixels has the counter y * s + x."""
    line = torch.arange(side, device=key.device)
    position = (line[:, None] * degrade[:, None, None].long() + line).reshape(len(key), -1)
    words = philox_words(key[:, None], torch.zeros_like(position), position, purpose=NOISE)
    sums = [sum((word >> shift & 255 for shift in range(0, 32, 8)), start=-NOISE_SUM) for word in words]
    own, grey = spread[:, :1].long(), spread[:, 1:].long()
    units = torch.stack([own * one + grey * sums[3] for one in sums[:3]], dim=-1)
    return units.to(torch.float32).reshape(len(key), side, side, 3) * NOISE_UNIT


def _repeated(values: Tensor, inside: Tensor) -> Tensor:
    """[B, side, side, 3] with everything outside each picture taken from its last row and column."""
    batch = torch.arange(len(values), device=values.device)[:, None, None]
    return values[batch, inside[:, :, None], inside[:, None, :]]


def _compressed(values: Tensor, inside: Tensor, quality: Tensor) -> Tensor:
    """JPEG's effect on whole pixel values, float32 [B, side, side, 3]."""
    device, (count, side) = values.device, values.shape[:2]
    blocks = -(-side // 8)
    padded = torch.nn.functional.pad(inside[:, None].float(), (0, 8 * blocks - side), mode="replicate")[:, 0].long()
    rgb = _repeated(values, padded).long()
    to_ycc, bias = torch.from_numpy(TO_YCC).to(device), torch.from_numpy(TO_YCC_BIAS).to(device)
    ycc = ((rgb[..., None, :] * to_ycc).sum(dim=-1) + bias >> 16) - 128
    cut = ycc.reshape(count, blocks, 8, blocks, 8, 3).permute(0, 1, 3, 5, 2, 4)
    tables = torch.from_numpy(quantisation_tables()).to(device)[quality.long()]
    done = _quantised(cut, tables[:, None, None])
    y, cb, cr = done.permute(3, 0, 1, 4, 2, 5).reshape(3, count, 8 * blocks, 8 * blocks)[..., :side, :side]
    y = y + 128
    red, blue = y + (RED_OF_CR * cr + 32768 >> 16), y + (BLUE_OF_CB * cb + 32768 >> 16)
    green = y + (GREEN_OF_CB * cb + GREEN_OF_CR * cr + 32768 >> 16)
    return torch.stack([red, green, blue], dim=-1).clamp_(0, 255).to(values.dtype)


def _quantised(blocks: Tensor, tables: Tensor) -> Tensor:
    """8x8 blocks, int64 [..., 8, 8] less 128, after DCT, quantisation by ``tables``, and their inverse."""
    matrix = torch.from_numpy(dct_matrix()).to(blocks.device).double()
    rows = _rounded(blocks.double() @ matrix.T, MATRIX_BITS - PASS_BITS)
    coefficients, step = _rounded(matrix @ rows.double(), MATRIX_BITS + PASS_BITS), 8 * tables
    steps = (coefficients.abs() + step // 2) // step * coefficients.sign() * tables
    columns = _rounded(matrix.T @ steps.double(), MATRIX_BITS - PASS_BITS)
    return _rounded(columns.double() @ matrix, MATRIX_BITS + PASS_BITS + 3).clamp_(-128, 127)


def _rounded(values: Tensor, bits: int) -> Tensor:
    """Whole numbers in float64, divided by 2**bits and rounded half up, int64."""
    return values.long() + (1 << bits - 1) >> bits
