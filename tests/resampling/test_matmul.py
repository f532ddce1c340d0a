"""Resampling by matrix products against the float64 reference."""

import numpy as np
import pytest
import torch
from reference import execute

from hrfr_fast.resampling.matmul import resample_torch
from hrfr_fast.sampling.augmentation import draw_augmentation, no_augmentation
from hrfr_fast.settings import AugmentSettings

EVERYTHING = AugmentSettings(
    zoom=0.3, contrast=0.3, saturation=0.5, grey=0.2, blur=0.5, erase=0.5, degrade=0.6, degrade_min=9
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [None, AugmentSettings(), EVERYTHING], ids=["whole", "default", "everything"])
@pytest.mark.parametrize("size,out", [(36, 144), (36, 32), (144, 32), (144, 144)])
def test_matrix_products_agree_with_the_reference(settings, size, out, device):
    count = 6
    source = np.random.default_rng(size).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    source[0] = 255
    augmentation = (
        draw_augmentation(settings, 5, np.zeros(count, int), np.arange(count)) if settings else no_augmentation(count)
    )
    values = resample_torch(torch.from_numpy(source).to(device), augmentation, out).cpu().numpy()
    expected = np.stack([execute(picture, augmentation, row, out) for row, picture in enumerate(source)])
    assert np.abs(values - expected).max() < 0.1
