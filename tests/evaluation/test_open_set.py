"""TPIR at fixed FPIR against a search of all thresholds."""

import numpy as np
import pytest

from hrfr_fast.evaluation.bootstrap import multiplicities, percentile_interval, resampled_cluster_means
from hrfr_fast.evaluation.identification import Search
from hrfr_fast.evaluation.open_set import tpir_at_fpir

FPIRS = (0.3, 0.1, 0.01)


@pytest.fixture
def found():
    """90 mated probes and 70 unmated ones with scores in steps of 0.1, so that many are equal."""
    rng = np.random.default_rng(0)
    mated = rng.permutation(160) < 90
    own = np.where(mated, np.round(rng.normal(0.5, 0.3, 160), 1), -np.inf).astype(np.float32)
    highest = np.maximum(own, np.round(rng.normal(0.2, 0.3, 160), 1)).astype(np.float32)
    rank = np.where(mated, np.where(own >= highest, 1, rng.integers(2, 40, 160)), 1000)
    return Search(mated, rank, own, highest, None), rng.integers(0, 30, 160)


def reference(search, rank, fpir, weights):
    """The best share of found mated probes over all thresholds at which few enough strangers are accepted."""
    best = 0.0
    strangers, known = weights * ~search.mated, weights * search.mated
    for threshold in np.unique(np.concatenate([search.highest, search.own, [9.0]])):
        if (strangers * (search.highest >= threshold)).sum() <= fpir * strangers.sum() + 1e-9:
            right = (search.own >= threshold) & (search.rank <= rank)
            best = max(best, (known * right).sum() / known.sum())
    return best


@pytest.mark.parametrize("rank", [1, 20])
def test_the_rate_and_every_resample_are_those_of_the_best_threshold(found, rank):
    search, subjects = found
    rates = tpir_at_fpir(search, subjects, rank=rank, fpirs=FPIRS, resamples=130)
    _, row = np.unique(subjects, return_inverse=True)
    for fpir in FPIRS:
        assert rates.tpir[fpir] == pytest.approx(reference(search, rank, fpir, np.ones(160)))
        for resample in (0, 99, 129):
            weights = multiplicities(row.max() + 1, resample, 1, 0)[0][row]
            assert rates.resampled[fpir][resample] == pytest.approx(reference(search, rank, fpir, weights))
    low, high = rates.intervals()[0.3]
    assert low <= rates.tpir[0.3] <= high and low < high


def test_a_rate_that_rests_on_few_strangers_is_warned_about(found):
    rates = tpir_at_fpir(*found, rank=20, fpirs=FPIRS, resamples=0)
    assert [text.split(" rests")[0] for text in rates.warnings] == ["TPIR at FPIR 0.1", "TPIR at FPIR 0.01"]
    assert rates.intervals() == {}


def test_both_kinds_of_probes_are_needed(found):
    search, subjects = found
    closed = Search(np.ones(160, bool), search.rank, search.own, search.highest, None)
    with pytest.raises(ValueError, match="and of others"):
        tpir_at_fpir(closed, subjects, rank=1, fpirs=FPIRS)


def test_a_resample_without_the_people_of_a_small_gallery_is_no_search_that_failed():
    """Three of 100 people are in the gallery: a twentieth of the resamples draws none of them."""
    mated, scores = np.arange(100) < 3, np.where(np.arange(100) < 3, 0.9, 0.1).astype(np.float32)
    search = Search(mated, np.where(mated, 1, 4), np.where(mated, scores, -np.inf), scores, None)
    assert tpir_at_fpir(search, np.arange(100), rank=1, fpirs=(0.1,)).intervals()[0.1] == (1.0, 1.0)
    hits = mated[:, None].astype(float)
    assert percentile_interval(resampled_cluster_means(hits, np.arange(100), mated)[:, 0]) == (1.0, 1.0)
