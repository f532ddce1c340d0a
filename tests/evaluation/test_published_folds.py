"""Accuracy as the literature computes it, against the same in a few plain loops."""

import numpy as np
import pytest

from hrfr_fast.evaluation.published_folds import (
    GRID,
    contiguous_folds,
    fold_warning,
    published_accuracy,
    squared_distances,
)


def pairs(count, noise, seed):
    """Unit embeddings of ``count`` pairs, about half of them genuine."""
    rng = np.random.default_rng(seed)
    same = rng.random(count) < 0.5
    first = rng.standard_normal((count, 16))
    second = np.where(same[:, None], first, rng.standard_normal((count, 16))) + noise * rng.standard_normal((count, 16))
    return *(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)), same


def loops(distances, same, thresholds, below):
    """Accuracy of each of ten contiguous folds; of equally good thresholds the first."""
    parts, accuracies = np.array_split(np.arange(len(same)), 10), []
    for held_out in parts:
        rest = np.setdiff1d(np.arange(len(same)), held_out)
        right = [(below(distances[rest], t) == same[rest]).sum() for t in thresholds]
        accuracies.append((below(distances[held_out], thresholds[int(np.argmax(right))]) == same[held_out]).mean())
    return accuracies


@pytest.mark.parametrize("count, noise", [(600, 0.8), (607, 1.5), (120, 0.0)])
def test_the_published_accuracy(count, noise):
    first, second, same = pairs(count, noise, seed=count)
    distances = ((first - second) ** 2).sum(axis=1)
    distances[:3] = [0.0, GRID[150], GRID[399]]  # on thresholds, and at the end of the grid
    expected = loops(distances, same, np.arange(0, 4, 0.01), np.less)
    found = published_accuracy(distances, same, contiguous_folds(count))
    assert found.folds == expected
    assert (found.accuracy, found.deviation) == (np.mean(expected), np.std(expected))
    assert (found.decisions == same).mean() == pytest.approx(
        np.average(expected, weights=np.bincount(contiguous_folds(count)))
    )


def test_exact_thresholds_are_never_worse_on_the_folds_they_were_chosen_on():
    first, second, same = pairs(600, 1.5, seed=3)
    distances, folds = squared_distances(first.astype(np.float32), second.astype(np.float32)), contiguous_folds(600)
    assert np.allclose(distances, ((first - second) ** 2).sum(axis=1), atol=1e-6)
    exact, grid = (published_accuracy(distances, same, folds, exact=value) for value in (True, False))
    assert abs(exact.accuracy - grid.accuracy) < 0.03 and exact.exact and not grid.exact
    best = max((np.less(distances, t) == same).mean() for t in np.sort(distances))
    assert best - 0.05 < exact.accuracy <= best + 1e-12


@pytest.mark.parametrize("count, lengths", [(6000, [600] * 10), (7003, [701] * 3 + [700] * 7)])
def test_folds_are_contiguous_and_of_almost_equal_length(count, lengths):
    folds = contiguous_folds(count)
    assert np.bincount(folds).tolist() == lengths and (np.diff(folds) >= 0).all()


def test_a_list_ordered_in_blocks_is_warned_about():
    folds = contiguous_folds(600)
    assert "10 of the list's 10 folds" in fold_warning(np.arange(600) < 300, folds)
    assert fold_warning(np.arange(600) % 60 < 30, folds) == ""


def test_a_list_of_few_genuine_pairs_in_each_fold_is_not_ordered_in_blocks():
    folds = contiguous_folds(1000)
    assert fold_warning(np.arange(1000) % 50 < 1, folds) == ""
    assert "9 of the list's 10 folds" in fold_warning(np.arange(1000) < 20, folds)
