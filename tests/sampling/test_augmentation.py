import numpy as np
import pytest
from engine_cases import STILL

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.augmentation import draw_augmentation, no_augmentation
from hrfr_fast.settings import AugmentSettings

EVERYTHING = AugmentSettings(zoom=0.2, contrast=0.3, saturation=0.3, grey=0.2, blur=0.5, erase=0.5, degrade=0.5)


def augmentation(count=4000, settings=EVERYTHING, seed=0, view=0):
    return draw_augmentation(settings, seed, np.zeros(count, np.int64), np.arange(count), view)


def test_a_plan_is_a_function_of_its_integers():
    whole, part = augmentation(), draw_augmentation(EVERYTHING, 0, np.zeros(5, np.int64), np.arange(90, 95))
    for a, b in zip(part, whole, strict=True):
        assert (a == b[90:95]).all()


@pytest.mark.parametrize("other", [{"seed": 1}, {"view": 1}])
def test_seeds_and_views_differ(other):
    assert (augmentation().box != augmentation(**other).box).any(axis=1).mean() > 0.99


def test_shares_and_ranges_are_those_asked_for():
    p = augmentation(20_000)
    assert abs((p.box[:, 0] > p.box[:, 2]).mean() - 0.5) < 0.02
    width = np.abs(p.box[:, 2] - p.box[:, 0])
    assert 0.79 < width.min() < 0.82 and 1.18 < width.max() < 1.21
    middle = p.box[:, [0, 1]] + p.box[:, [2, 3]]
    assert np.abs(middle / 2 - 0.5).max() <= 0.0625 + 1e-6
    assert abs((p.degrade > 0).mean() - 0.5) < 0.02
    assert set(p.degrade[p.degrade > 0]) == set(range(16, 49)) and set(p.filter) == {0, 1, 2}
    assert abs((p.blur > 0).mean() - 0.5) < 0.02 and p.blur.max() <= 0.02
    area = (p.erase[:, 2] - p.erase[:, 0]) * (p.erase[:, 3] - p.erase[:, 1])
    assert abs((area > 0).mean() - 0.5) < 0.02 and area.max() <= 0.2001


def test_without_augmentation_a_plan_is_the_identity():
    for a, b in zip(augmentation(10, STILL), no_augmentation(10), strict=True):
        np.testing.assert_allclose(a[:, ...] if a.ndim == 1 else a, b, atol=1e-7)


def test_grey_pictures_have_equal_channels():
    p = augmentation(50, AugmentSettings(grey=1.0))
    assert np.allclose(p.colour[:, 0], p.colour[:, 1]) and np.allclose(p.colour[:, 0], p.colour[:, 2])


@pytest.mark.parametrize(
    "bad", [{"flip": 1.5}, {"shift": -0.1}, {"zoom": 0.6}, {"degrade_min": 0}, {"degrade_min": 99}]
)
def test_settings_out_of_range_are_refused_by_name(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        AugmentSettings(**bad)
