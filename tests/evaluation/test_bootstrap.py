"""The identity bootstrap: its weights from the definition, its width where the truth is known."""

import numpy as np
import pytest

from hrfr_fast.evaluation.bootstrap import (
    NO_IDENTITIES,
    accuracy_interval,
    balanced_mean,
    interval_caveats,
    pair_weights,
    paired_difference,
)


def test_a_genuine_pair_weighs_w_i_and_an_impostor_pair_w_i_w_j():
    identities = np.array([7, 7, 7, 3, 3, 3, 9, 7, 3, 9], np.int32)  # five pairs
    same = np.array([True, False, True, False, False])
    weights = pair_weights(same, identities, 0, 200, seed=1)
    w7, w3 = weights[:, 0], weights[:, 2]
    assert (weights[:, 1] == w7 * w3).all()
    known = w7 > 0
    w9 = weights[known, 3] / w7[known]
    assert (w7[known] + w3[known] + w9 == 3).all(), "three identities are drawn three times in all"
    assert w7.mean() == pytest.approx(1, abs=0.2)


def test_a_wrong_label_does_not_change_how_often_a_pair_is_drawn():
    identities = np.array([7, 7, 7, 3, 3, 9], np.int32)
    right = pair_weights(np.array([True, False, False]), identities, 0, 50, seed=1)
    assert (pair_weights(np.array([False, True, False]), identities, 0, 50, seed=1) == right).all()


def test_equal_arguments_give_equal_weights_from_any_start():
    same = np.arange(30) < 15
    whole = pair_weights(same, None, 0, 10, seed=3)
    assert (whole[4:7] == pair_weights(same, None, 4, 3, seed=3)).all()
    assert (whole != pair_weights(same, None, 0, 10, seed=4)).any()
    assert (whole.sum(axis=1) == 30).all()


def test_the_balanced_mean_keeps_the_share_of_genuine_pairs():
    values, same = np.array([1.0, 0, 1, 1]), np.array([True, True, True, False])
    heavy = np.array([[2.0, 2, 0, 9]])
    assert balanced_mean(values, same, heavy)[0] == pytest.approx(0.75 * 0.5 + 0.25 * 1.0)
    assert balanced_mean(values, same, np.ones((1, 4)))[0] == pytest.approx(values.mean())


def test_the_interval_of_independent_pairs_is_the_binomial_one():
    rng = np.random.default_rng(0)
    right = (rng.random(2000) < 0.8).astype(float)
    low, high = accuracy_interval(right, np.arange(2000) < 1000, None)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert high - low == pytest.approx(2 * half, rel=0.12)
    assert low < right.mean() < high


def test_pairs_that_share_identities_have_a_wider_interval():
    """Whether a genuine pair is right depends on its person alone: 200 people, ten pairs each, tell as much as 200."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(200), 10)
    right = np.repeat(rng.random(200) < 0.8, 10).astype(float)
    same = np.ones(2000, bool)
    identities = np.repeat(person, 2).astype(np.int32)
    low, high = accuracy_interval(right, same, identities)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 200), rel=0.15)
    naive_low, naive_high = accuracy_interval(right, same, None)
    assert high - low > 2.5 * (naive_high - naive_low)


def test_a_paired_difference_cancels_what_is_hard_for_both():
    rng = np.random.default_rng(0)
    same, identities = np.arange(1000) < 500, rng.integers(0, 300, 2000).astype(np.int32)
    hard = rng.random(1000) < 0.3
    a, b = ~hard, ~hard.copy()
    b[:20] = False
    difference, low, high = paired_difference(a, b, same, identities)
    assert difference == pytest.approx(a.mean() - b.mean()) and 0 <= low <= difference <= high
    alone_low, alone_high = accuracy_interval(a.astype(float), same, identities)
    assert high - low < (alone_high - alone_low) / 2
    assert paired_difference(a, a, same, identities) == (0.0, 0.0, 0.0)


def test_intervals_over_few_people_say_so():
    assert interval_caveats(None) == [NO_IDENTITIES] and interval_caveats(10) == []
    assert "one person" in interval_caveats(1)[0] and interval_caveats(9)[0].startswith("only 9 people")
