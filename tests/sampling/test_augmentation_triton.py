"""Augmentation drawn inside a GPU kernel against that of the host: bit by bit."""

import numpy as np
import pytest
import torch

from hrfr_fast.sampling.augmentation import draw_augmentation
from hrfr_fast.settings import AugmentSettings

triton = pytest.importorskip("triton", reason="Triton exists for Linux only")
import triton.language as tl  # noqa: E402

from hrfr_fast.sampling import augmentation_triton  # noqa: E402
from hrfr_fast.sampling.augmentation_triton import (  # noqa: E402
    colour_entry,
    draw_blur,
    draw_box,
    draw_colour,
    draw_degradation,
    draw_erasure,
    kernel_settings,
)

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
EVERYTHING = AugmentSettings(
    zoom=0.3, contrast=0.3, saturation=0.5, grey=0.2, blur=0.5, erase=0.5, degrade=0.6, degrade_min=9
)


@triton.jit(do_not_specialize=["seed", "epoch"])  # as in production: 1 would become a constant without a type
def _write_augmentation(out, positions, settings, seed, epoch):
    position = tl.load(positions + tl.program_id(0))
    epoch = position * 0 + epoch
    out += tl.program_id(0) * 20
    x0, y0, x1, y1 = draw_box(settings, seed, epoch, position)
    tl.store(out, x0)
    tl.store(out + 1, y0)
    tl.store(out + 2, x1)
    tl.store(out + 3, y1)
    gain, saturation, offset = draw_colour(settings, seed, epoch, position)
    entry = tl.arange(0, 16)
    tl.store(out + 4 + entry, colour_entry(gain, saturation, entry // 3, entry % 3), mask=entry < 9)
    tl.store(out + 13, offset)
    size, filter = draw_degradation(settings, seed, epoch, position)
    tl.store(out + 14, size.to(tl.float32))
    tl.store(out + 15, filter.to(tl.float32))
    tl.store(out + 16, draw_blur(settings, seed, epoch, position))


@triton.jit(do_not_specialize=["seed", "epoch"])
def _write_erasure(out, positions, settings, seed, epoch):
    position = tl.load(positions + tl.program_id(0))
    out += tl.program_id(0) * 4
    left, top, right, bottom = draw_erasure(settings, seed, position * 0 + epoch, position)
    tl.store(out, left)
    tl.store(out + 1, top)
    tl.store(out + 2, right)
    tl.store(out + 3, bottom)


def bits(array):
    return np.ascontiguousarray(array, np.float32).view(np.int32).astype(np.int64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("settings", [AugmentSettings(), EVERYTHING], ids=["default", "everything"])
def test_the_kernel_draws_the_augmentation_of_the_host(settings, seed, device):
    count, epoch = 12, 3
    positions = np.concatenate([np.arange(count - 1), [2**32 - 1]])
    # The kernel of this test always draws colour, the host only where it is on.
    augmentation = draw_augmentation(
        settings.replaced(brightness=settings.brightness or 1e-9), seed, np.full(count, epoch), positions
    )
    out = torch.full((count, 20), torch.nan, device=device)
    erased = torch.full((count, 4), torch.nan, device=device)
    given = torch.from_numpy(positions).to(device), torch.from_numpy(kernel_settings(settings)).to(device), seed, epoch
    _write_augmentation[(count,)](out, *given, enable_fp_fusion=False)
    _write_erasure[(count,)](erased, *given, enable_fp_fusion=False)
    drawn = out.cpu().numpy()
    np.testing.assert_array_equal(bits(drawn[:, :4]), bits(augmentation.box))
    np.testing.assert_array_equal(bits(drawn[:, 4:13]), bits(augmentation.colour[:, :, :3].reshape(count, 9)))
    np.testing.assert_array_equal(bits(drawn[:, 13]), bits(augmentation.colour[:, 0, 3]))
    np.testing.assert_array_equal(drawn[:, 14], augmentation.degrade)
    if settings.degrade:
        np.testing.assert_array_equal(drawn[:, 15], augmentation.filter)
    np.testing.assert_array_equal(bits(drawn[:, 16]), bits(augmentation.blur))
    assert np.abs(bits(erased.cpu().numpy()) - bits(augmentation.erase)).max() <= 4, "an exponential, two roots, a sum"
    np.testing.assert_array_equal(erased.cpu().numpy()[:, 2] > 0, augmentation.erase[:, 2] > 0)


def test_every_setting_reaches_the_kernel():
    names = set(AugmentSettings.model_fields)
    assert set(augmentation_triton.FIELDS) == names and len(kernel_settings(AugmentSettings())) == len(names)
