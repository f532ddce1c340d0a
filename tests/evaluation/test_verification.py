"""Verification against scikit-learn and against brute force written from the definitions."""

import numpy as np
import pytest

from hrfr_fast.evaluation.thresholds import thresholds_at_fars
from hrfr_fast.evaluation.verification import (
    FOLDS,
    NO_ERRORS,
    auc,
    best_threshold,
    equal_error_rate,
    fold_of_each,
    roc,
    tar_at_fars,
    verify,
)
from hrfr_fast.runtime.errors import UsageError

roc_auc_score = pytest.importorskip("sklearn.metrics").roc_auc_score


def drawn(genuine, impostor, gap=1.0, seed=0, decimals=None):
    """Scores of a made-up model and whether each pair is genuine, genuine pairs first."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(gap, 1, genuine), rng.normal(0, 1, impostor)])
    same = np.arange(genuine + impostor) < genuine
    return (scores if decimals is None else scores.round(decimals)), same


def right_at(threshold, scores, same):
    return int(((scores >= threshold) == same).sum())


@pytest.mark.parametrize("decimals", [None, 1], ids=["distinct", "ties"])
def test_the_threshold_decides_as_many_rightly_as_any(decimals):
    scores, same = drawn(60, 40, decimals=decimals)
    candidates = np.concatenate([[-np.inf], scores, np.nextafter(scores, np.inf), [np.inf]])
    best = max(right_at(t, scores, same) for t in candidates)
    threshold = best_threshold(scores, same)
    assert right_at(threshold, scores, same) == best
    assert threshold not in scores, "a midpoint, not a score"


def test_neighbouring_numbers_are_told_apart():
    """Between two of them lies none, and half of their sum may be the lower one."""
    lower = 0.18661772157622847
    scores = np.array([lower, np.nextafter(lower, 1)] * 20)
    same = scores > lower
    assert (scores[0] + scores[1]) / 2 == lower
    assert right_at(best_threshold(scores, same), scores, same) == 40
    (threshold,) = thresholds_at_fars(scores, same, None, fars=[0.1], resamples=2)
    assert right_at(threshold.threshold, scores, same) == 40


def test_folds_are_stratified_cover_all_and_do_not_depend_on_scores():
    _, same = drawn(105, 60)
    fold = fold_of_each(same)
    for kind, total in ((same, 105), (~same, 60)):
        sizes = np.bincount(fold[kind], minlength=FOLDS)
        assert sizes.sum() == total and sizes.max() - sizes.min() <= 1
    assert (fold == fold_of_each(same)).all()
    blocks = fold[:105].reshape(-1, 5)
    assert (np.ptp(blocks, axis=1) > 0).mean() > 0.9, "neighbours in the list are spread over folds"


def test_every_pair_is_decided_by_the_threshold_of_the_other_folds():
    scores, same = drawn(80, 80)
    result, fold = verify(scores, same, resamples=0), fold_of_each(same)
    for number in range(FOLDS):
        inside = fold == number
        threshold = best_threshold(scores[~inside], same[~inside])
        assert (result.decisions[inside] == (scores[inside] >= threshold)).all()
        assert result.folds[number] == pytest.approx((result.decisions == same)[inside].mean())
    assert result.accuracy == pytest.approx(np.mean(result.folds))


def test_an_accuracy_of_100_percent_says_that_its_interval_tells_nothing():
    scores, same = drawn(40, 40, gap=100.0)
    result = verify(scores, same, resamples=50)
    assert result.accuracy_ci == (1.0, 1.0) and NO_ERRORS in result.warnings
    scores[0] = -100
    assert NO_ERRORS not in verify(scores, same, resamples=50).warnings


def test_every_pair_counts_once_where_ten_does_not_divide_their_number():
    """Else a model's accuracy would not be the one that comparisons, intervals and McNemar's test are of."""
    scores, same = drawn(11, 13, seed=1)
    result = verify(scores, same, resamples=0)
    assert result.accuracy == result.correct.mean() != pytest.approx(np.mean(result.folds))
    assert result.guessing == result.to_json()["guessing"] == pytest.approx(13 / 24)


@pytest.mark.parametrize("decimals", [None, 1], ids=["distinct", "ties"])
def test_area_equals_scikit_learn(decimals):
    scores, same = drawn(70, 130, decimals=decimals)
    assert auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    far, tar = roc(scores, same)
    assert np.trapezoid(tar, far) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@pytest.mark.parametrize(
    "scores,same,expected",
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 0.0),
        ([0, 1, 2, 3], [1, 1, 0, 0], 1.0),
        ([3, 1, 2, 0], [1, 1, 0, 0], 0.5),
        ([1, 1, 1, 1], [1, 1, 0, 0], 0.5),
    ],
    ids=["perfect", "reversed", "one of two wrong", "all alike"],
)
def test_equal_error_rate(scores, same, expected):
    assert equal_error_rate(np.array(scores, float), np.array(same, bool)) == pytest.approx(expected)


def test_equal_error_rate_of_two_normals():
    """Two unit normals a gap g apart cross at FAR = FRR = Phi(-g / 2)."""
    from scipy.stats import norm

    scores, same = drawn(40_000, 40_000, gap=2.0)
    assert equal_error_rate(scores, same) == pytest.approx(norm.cdf(-1), abs=0.004)


def test_tar_at_far_is_the_best_threshold_within_the_rate_and_warns_when_few():
    scores, same = drawn(200, 300, decimals=2)
    rates, warnings = tar_at_fars(scores, same)
    for target in (0.1, 0.01, 0.001):
        allowed = [t for t in [*scores, np.inf] if (scores[~same] >= t).mean() <= target + 1e-12]
        assert rates[f"{target:g}"] == pytest.approx(max((scores[same] >= t).mean() for t in allowed))
    assert [w.split(" rests")[0] for w in warnings] == ["TAR at FAR 0.01", "TAR at FAR 0.001"]
    assert tar_at_fars(*drawn(10, 20_000))[1] == []


@pytest.mark.parametrize(
    "scores,same,identities,message",
    [
        (np.full(40, np.nan), np.arange(40) < 20, None, "40 of 40 scores are not finite"),
        (np.zeros(39), np.arange(40) < 20, None, "lengths must agree"),
        (np.zeros(40), np.arange(40) < 20, np.zeros(79, np.int32), "lengths must agree"),
        (np.zeros(40), np.arange(40) < 9, None, "9 genuine and 31 impostor pairs; at least 10"),
    ],
    ids=["nan", "short", "identities", "few"],
)
def test_scores_that_cannot_be_judged_are_refused(scores, same, identities, message):
    with pytest.raises(UsageError, match=message):
        verify(scores, same, identities)
