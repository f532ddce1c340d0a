"""Searches in galleries with several pictures of a person and with distractors, against a sorted list of each probe."""

import numpy as np
import pytest

from hrfr_fast.evaluation.identification import identify, search

DISTRACTOR = -100


@pytest.fixture
def faces():
    """20 people with 1 to 4 gallery pictures, 30 distractors, 60 probes of the people and 10 of others."""
    rng = np.random.default_rng(0)
    people = rng.permutation(500)[:20]
    centres = rng.standard_normal((20, 8))
    gallery_of = np.repeat(np.arange(20), 1 + np.arange(20) % 4)
    probe_of = rng.integers(0, 20, 60)
    gallery = np.concatenate(
        [centres[gallery_of] + rng.standard_normal((len(gallery_of), 8)), rng.normal(size=(30, 8))]
    )
    probes = np.concatenate([centres[probe_of] + rng.standard_normal((60, 8)), rng.normal(size=(10, 8))])
    gallery_labels = np.concatenate([people[gallery_of], np.full(30, DISTRACTOR)])
    probe_labels = np.concatenate([people[probe_of], np.full(10, 900)])
    order = rng.permutation(len(gallery))
    return unit(probes), probe_labels, unit(gallery)[order], gallery_labels[order]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def precision_of_the_kit(right):
    """The loop that TinyFace's evaluation kit describes, over the sorted list of one probe (bool, best first)."""
    recall_before, precision_before, area, hits = 0.0, 1.0, 0.0, 0
    for place, is_right in enumerate(right, 1):
        hits += is_right
        recall, precision = hits / right.sum(), hits / place
        area += (recall - recall_before) * (precision + precision_before) / 2
        recall_before, precision_before = recall, precision
    return area


def test_ranks_scores_and_precision_are_those_of_the_sorted_lists(faces, monkeypatch):
    probes, probe_labels, gallery, gallery_labels = faces
    monkeypatch.setattr("hrfr_fast.evaluation.identification.BLOCK_FLOATS", 7 * len(gallery))
    found = search(probes, probe_labels, gallery, gallery_labels, precision=True)
    cosines = probes @ gallery.T
    assert found.mated.tolist() == [True] * 60 + [False] * 10
    for row, label in enumerate(probe_labels):
        right = gallery_labels[np.argsort(-cosines[row])] == label
        assert found.highest[row] == pytest.approx(cosines[row].max(), abs=1e-6)
        if label == 900:
            assert (found.rank[row], found.own[row]) == (len(gallery) + 1, -np.inf)
            continue
        assert found.rank[row] == np.flatnonzero(right)[0] + 1
        assert found.own[row] == pytest.approx(cosines[row][gallery_labels == label].max(), abs=1e-6)
        assert found.average_precision[row] == pytest.approx(precision_of_the_kit(right))


def test_one_picture_found_first_has_a_precision_of_one_and_found_second_a_quarter():
    gallery, labels = np.eye(3, dtype=np.float32), np.array([1, 2, 3])
    probe = unit(np.array([[3.0, 2.0, 0.0], [2.0, 3.0, 0.0]]))
    found = search(probe, np.array([1, 1]), gallery, labels, precision=True)
    assert found.rank.tolist() == [1, 2]
    assert found.average_precision.tolist() == [1.0, 0.25]  # (0 / 1 + 1 / 2) / 2


def test_equal_scores_of_others_come_first_and_equal_scores_of_the_own_person_do_not_count():
    gallery, labels = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]], np.array([5, 5, 6, 7])
    found = search(gallery[:1], np.array([5]), gallery, labels, precision=True)
    assert found.rank.tolist() == [2]
    # The distractor, then both own pictures: (0/1 + 1/2) / 2 and (1/2 + 2/3) / 2, each half of the recall.
    assert found.average_precision[0] == pytest.approx(((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_an_embedding_that_is_no_number_comes_last():
    gallery, labels = np.eye(3, dtype=np.float32), np.array([1, 2, 3])
    gallery[0] = np.nan
    assert search(np.eye(3, dtype=np.float32)[:1], np.array([1]), gallery, labels).rank.tolist() == [3]


def test_intervals_resample_people(faces):
    probes, probe_labels, gallery, gallery_labels = (part[:60] if len(part) == 70 else part for part in faces)
    rates = identify(probes, probe_labels, gallery, gallery_labels, most=(1, 20))
    assert set(rates) == {"rank1", "rank1_ci", "rank20", "rank20_ci"}
    tenfold = identify(
        np.repeat(probes, 10, axis=0), np.repeat(probe_labels, 10), gallery, gallery_labels, most=(1, 20)
    )
    for name, value in rates.items():
        assert tenfold[name] == pytest.approx(value), "pictures of the same people tell nothing new"
    low, high = rates["rank1_ci"]
    assert low < rates["rank1"] < high
