import numpy as np
import pytest
from reference import execute

from hrfr_fast.resampling.cpu import resample
from hrfr_fast.sampling.augmentation import draw_augmentation, no_augmentation
from hrfr_fast.settings import AugmentSettings

SETTINGS = {
    "whole frame": None,
    "default": AugmentSettings(),
    "everything": AugmentSettings(
        zoom=0.3, contrast=0.3, saturation=0.5, grey=0.2, blur=0.5, erase=0.5, degrade=0.6, degrade_min=9
    ),
}


def pictures(count, size):
    """Noise, flat extremes and hard edges: what shows a wrong tap, border or clamp."""
    rng = np.random.default_rng(size)
    result = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    result[0], result[1, :, : size // 2], result[1, :, size // 2 :] = 255, 0, 255
    return result


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size,out", [(36, 144), (36, 32), (144, 32), (144, 144), (36, 36), (36, 12), (40, 33)])
def test_kernel_agrees_with_the_float64_reference(name, size, out):
    count, settings = 12, SETTINGS[name]
    source = pictures(count, size)
    augmentation = (
        draw_augmentation(settings, 5, np.zeros(count, np.int64), np.arange(count))
        if settings
        else no_augmentation(count)
    )
    result = np.zeros((count, out, out, 3), np.uint8)
    offsets = np.arange(count, dtype=np.int64) * size * size * 3
    resample(source.ravel(), offsets, size, augmentation, result)
    expected = np.stack([execute(picture, augmentation, row, out) for row, picture in enumerate(source)])
    difference = np.abs(result - expected)
    # Half a level is the rounding itself; fixed point adds up to an eighth to either side, float32 next to nothing.
    assert difference.max() <= (0.51 if "everything" in name else 0.7) and difference.mean() < 0.26


def test_rows_choose_where_pictures_go():
    source = pictures(3, 36)
    offsets = np.arange(3, dtype=np.int64) * 36 * 36 * 3
    plain, scattered = np.zeros((3, 36, 36, 3), np.uint8), np.zeros((9, 36, 36, 3), np.uint8)
    resample(source.ravel(), offsets, 36, no_augmentation(3), plain)
    resample(source.ravel(), offsets, 36, no_augmentation(3), scattered, np.array([7, 0, 4]))
    assert (scattered[[7, 0, 4]] == plain).all() and (scattered[[1, 2, 3, 5, 6, 8]] == 0).all()
    assert (plain == source).all(), "the whole frame at its own size is a copy"


@pytest.mark.parametrize("everything", [False, True])
def test_normalised_output_is_what_torch_makes_of_the_pixel_values(everything):
    """To the last bit, so that an engine which writes it at once gives what others get by converting."""
    import torch

    count = 40
    source = pictures(count, 36)
    settings = SETTINGS["everything" if everything else "default"]
    augmentation = draw_augmentation(settings, 5, np.zeros(count, np.int64), np.arange(count))
    made = {dtype: np.zeros((count, 32, 32, 3), dtype) for dtype in (np.uint8, np.float32, np.uint16)}
    for out in made.values():
        resample(source.ravel(), np.arange(count, dtype=np.int64) * 36 * 36 * 3, 36, augmentation, out)
    values = torch.from_numpy(made[np.uint8])
    assert len(values.unique()) == 256
    assert torch.equal(torch.from_numpy(made[np.float32]), (values.float() - 127.5) * (1 / 127.5))
    half = torch.from_numpy(made[np.uint16].view(np.int16)).view(torch.bfloat16)
    assert torch.equal(half, ((values.float() - 127.5) * (1 / 127.5)).bfloat16())
