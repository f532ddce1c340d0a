"""The degradation chain against the float64 reference, whose JPEG is libjpeg's; on the CPU's kernel and in torch."""

import io

import numpy as np
import pytest
import torch
from reference import chain, execute

from hrfr_fast.resampling.cpu import resample
from hrfr_fast.resampling.low_resolution import low_resolution_images
from hrfr_fast.resampling.low_resolution_torch import low_resolution_torch
from hrfr_fast.resampling.matmul import resample_torch
from hrfr_fast.sampling.augmentation import FILTERS
from hrfr_fast.sampling.degradation import NativeView
from hrfr_fast.settings import AugmentSettings, DegradationSettings

COUNT = 24
FIVE = ",".join(FILTERS)
EVERYTHING = AugmentSettings(zoom=0.2, contrast=0.2, saturation=0.3, blur=0.3, erase=0.3)


def pictures(size):
    """Noise, flat extremes, hard edges and a gradient."""
    rng = np.random.default_rng(size)
    result = rng.integers(0, 256, (COUNT, size, size, 3), dtype=np.uint8)
    result[0], result[1, :, : size // 2], result[1, :, size // 2 :] = 255, 0, 255
    result[2:10] = np.linspace(0, 255, size)[:, None, None]
    return result


def drawn(settings, size):
    return NativeView(settings).draw(EVERYTHING, 5, np.zeros(COUNT, int), np.arange(COUNT), 2, size)


def on_the_cpu(source, augmentation, out):
    result, size = np.empty((len(source), out, out, 3), np.uint8), source.shape[1]
    resample(source.ravel(), np.arange(len(source)) * size * size * 3, size, augmentation, result)
    return result.astype(float)


def in_torch(source, augmentation, out):
    return resample_torch(torch.from_numpy(source), augmentation, out).numpy().astype(float)


@pytest.mark.parametrize("engine", [on_the_cpu, in_torch])
@pytest.mark.parametrize("size,out", [(72, 72), (72, 32), (40, 48)])
@pytest.mark.parametrize("jpeg", [0.0, 1.0], ids=["without JPEG", "with JPEG"])
def test_engines_agree_with_the_reference(engine, size, out, jpeg):
    source, augmentation = pictures(size), drawn(DegradationSettings(side_max=1.0, jpeg=jpeg, down=FIVE), size)
    assert len(set(augmentation.order)) == 4 and len(set(augmentation.filter)) == len(set(augmentation.up)) == 5
    expected = np.stack([execute(picture, augmentation, row, out) for row, picture in enumerate(source)])
    difference = np.abs(engine(source, augmentation, out) - expected)
    assert difference.mean() < 0.3
    if not jpeg:  # a downsampled value at a tie is rounded either way: one level, which the upscaling may enlarge
        assert difference.max() <= 1.5
    else:  # where that changes a quantised coefficient, its block changes by a step of the quantisation
        assert (difference > 1.5).mean() < 0.005


def test_small_pictures_are_those_of_the_reference_to_the_last_bit():
    """On flat blocks no rounding is at a tie: blur, noise, JPEG and their order show in every pixel or not at all."""
    source = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 256, (COUNT, 4, 4, 3), np.uint8), 10, 1), 10, 2)
    augmentation = drawn(DegradationSettings(blur_max=0.05, noise_max=30, jpeg=0.8, jpeg_min=5), 40)
    on_cpu = low_resolution_images(source.ravel(), np.arange(COUNT) * source[0].size, 40, augmentation)
    by_torch = low_resolution_torch(torch.from_numpy(source), augmentation).numpy()
    different = 0
    for row, side in enumerate(augmentation.degrade):
        expected = chain(source[row].astype(float), augmentation, row)
        different += (on_cpu[row] != expected).any() + (by_torch[row, :side, :side] != expected).any()
    assert different <= 2, "a tie or two of 48 pictures may fall to the other side"


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
@pytest.mark.parametrize("side", [8, 21, 36])
def test_jpeg_gives_the_pixels_of_libjpeg(quality, side):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    smooth = np.clip(np.cumsum(rng.normal(0, 6, (side, side, 3)), axis=1) + 128, 0, 255).astype(np.uint8)
    settings = DegradationSettings(side_min=1, side_max=1, blur=0, noise=0, jpeg=1, jpeg_min=quality, jpeg_max=quality,
                                   down="box", up="box")  # fmt: skip
    augmentation = NativeView(settings).draw(AugmentSettings(), 0, np.zeros(2, int), np.arange(2), 2, side)
    source = np.stack([noise, smooth])
    on_cpu = low_resolution_images(source.ravel(), np.arange(2) * noise.size, side, augmentation)
    by_torch = low_resolution_torch(torch.from_numpy(source), augmentation).numpy()
    for picture, compiled, tensor in zip(source, on_cpu, by_torch, strict=True):
        file = io.BytesIO()
        image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
        expected = np.asarray(image.open(file))
        assert np.array_equal(compiled, expected) and np.array_equal(tensor, expected)
