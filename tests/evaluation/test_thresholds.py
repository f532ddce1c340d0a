"""Thresholds at fixed false accept rates: their definition, ties, intervals, and what a damaged record is told."""

import numpy as np
import pytest

from hrfr_fast.evaluation.thresholds import threshold_from_json, thresholds_at_fars
from hrfr_fast.evaluation.verification import tar_at_fars
from hrfr_fast.runtime.errors import UsageError


def scored(impostors=1000, genuine=500, decimals=4):
    generator = np.random.default_rng(3)
    scores = np.concatenate([generator.normal(0, 0.15, impostors), generator.normal(0.5, 0.2, genuine)])
    return np.round(scores, decimals), np.arange(impostors + genuine) >= impostors


@pytest.mark.parametrize("decimals", [4, 1], ids=["few ties", "many ties"])
def test_a_threshold_is_the_loosest_that_keeps_the_rate(decimals):
    scores, same = scored(decimals=decimals)
    rates, _ = tar_at_fars(scores, same)
    for found in thresholds_at_fars(scores, same, None, resamples=50):
        accepted = scores >= found.threshold
        assert accepted[~same].mean() <= found.far
        looser = scores >= scores[~accepted].max()
        assert looser[~same].mean() > found.far
        assert accepted[same].mean() == rates[f"{found.far:g}"]


def test_the_interval_covers_the_truth_and_narrows_with_more_pairs():
    """Impostor scores are normal with sigma 0.15: 1 % of them lie above 0.15 * 2.3263."""
    widths = []
    for impostors in (300, 30_000):
        generator = np.random.default_rng(1)
        scores = np.concatenate([generator.normal(0, 0.15, impostors), [0.9, 0.8]])
        found = thresholds_at_fars(scores, np.arange(impostors + 2) >= impostors, None, fars=[0.01], resamples=200)[0]
        assert found.low <= 0.15 * 2.3263 <= found.high
        assert found.low <= found.threshold <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 3


def test_few_false_accepts_are_told():
    scores, same = scored()
    assert [found.rests_on_few for found in thresholds_at_fars(scores, same, None, resamples=2)] == [False, False, True]


def test_a_rate_that_no_score_keeps_is_above_all_scores():
    scores = np.array([0.9, 0.5, 0.1, 0.8])
    found = thresholds_at_fars(scores, np.array([False, False, False, True]), None, fars=[0.1], resamples=2)[0]
    assert 0.9 < found.threshold < 0.91


@pytest.mark.parametrize("broken", [{}, {"far": "x"}, {"far": 2.0}, {"low": 0.9}, {"threshold": float("nan")}])
def test_a_damaged_record_is_refused(broken):
    good = {"far": 0.1, "threshold": 0.3, "low": 0.2, "high": 0.4, "impostors": 7}
    assert threshold_from_json(good).to_json() == good
    with pytest.raises(UsageError, match="not a threshold"):
        threshold_from_json({**good, **broken} if broken else {})
