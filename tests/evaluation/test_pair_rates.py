"""Rates of many pairs against scikit-learn on all of their scores, complete and with only the highest kept."""

import numpy as np
import pytest

from hrfr_fast.evaluation import bootstrap, pair_rates
from hrfr_fast.evaluation.pair_rates import Pairs
from hrfr_fast.evaluation.subject_pairs import SubjectPairs
from hrfr_fast.evaluation.top_scores import TopScores
from hrfr_fast.runtime.errors import UsageError

metrics = pytest.importorskip("sklearn.metrics")
FARS = (0.1, 0.01, 1e-3)


@pytest.fixture
def templates():
    """60 templates of 15 people in 3 dimensions, and 4,000 pairs of them."""
    rng = np.random.default_rng(1)
    subjects = np.repeat(np.arange(15), 4) * 3 + 2
    features = np.repeat(rng.standard_normal((15, 3)), 4, axis=0) + 0.5 * rng.standard_normal((60, 3))
    features = np.round(features / np.linalg.norm(features, axis=1, keepdims=True), 1)  # equal scores occur
    first = rng.integers(0, 60, 4000)
    second = np.where(rng.random(4000) < 0.1, first - first % 4 + (first + 1) % 4, rng.integers(0, 60, 4000))
    same = subjects[first] == subjects[second]
    same[5:8] = ~same[5:8]  # labels that contradict the subjects, as real lists have some
    return features.astype(np.float32), Pairs(first, second, same), subjects


def tar_at(same, scores, fars, weights=None):
    false, true, _ = metrics.roc_curve(same, scores, sample_weight=weights, drop_intermediate=False)
    return [true[false <= far + 1e-12].max() for far in fars]


@pytest.mark.parametrize("kept", [1 << 17, 700], ids=["all kept", "the highest kept"])
def test_rates_and_resamples_are_those_of_all_scores(templates, monkeypatch, kept):
    features, pairs, subjects = templates
    monkeypatch.setattr(pair_rates, "ALWAYS_KEPT", kept)
    monkeypatch.setattr(pair_rates, "CHUNK", 37)
    rates = pair_rates.pair_rates(features, pairs, subjects, fars=FARS, resamples=120)
    scores = np.einsum("pd,pd->p", features[pairs.first], features[pairs.second])
    assert rates.auc == pytest.approx(metrics.roc_auc_score(pairs.same, scores))
    assert list(rates.tar.values()) == pytest.approx(tar_at(pairs.same, scores, FARS))
    assert ("auc" in rates.resampled) == (kept > 4000)
    ends = np.stack([subjects[pairs.first], subjects[pairs.second]], axis=1).reshape(-1).astype(np.int32)
    for resample in (0, 99, 100, 119):
        weights = bootstrap.pair_weights(pairs.same, ends, resample, 1, 0)[0]
        expected = tar_at(pairs.same, scores, FARS, weights)
        assert [rates.resampled[far][resample] for far in FARS] == pytest.approx(expected)
        if kept > 4000:
            auc = metrics.roc_auc_score(pairs.same, scores, sample_weight=weights)
            assert rates.resampled["auc"][resample] == pytest.approx(auc)
    limit = scores[~pairs.same][np.argsort(-scores[~pairs.same])[int(0.01 * (~pairs.same).sum())]]
    assert np.array_equal(rates.accepted(0.01), scores[pairs.same] > limit)
    assert (rates.units, rates.unit_count) == ("subject", 15)
    assert [text.split(" rests")[0] for text in rates.warnings] == ["TAR at FAR 0.001"]


def test_without_subjects_pairs_are_drawn(templates):
    features, pairs, _ = templates
    rates = pair_rates.pair_rates(features, pairs, None, fars=(0.1,), resamples=3)
    scores = np.einsum("pd,pd->p", features[pairs.first], features[pairs.second])
    weights = bootstrap.pair_weights(pairs.same, None, 2, 1, 0)[0]
    assert rates.resampled[0.1][2] == pytest.approx(tar_at(pairs.same, scores, (0.1,), weights)[0])
    assert rates.units == "pair"


def test_a_resample_without_impostor_pairs_is_no_success_of_the_model():
    """Of two people half of the resamples draws one alone. This model takes everybody for the same person."""
    subjects = np.repeat(np.arange(2), 4)
    first, second = np.triu_indices(8, 1)
    pairs = Pairs(first, second, subjects[first] == subjects[second])
    rates = pair_rates.pair_rates(np.ones((8, 1), np.float32), pairs, subjects, fars=(0.1,), resamples=50)
    assert rates.interval("auc") == (0.5, 0.5) and rates.interval(0.1) == (0.0, 0.0)


def test_pairs_of_one_kind_and_broken_embeddings_are_refused(templates):
    features, pairs, subjects = templates
    with pytest.raises(UsageError, match="both are needed"):
        pair_rates.pair_rates(features, Pairs(pairs.first, pairs.second, pairs.same & False), subjects, fars=FARS)
    with pytest.raises(UsageError, match="not finite"):
        pair_rates.pair_rates(features * np.nan, pairs, subjects, fars=FARS)


def test_the_highest_scores_of_a_stream():
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(2_500_000, dtype=np.float32), 3)
    kept = TopScores(1000)
    for start in range(0, len(scores), 250_000):
        kept.add(scores[start : start + 250_000], np.arange(start, start + 250_000))
    kept.finish()
    assert np.array_equal(kept.scores, np.sort(scores)[::-1][:1000])
    assert np.array_equal(scores[kept.rows], kept.scores) and len(set(kept.rows.tolist())) == 1000


def test_the_weight_of_all_pairs_is_the_sum_of_their_weights():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 9, (2, 500))
    drawn = rng.integers(0, 4, (6, 9)).astype(np.float64)
    counts = SubjectPairs(9)
    for part in range(0, 500, 100):
        counts.add(first[part : part + 100], second[part : part + 100])
        counts.totals(drawn[:1])  # counting goes on after a total was asked for
    weights = np.where(first == second, drawn[:, first], drawn[:, first] * drawn[:, second])
    assert counts.totals(drawn) == pytest.approx(weights.sum(axis=1))
