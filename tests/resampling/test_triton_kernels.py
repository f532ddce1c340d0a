"""The fused kernel, interpreted on a CPU or run on a card, against the float64 reference."""

import numpy as np
import pytest
import torch
from engine_cases import STILL
from reference import execute

from hrfr_fast.sampling.augmentation import draw_augmentation
from hrfr_fast.settings import AugmentSettings

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.resampling.launcher import EpochOrders, Resampler, ResidentSplit, Tiles, tiles_for  # noqa: E402

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
EVERYTHING = AugmentSettings(
    zoom=0.3, contrast=0.3, saturation=0.5, grey=0.2, blur=0.5, erase=0.5, degrade=0.6, degrade_min=9
)
FAR = AugmentSettings(flip=0.5, shift=0.5, zoom=0.5, brightness=0, contrast=0.5)
SEED = 5


def resampled(source, out_size, settings, device, dtype=torch.float32, tiles=None, begin=0, count=None):
    """Images and labels of the samples 0, 1, ...: record i is sample i, its label 10 i. Filled with 99 and -1 first."""
    count = count or len(source)
    resampler = Resampler(ResidentSplit(torch.from_numpy(source).to(device), begin), out_size, settings, SEED, tiles)
    orders = EpochOrders(
        torch.arange(count, dtype=torch.int32, device=device)[None], 10 * torch.arange(count, device=device)
    )
    images = torch.full((count, out_size, out_size, 3), 99, dtype=dtype, device=device)
    labels = torch.full((count,), -1, device=device)
    resampler(images, labels, orders, torch.zeros(1, dtype=torch.int64, device=device), 0)
    return images.cpu(), labels.cpu().tolist()


def noise(count, size):
    source = np.random.default_rng(size).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    source[0] = source[0] // 128 * 255  # the hardest edges there are
    return source


def expected(source, out_size, settings, start=0):
    augmentation = draw_augmentation(settings, SEED, np.zeros(len(source), int), start + np.arange(len(source)))
    return np.stack([execute(picture, augmentation, row, out_size) for row, picture in enumerate(source)])


def within_tolerance(values, wanted, most=0.5, mean=0.05):
    error = np.abs(values - wanted)
    assert error.max() < most and error.mean() < mean, (error.max(), error.mean())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [AugmentSettings(), EVERYTHING], ids=["default", "everything"])
@pytest.mark.parametrize("size,out_size", [(36, 144), (36, 32), (144, 32), (144, 144)])
def test_agrees_with_the_reference(size, out_size, settings, device):
    source = noise((2 if size == 36 else 1) if device == "cpu" else 64, size)
    images, labels = resampled(source, out_size, settings, device)
    assert labels == [10 * i for i in range(len(source))]
    within_tolerance((images.numpy() + 1) * 127.5, expected(source, out_size, settings))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [STILL, FAR], ids=["whole", "far outside"])
def test_the_whole_frame_and_boxes_far_outside(settings, device):
    for size, out_size in ((36, 48), (48, 32)):
        source = noise(3, size)
        images, _ = resampled(source, out_size, settings, device)
        within_tolerance((images.numpy() + 1) * 127.5, expected(source, out_size, settings))


@pytest.mark.parametrize("device", DEVICES)
def test_degradations_by_every_filter(device):
    """Sizes where the box filter's edge falls on a pixel's centre (16, 24, 42) and where not."""
    for out_size in (1, 16, 17, 24, 42, 100):
        settings = AugmentSettings(flip=0, shift=0, brightness=0, degrade=1, degrade_min=out_size, degrade_max=out_size)
        source = noise(3, 36)
        filters = draw_augmentation(settings, SEED, np.zeros(3, int), np.arange(3)).filter
        assert set(filters) == {0, 1, 2}
        images, _ = resampled(source, 32, settings, device)
        within_tolerance((images.numpy() + 1) * 127.5, expected(source, 32, settings))


@pytest.mark.parametrize("device", DEVICES)
def test_number_formats(device):
    source = noise(2, 36)
    wanted = expected(source, 32, EVERYTHING)
    values, _ = resampled(source, 32, EVERYTHING, device, torch.uint8)
    within_tolerance(values.numpy().astype(float), np.floor(wanted + 0.5), most=1.1, mean=0.1)
    for dtype, most in ((torch.bfloat16, 0.8), (torch.float16, 0.5)):
        images, _ = resampled(source, 32, EVERYTHING, device, dtype)
        within_tolerance((images.double().numpy() + 1) * 127.5, wanted, most=most, mean=0.2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tiles", [Tiles(16, 64, 16, 16, 1, 168), Tiles(32, 64, 64, 128, 5, 168)])
def test_tiles_change_only_the_speed(tiles, device):
    source = noise(1, 36)
    images, _ = resampled(source, 48, AugmentSettings(), device, tiles=tiles)
    standard, _ = resampled(source, 48, AugmentSettings(), device)
    within_tolerance((images.numpy() + 1) * 127.5, expected(source, 48, AugmentSettings()))
    assert tiles != tiles_for(36, 48) and (images - standard).abs().max() < 2e-3


@pytest.mark.parametrize("device", DEVICES)
def test_images_of_another_split_are_left_alone(device):
    source = noise(2, 36)
    images, labels = resampled(source, 32, AugmentSettings(), device, begin=1, count=4)
    assert labels == [-1, 10, 20, -1]
    assert (images[0] == 99).all() and (images[3] == 99).all()
    within_tolerance((images[1:3].numpy() + 1) * 127.5, expected(source, 32, AugmentSettings(), start=1))
