import numpy as np
import pytest

from hrfr_fast.analysis.intervals import auc_statistic, mean_statistic, percentile_interval, unit_weights
from hrfr_fast.analysis.resolution_gap import (
    Probe,
    centroid_distance,
    folds_of,
    planes,
    probe,
    same_picture_cosine,
    silhouette,
    verdict_on,
)
from hrfr_fast.runtime.errors import UsageError

metrics = pytest.importorskip("sklearn.metrics")

PEOPLE, EACH, DIMENSIONS = 40, 3, 16
IDENTITIES = np.repeat(np.arange(PEOPLE), EACH)


def views(gap, seed=0, noise=0.3):
    """Two views of each picture: a person's centre plus noise, the second moved by ``gap`` along one axis."""
    random = np.random.default_rng(seed)
    faces = random.standard_normal((PEOPLE, DIMENSIONS))[IDENTITIES]
    hr, lr = (faces + noise * random.standard_normal(faces.shape) for _ in range(2))
    lr[:, 0] += gap
    return tuple(part / np.linalg.norm(part, axis=1, keepdims=True) for part in (hr, lr))


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_the_probe_finds_a_gap_that_is_there_and_none_that_is_not(kind):
    apart = probe(*views(20.0), IDENTITIES, kind=kind, resamples=200)
    assert apart.auc > 0.99 and apart.balanced_accuracy > 0.95 and apart.auc_ci[0] > 0.95
    together = probe(*views(0.0), IDENTITIES, kind=kind, resamples=200)
    assert together.auc_ci[0] < 0.5 < together.auc_ci[1] or abs(together.auc - 0.5) < 0.06
    assert abs(together.balanced_accuracy - 0.5) < 0.1


def test_a_probe_that_saw_the_other_view_would_know_it():
    """Persons are the only structure and views are labelled by person: a probe trained on a person is always right,
    one that has not seen it can only guess. Only whole-identity folds give chance."""
    random = np.random.default_rng(3)
    faces = 5 * random.standard_normal((PEOPLE, 64))[IDENTITIES]
    step = 2 * np.sign(random.standard_normal(PEOPLE))[IDENTITIES, None] * np.eye(64)[0]
    found = probe(faces + step, faces - step, IDENTITIES, kind="knn", resamples=0)
    assert found.auc < 0.7


def test_folds_keep_identities_and_so_both_views_together():
    fold = folds_of(IDENTITIES, 5, seed=1)
    assert sorted(np.unique(fold)) == [0, 1, 2, 3, 4]
    assert all(len(set(fold[person == IDENTITIES])) == 1 for person in range(PEOPLE))
    assert not np.array_equal(fold, folds_of(IDENTITIES, 5, seed=2))


def test_the_probes_accuracy_is_scikit_learns():
    found = probe(*views(0.8), IDENTITIES, kind="knn", resamples=0)
    decided = np.where(found.scores == 0.5, found.low, found.scores > 0.5)  # 15 neighbours never tie
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(found.low, decided))


def test_the_weighted_area_is_scikit_learns():
    random = np.random.default_rng(0)
    scores, positive = random.integers(0, 12, 300) / 12, random.random(300) < 0.4
    weights = random.integers(0, 4, (3, 300)).astype(float)
    expected = [metrics.roc_auc_score(positive, scores, sample_weight=w) for w in weights]
    assert auc_statistic(scores, positive)(weights) == pytest.approx(expected)


def test_the_area_across_identities_leaves_out_comparisons_within_one():
    random = np.random.default_rng(0)
    scores, positive, people = random.integers(0, 9, 60) / 9, random.random(60) < 0.5, random.integers(0, 12, 60)
    weights = random.integers(0, 3, (4, 12))[:, people].astype(float)
    for w, found in zip(weights, auc_statistic(scores, positive, people)(weights), strict=True):
        high, low = np.meshgrid(np.flatnonzero(positive), np.flatnonzero(~positive), indexing="ij")
        mass = w[high] * w[low] * (people[high] != people[low])
        wins = (np.sign(scores[high] - scores[low]) + 1) / 2
        assert found == pytest.approx((mass * wins).sum() / mass.sum())


@pytest.mark.parametrize(
    ("auc", "interval", "word"),
    [
        (0.52, (0.47, 0.57), "not significantly"), (0.55, (0.51, 0.59), "hardly"), (0.8, (0.7, 0.9), "partly"),
        (0.97, (0.95, 0.99), "yes"), (0.2, (0.1, 0.3), "partly, the other way round for other people"),
    ],
)  # fmt: skip
def test_the_answer_in_words(auc, interval, word):
    """An AUC surely below 0.5 is a gap as well: it was called not significant."""
    nothing = np.empty(0)
    tested = Probe(auc, interval, 0.5, None, nothing, nothing.astype(bool), nothing.astype(np.int64))
    assert verdict_on(tested) == word


def test_two_alike_views_are_no_gap():
    """A probe of scores that rise by next to nothing from view to view: its interval must hold 0.5."""
    random = np.random.default_rng(0)
    scores = random.standard_normal(150)
    both, people = np.concatenate([scores, scores + 1e-9]), np.tile(np.arange(50).repeat(3), 2)
    low, high = percentile_interval(auc_statistic(both, np.arange(300) >= 150, people), people, resamples=300)
    assert low <= 0.5 <= high and high - low < 1e-3


def test_intervals_resample_people_and_not_pictures():
    """Pictures that repeat their person's value tell no more than one of them: the interval stays as wide."""
    values = np.random.default_rng(0).standard_normal(60)
    alone = percentile_interval(mean_statistic(values), np.arange(60), resamples=400)
    tenfold = percentile_interval(mean_statistic(np.repeat(values, 10)), np.repeat(np.arange(60), 10), resamples=400)
    assert tenfold == pytest.approx(alone)
    assert alone[1] - alone[0] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(60), rel=0.15)
    assert (unit_weights(np.repeat(np.arange(60), 10), 0, 5, 0).sum(axis=1) == 600).all()


def test_what_cannot_be_probed_is_refused():
    hr, lr = views(1.0)
    with pytest.raises(UsageError, match="both views"):
        probe(hr[:-1], lr, IDENTITIES)
    with pytest.raises(UsageError, match="two identities"):
        probe(hr, lr, np.zeros_like(IDENTITIES))
    with pytest.raises(UsageError, match="no probe is called 'svm'"):
        probe(hr, lr, IDENTITIES, kind="svm")


def test_plain_measures_of_the_gap():
    hr, lr = views(0.0)
    assert same_picture_cosine(hr, hr) == pytest.approx(np.ones(len(hr)))
    shifted = hr + 3 * np.eye(DIMENSIONS)[0]
    distance, in_spreads = centroid_distance(hr, shifted)
    assert distance == pytest.approx(3, rel=1e-6)
    assert in_spreads == pytest.approx(3 / np.sqrt(hr.var(axis=0).sum()), rel=1e-6)
    labels = np.arange(2 * len(hr)) >= len(hr)
    assert silhouette(hr, shifted) == pytest.approx(metrics.silhouette_score(np.concatenate([hr, shifted]), labels))


def test_the_plane_shows_the_gap():
    shown = planes(*views(20.0))
    for points in shown.values():
        assert points.shape == (2 * len(IDENTITIES), 2)
        assert metrics.silhouette_score(points, np.arange(len(points)) >= len(points) // 2) > 0.3
