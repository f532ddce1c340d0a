"""The degradation chain in the GPU's kernels, interpreted on a CPU or run on a card.

Small pictures are compared with those of the CPU's kernel, whose JPEG is libjpeg's; what becomes of them with the
float64 reference.
"""

import numpy as np
import pytest
import torch
from reference import execute

from hrfr_fast.resampling.low_resolution import low_resolution_images
from hrfr_fast.resampling.spec import BOX, BOX_TIE, NEAREST
from hrfr_fast.sampling.augmentation import FILTERS
from hrfr_fast.sampling.degradation import NativeView, largest_side
from hrfr_fast.settings import AugmentSettings, DegradationSettings

triton = pytest.importorskip("triton", reason="Triton exists for Linux only")
import triton.language as tl  # noqa: E402

from hrfr_fast.resampling.launcher import EpochOrders, ResidentSplit  # noqa: E402
from hrfr_fast.resampling.native_launcher import NativeResampler  # noqa: E402
from hrfr_fast.resampling.triton_filters import filter_weights  # noqa: E402

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
SEED, VIEW = 5, 2
FIVE = ",".join(FILTERS)
EVERYTHING = AugmentSettings(zoom=0.2, contrast=0.2, saturation=0.3, blur=0.3, erase=0.3)


def made(source, out_size, augment, settings, device):
    """Pixel values of the views of samples 0, 1, ..., the small pictures that they were made of, and labels."""
    count = len(source)
    split = ResidentSplit(torch.from_numpy(source).to(device), 0)
    resampler = NativeResampler(split, out_size, augment, settings, SEED, VIEW)
    orders = EpochOrders(
        torch.arange(count, dtype=torch.int32, device=device)[None], 10 * torch.arange(count, device=device)
    )
    images = torch.full((count, out_size, out_size, 3), 99.0, device=device)
    labels = torch.full((count,), -1, device=device)
    resampler(images, labels, orders, torch.zeros(1, dtype=torch.int64, device=device), 0)
    assert labels.tolist() == [10 * number for number in range(count)]
    return (images.cpu().numpy() + 1) * 127.5, resampler.pictures.cpu().numpy()


def drawn(settings, augment, size, count):
    return NativeView(settings).draw(augment, SEED, np.zeros(count, int), np.arange(count), VIEW, size)


def small_by_the_cpu(source, augmentation):
    size = source.shape[1]
    return low_resolution_images(source.ravel(), np.arange(len(source)) * size * size * 3, size, augmentation)


def differences(source, augmentation, pictures):
    """Of the small pictures' values from those of the CPU's kernel, in levels."""
    wanted = small_by_the_cpu(source, augmentation)
    found = [pictures[row, : len(one), : len(one)] for row, one in enumerate(wanted)]
    return np.concatenate([np.abs(one - other.astype(float)).ravel() for one, other in zip(wanted, found, strict=True)])


def share_that_differs(source, augmentation, pictures):
    return np.mean(differences(source, augmentation, pictures) > 0)


def furthest_off(source, augmentation, pictures):
    return differences(source, augmentation, pictures).max()


def pictures_of(size, count):
    """A gradient, hard edges, and noise."""
    source = np.random.default_rng(size).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    source[0] = np.linspace(0, 255, size)[:, None, None]
    source[1] = source[1] // 128 * 255
    return source


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size,out_size,jpeg", [(56, 48, 1.0), (40, 48, 0.0), (72, 32, 0.7)])
def test_agrees_with_the_reference(size, out_size, jpeg, device):
    count = 3 if device == "cpu" else 64
    settings = DegradationSettings(side_max=1.0, jpeg=jpeg, down=FIVE)
    source, augmentation = pictures_of(size, count), drawn(settings, EVERYTHING, size, count)
    values, pictures = made(source, out_size, EVERYTHING, settings, device)
    # Tensor cores cut off what the CPU rounds: of 64 pictures a few have a value at a tie, and a block that changes.
    assert share_that_differs(source, augmentation, pictures) < (0.01 if device == "cpu" else 0.03)
    expected = np.stack([execute(picture, augmentation, row, out_size) for row, picture in enumerate(source)])
    error = np.abs(values - expected)
    # A downsampled value at a tie may be rounded either way, and with it a coefficient of its block.
    assert error.mean() < 0.1 and (error > 1.5).mean() < 0.005, (error.mean(), error.max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("filter", FILTERS)
def test_every_filter_both_ways(filter, device):
    """Whole frames, so that edges of filters fall on pixels: the box's, and the nearest pixel's."""
    still = AugmentSettings(flip=0, shift=0, brightness=0)
    settings = DegradationSettings(side_min=0.25, side_max=0.5, noise=0, jpeg=0, blur=0.5, down=filter, up=filter)
    source, augmentation = pictures_of(48, 4), drawn(settings, still, 48, 4)
    values, pictures = made(source, 48, still, settings, device)
    # Means of three pixels are no binary fractions: on a card, which cuts sums off, many fall short of a tie.
    ties = 0.1 if filter == "box" and device == "cuda" else 0.01
    assert share_that_differs(source, augmentation, pictures) < ties
    assert furthest_off(source, augmentation, pictures) <= 1
    expected = np.stack([execute(picture, augmentation, row, 48) for row, picture in enumerate(source)])
    assert np.abs(values - expected).max() <= 1.5


@triton.jit
def _write_weights(out, parts, FILTER: tl.constexpr):
    """Of the pixels 0, 1, 2 and 3 in an output whose centre is ``parts`` pixels beyond the beginning of pixel 1."""
    keys, row = tl.arange(0, 4), tl.arange(0, 1)
    first = tl.load(parts + tl.program_id(0)) + 0.5
    weights = filter_weights(row, keys, first, first * 0.0 + 1.0, 4, tl.program_id(0) * 0 + FILTER)
    tl.store(out + tl.program_id(0) * 4 + keys[None, :], weights)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("filter", [BOX, NEAREST])
def test_at_the_edges_of_the_box_one_pixel_is_inside(filter, device):
    """Rounding to float32 must not leave an output between two pixels: nothing would weigh, and 0 / 0 is no number."""
    steps = np.arange(-12, 13) * 2.0**-26
    parts = np.concatenate([1 - BOX_TIE + steps, [0, 2.0**-30, 0.5, 1 - 2.0**-30]])
    out = torch.full((len(parts), 4), torch.nan, device=device)
    _write_weights[(len(parts),)](out, torch.from_numpy(parts).to(device), filter, enable_fp_fusion=False)
    found = out.cpu().numpy()
    assert set(found.ravel()) == {0.0, 1.0} and (found.sum(axis=1) == 1).all()
    assert (found[:3, 1] == 1).all() and (found[22:25, 2] == 1).all(), "the edge is where the definition has it"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("quality,order", [(1, "blur-down-noise-jpeg"), (30, "down-blur-jpeg-noise"),
                                           (77, "down-blur-noise-jpeg"), (100, "blur-down-jpeg-noise")])  # fmt: skip
def test_noise_and_jpeg_give_the_very_integers(quality, order, device):
    """Nothing is shrunk, so that nothing is rounded: sides that are no multiple of 8, and noise as loud as it gets."""
    still = AugmentSettings(flip=0, shift=0, brightness=0)
    settings = DegradationSettings(side_min=1, side_max=1, blur=0, noise_min=20, noise_max=64, jpeg=1, jpeg_min=quality,
                                   jpeg_max=quality, down="box", orders=order)  # fmt: skip
    source = pictures_of(37, 2)
    augmentation = drawn(settings, still, 37, 2)
    _, pictures = made(source, 37, still, settings, device)
    assert share_that_differs(source, augmentation, pictures) == 0


def test_no_side_is_larger_than_the_frames_made_for_it():
    for settings in (DegradationSettings(), DegradationSettings(side_min=0.3, side_max=0.7)):
        sides = drawn(settings, AugmentSettings(), 112, 20_000).degrade
        assert sides.max() == largest_side(settings, 112)
