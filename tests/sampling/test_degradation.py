"""What the degradation draws, and second views that undergo it in every engine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_cases import build

from hrfr_fast.engines.resident import ResidentCPU
from hrfr_fast.format.reader import open_packed
from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import NOISE, philox
from hrfr_fast.sampling.augmentation import FILTERS, draw_augmentation
from hrfr_fast.sampling.degradation import NOISE_SPREAD, NOISE_UNIT, NativeView, weighted_names
from hrfr_fast.sampling.two_view_stream import SecondView, TwoViewStream
from hrfr_fast.settings import AugmentSettings, DegradationSettings, TrainSettings, load_settings
from hrfr_fast.training.stream import build_stream

MANY = 4000


def drawn(settings, *, seed=3, start=0, count=MANY, size=144, view=2):
    position = np.arange(start, start + count)
    return NativeView(settings).draw(AugmentSettings(), seed, np.zeros(count, int), position, view, size)


def test_parameters_fill_their_ranges():
    a = drawn(
        DegradationSettings(blur=0.5, blur_min=0.01, noise_grey=0.25, noise_min=2, jpeg=0.5, down="box:3,lanczos")
    )
    assert a.degrade.min() == 14 and a.degrade.max() == 72
    blurred = a.optics[a.optics > 0]
    assert abs((a.optics > 0).mean() - 0.5) < 0.03 and blurred.min() >= 0.01 and 0.0195 < blurred.max() <= 0.02
    spread = a.noise * NOISE_SPREAD * NOISE_UNIT
    assert (np.count_nonzero(spread, axis=1) == 1).all() and abs((spread[:, 1] > 0).mean() - 0.25) < 0.03
    assert spread.max(axis=1).min() > 1.99 and 14.9 < spread.max() < 15.01
    assert set(a.jpeg) == {0, *range(30, 96)} and abs((a.jpeg > 0).mean() - 0.5) < 0.03
    assert set(a.order) == {0, 1, 2, 3} and set(a.up) == set(range(5))
    assert abs((a.filter == FILTERS.index("box")).mean() - 0.75) < 0.03 and len(set(a.filter)) == 2


def test_an_integer_decides_everything():
    whole, later = drawn(DegradationSettings()), drawn(DegradationSettings(), start=1000, count=10)
    for all_rows, rows in zip(whole, later, strict=True):
        assert np.array_equal(all_rows[1000:1010], rows)
    for other in (drawn(DegradationSettings(), seed=4), drawn(DegradationSettings(), view=1)):
        assert len(set(other.noise_key) & set(whole.noise_key)) == 0 and (other.degrade != whole.degrade).any()
    plain = draw_augmentation(AugmentSettings(), 3, np.zeros(MANY, int), np.arange(MANY), view=2)
    assert np.array_equal(plain.box, whole.box) and (plain.order == -1).all() and not plain.degrade.any()


def test_noise_has_the_spread_of_its_name():
    sums = philox(5, 0, np.arange(100_000), purpose=NOISE).astype("<u4").view(np.uint8).reshape(-1, 4).sum(axis=1)
    assert abs(sums.mean() - 510) < 1.5 and abs(sums.std() / NOISE_SPREAD - 1) < 0.01


def test_weights_choose():
    indices, bounds = weighted_names("box:0, cubic:3,linear,nearest:0", FILTERS, "down")
    assert indices.tolist() == [2, 0, 1, 3] and bounds.tolist() == [0, 0.75, 1, 1]


@pytest.mark.parametrize(
    "given,message",
    [
        ({"down": "cubic,sinc"}, "degradation: down is 'cubic,sinc'; it must be some of cubic, linear"),
        ({"up": "cubic:-1"}, "up is 'cubic:-1'"),
        ({"orders": "blur-down"}, "orders is 'blur-down'; it must be some of blur-down-noise-jpeg"),
        ({"up": "cubic:0"}, "one weight at least must be above 0"),
    ],
)
def test_names_are_checked(given, message):
    with pytest.raises(UsageError, match=message):
        NativeView(DegradationSettings(**given))


def test_settings_come_from_a_file_of_their_own_and_stay_as_values(tmp_path):
    (tmp_path / "matched.toml").write_text("[degradation]\nside_min = 0.2\njpeg_min = 50\n[evidence]\nauc = 0.5\n")
    settings = TrainSettings(degradation=str(tmp_path / "matched.toml")).updated(
        {"degradation": {"blur": 0.5}}, "flags"
    )
    assert settings.degradation == DegradationSettings(side_min=0.2, jpeg_min=50, blur=0.5)
    settings.save(tmp_path / "settings.toml")
    (tmp_path / "matched.toml").unlink()
    assert load_settings(tmp_path / "settings.toml") == settings
    with pytest.raises(UsageError, match="matched.toml: cannot be read as a degradation"):
        TrainSettings(degradation=str(tmp_path / "matched.toml"))
    with pytest.raises(UsageError, match="noise_min is 20 and noise_max 15"):
        TrainSettings(degradation={"noise_min": 20})


@pytest.fixture
def stream(tiny_packed):
    splits = open_packed(tiny_packed).splits
    view = NativeView(DegradationSettings(jpeg=0.5))
    return TwoViewStream((splits["lowres"], splits["highres"]), 3, AugmentSettings(), view, 48, 24, 4)


def test_the_regime_decides_how_the_second_view_is_degraded(tiny_packed):
    packed = open_packed(tiny_packed)
    assert regime_named("matched-views").degradation == "native"
    native = build_stream(packed, TrainSettings(regime="matched-views", degradation={"side_min": 0.3}), 16)
    assert native.second_view == NativeView(DegradationSettings(side_min=0.3))
    high = native.batch_spec(0).parts[1].augmentation
    assert (high.order[0::2] == -1).all() and (high.order[1::2] >= 0).all() and (high.degrade[1::2] >= 43).all()
    assert isinstance(build_stream(packed, TrainSettings(regime="crossres144"), 16).second_view, SecondView)


@pytest.mark.parametrize(
    "engine,device",
    [
        ("resident-torch", "cpu"), ("dali", "cpu"),
        *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in ("resident", "resident-torch", "dali")),
    ],
)  # fmt: skip
def test_engines_agree(stream, engine, device):
    stream = replace(stream, every_view=AugmentSettings(saturation=0.3, erase=0.3, blur=0.3, zoom=0.1))
    with build(engine, stream, device=device) as other:
        found = list(other.batches(24, 120))
    for batch, expected in zip(found, ResidentCPU(stream, torch.uint8).batches(24, 120), strict=True):
        assert torch.equal(batch.labels.cpu(), expected.labels)
        difference = (batch.images.cpu().int() - expected.images.int()).abs()
        # A downsampled value at a tie may be rounded either way, and with it a coefficient of its block.
        assert (difference > 2).float().mean() < 0.002 and difference.float().mean() < 0.3
