"""The degradation drawn inside a GPU kernel, and its noise, against those of the host: bit by bit."""

import numpy as np
import pytest
import torch

from hrfr_fast.runtime.philox import NOISE, philox
from hrfr_fast.sampling.degradation import NOISE_SUM, NOISE_UNIT, NativeView
from hrfr_fast.settings import AugmentSettings, DegradationSettings

triton = pytest.importorskip("triton", reason="Triton exists for Linux only")
import triton.language as tl  # noqa: E402

from hrfr_fast.sampling.degradation_triton import (  # noqa: E402
    draw_order,
    draw_quality,
    draw_small,
    draw_spread,
    draw_up,
    native_settings,
    noise_of,
)

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
ANYTHING = DegradationSettings(
    side_min=0.01, side_max=1, blur=0.6, blur_min=0.003, blur_max=0.1, noise=0.7, noise_min=1.7, noise_max=64, jpeg=0.5,
    jpeg_min=1, jpeg_max=100, down="lanczos:0.3,box,nearest:2,cubic:0", up="nearest", orders="down-blur-noise-jpeg:3,"
    "blur-down-jpeg-noise",
)  # fmt: skip
COUNT, EPOCH, VIEW = 40, 3, 2


@triton.jit(do_not_specialize=["seed", "epoch"])  # as in production: 1 would become a constant without a type
def _write_degradation(out, shares, positions, settings, seed, epoch, SIZE: tl.constexpr, VIEW: tl.constexpr):
    position = tl.load(positions + tl.program_id(0))
    epoch = position * 0 + epoch
    small, filter, optics = draw_small(settings, seed, epoch, position, SIZE, VIEW)
    own, grey, low, high = draw_spread(settings, seed, epoch, position, VIEW)
    tl.store(shares + tl.program_id(0), optics)
    out += tl.program_id(0) * 9
    tl.store(out, small.to(tl.int64))
    tl.store(out + 1, filter.to(tl.int64))
    tl.store(out + 2, draw_order(settings, seed, epoch, position, VIEW).to(tl.int64))
    tl.store(out + 3, draw_up(settings, seed, epoch, position, VIEW).to(tl.int64))
    tl.store(out + 4, own.to(tl.int64))
    tl.store(out + 5, grey.to(tl.int64))
    tl.store(out + 6, low.to(tl.int64))
    tl.store(out + 7, high.to(tl.int64))
    tl.store(out + 8, draw_quality(settings, seed, epoch, position, VIEW).to(tl.int64))


@triton.jit
def _write_noise(out, words, own: tl.constexpr, grey: tl.constexpr):
    at = tl.arange(0, 256)
    low, high = tl.load(words).to(tl.uint32), tl.load(words + 1).to(tl.uint32)
    red, green, blue = noise_of(at, own, grey, low, high)
    tl.store(out + at * 3, red)
    tl.store(out + at * 3 + 1, green)
    tl.store(out + at * 3 + 2, blue)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed,size", [(0, 144), (2**63 - 1, 37)])
@pytest.mark.parametrize("settings", [DegradationSettings(), ANYTHING], ids=["published", "anything"])
def test_the_kernel_draws_the_degradation_of_the_host(settings, seed, size, device):
    positions = np.concatenate([np.arange(COUNT - 1), [2**32 - 1]])
    wanted = NativeView(settings).draw(AugmentSettings(), seed, np.full(COUNT, EPOCH), positions, VIEW, size)
    out = torch.full((COUNT, 9), -1, dtype=torch.int64, device=device)
    shares = torch.full((COUNT,), torch.nan, device=device)
    values = torch.from_numpy(native_settings(AugmentSettings(), settings)).to(device)
    _write_degradation[(COUNT,)](
        out, shares, torch.from_numpy(positions).to(device), values, seed, EPOCH, size, VIEW, enable_fp_fusion=False
    )
    drawn = out.cpu().numpy()
    key = drawn[:, 6] | drawn[:, 7] << 32
    for found, name in zip(drawn.T[:4], ("degrade", "filter", "order", "up"), strict=True):
        np.testing.assert_array_equal(found, getattr(wanted, name), name)
    np.testing.assert_array_equal(drawn[:, 4:6], wanted.noise)
    np.testing.assert_array_equal(key, wanted.noise_key)
    np.testing.assert_array_equal(drawn[:, 8], wanted.jpeg)
    np.testing.assert_array_equal(shares.cpu().numpy().view(np.int32), wanted.optics.view(np.int32))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("own,grey", [(28000, 0), (0, 28000), (123, 456)])
def test_the_noise_of_a_pixel_is_that_of_the_host(own, grey, device):
    key = 0x6ABCDEF1_89ABCDEF
    out = torch.full((256, 3), torch.nan, device=device)
    _write_noise[(1,)](out, torch.tensor([key & 0xFFFFFFFF, key >> 32], device=device), own, grey)
    sums = philox(key, 0, np.arange(256), purpose=NOISE).astype("<u4").view(np.uint8).reshape(256, 4, 4).sum(axis=2)
    centred = sums.astype(np.int64) - NOISE_SUM
    wanted = (centred[:, :3] * own + centred[:, 3:] * grey).astype(np.float32) * np.float32(NOISE_UNIT)
    np.testing.assert_array_equal(out.cpu().numpy(), wanted)
