"""Verification accuracy as the literature reports it: ten contiguous folds, a threshold chosen on the other nine.

The evaluation that most published numbers come from (InsightFace's ``verification.py``, after David Sandberg's facenet)
takes the pairs in the order of their list, cuts it into ten, and tries 400 thresholds, 0.00 to 3.99 in steps of 0.01,
on the squared Euclidean distance of unit embeddings; of thresholds that are equally good it takes the first. Reported
are the mean and the standard deviation over the folds (Huang et al., "Labeled Faces in the Wild", 2007, section 4).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.verification import FOLDS, best_threshold

GRID = np.arange(0, 4, 0.01)
FEWEST_SHARE = 0.1  # of the list's own share of genuine (or impostor) pairs: a fold with less is one of blocks


@dataclass(frozen=True)
class PublishedAccuracy:
    """Accuracy over contiguous folds. Rates are shares in [0, 1]."""

    accuracy: float
    """Mean over the folds."""
    deviation: float
    """Standard deviation over the folds, not of the mean; divided by their number, as published ones are."""
    folds: list[float]
    exact: bool
    """False: thresholds of the grid. True: midpoints between the scores of the other folds, as in ``verification``."""
    decisions: NDArray[np.bool_] = field(repr=False)
    """bool [P]: called the same person, by the threshold of the other folds."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        method = "midpoints between scores" if self.exact else "grid of 0.01 on the squared distance"
        return {
            "accuracy": self.accuracy, "deviation": self.deviation, "folds": self.folds, "thresholds": method,
        }  # fmt: skip


def squared_distances(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """The squared Euclidean distance of every pair of rows, float64 [P], in [0, 4] for unit rows."""
    difference = np.subtract(first.astype(np.float64), second.astype(np.float64))
    return np.asarray(np.sum(np.square(difference), axis=1))


def contiguous_folds(pairs: int) -> NDArray[np.int64]:
    """int64 [P]: ten folds in the order of the list, the first ones one pair longer where ten does not divide it."""
    return np.repeat(np.arange(FOLDS), [len(part) for part in np.array_split(np.arange(pairs), FOLDS)])


def published_accuracy(
    distances: NDArray[np.float64], same: NDArray[np.bool_], folds: NDArray[np.int64], *, exact: bool = False
) -> PublishedAccuracy:
    """Accuracy with the folds of the list.

    Args:
        distances: float64 [P], squared Euclidean.
        same: bool [P].
        folds: int64 [P], numbers from 0, two or more of them.
        exact: thresholds at midpoints between scores in place of the grid.
    """
    decisions, accuracies = np.empty(len(same), bool), []
    for number in range(int(folds.max()) + 1):
        held_out = folds == number
        if exact:
            chosen = -best_threshold(-distances[~held_out], same[~held_out])
            decisions[held_out] = distances[held_out] <= chosen
        else:
            decisions[held_out] = distances[held_out] < _best_of_grid(distances[~held_out], same[~held_out])
        accuracies.append(float((decisions[held_out] == same[held_out]).mean()))
    return PublishedAccuracy(float(np.mean(accuracies)), float(np.std(accuracies)), accuracies, exact, decisions)


def _best_of_grid(distances: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The first threshold of the grid with the most right decisions, where a distance below it means the same."""
    accepted_from = np.searchsorted(GRID, distances, side="right")  # the first threshold above the distance
    genuine = np.bincount(accepted_from[same], minlength=len(GRID) + 1)[: len(GRID)].cumsum()
    impostor = np.bincount(accepted_from[~same], minlength=len(GRID) + 1)[: len(GRID)].cumsum()
    return float(GRID[np.argmax(genuine - impostor)])


def fold_warning(same: NDArray[np.bool_], folds: NDArray[np.int64]) -> str:
    """Why the accuracy over the list's own folds says little; "" where each fold has pairs of both kinds.

    Args:
        same: bool [P], both kinds present.
        folds: int64 [P].
    """
    genuine, whole = np.bincount(folds, weights=same) / np.bincount(folds), same.mean()
    lopsided = int((np.minimum(genuine / whole, (1 - genuine) / (1 - whole)) < FEWEST_SHARE).sum())
    if not lopsided:
        return ""
    return (
        f"{lopsided} of the list's {len(genuine)} folds hold pairs of hardly more than one kind: their accuracy depends"
        " on the order of the list; read the one over stratified folds"
    )
