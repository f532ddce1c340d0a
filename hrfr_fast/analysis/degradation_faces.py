"""Development faces of both resolutions, and how well a probe tells degraded ones from native ones.

Only pairs of kind "development" are read, whose identities were held out of the training splits: neither test pairs nor
highres_eval.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.pairing import fitting_half
from hrfr_fast.analysis.resolution_gap import FOLDS, classifier, folds_of
from hrfr_fast.format.names import DEVELOPMENT
from hrfr_fast.format.reader import Packed, Split
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.augmentation import Augmentation
from hrfr_fast.settings import AugmentSettings

FEWEST_IDENTITIES = 8
"""Of each resolution: two halves of two folds and more."""
DRAW_VIEW = 3
"""Number of the view whose random numbers degrade development faces: none that training draws."""
UNCHANGED = AugmentSettings(flip=0.0, shift=0.0, brightness=0.0)


class Drawn(Protocol):
    """What degrades: ``NativeView`` or ``SecondView``."""

    def draw(
        self, augment: AugmentSettings, seed: int, cycle: NDArray[np.int64], index: NDArray[np.int64], view: int,
        size: int,
    ) -> Augmentation: ...  # fmt: skip


class Auc(NamedTuple):
    """Area under the ROC curve of a probe, the mean over folds; 0.5: it cannot tell."""

    mean: float
    error: float
    """Standard error of that mean."""

    @property
    def distance(self) -> float:
        """From 0.5."""
        return abs(self.mean - 0.5)


@dataclass(frozen=True)
class Faces:
    """Pictures of one resolution."""

    split: Split
    records: NDArray[np.int64]
    """int64 [N]."""
    identities: NDArray[np.int64]
    """int64 [N]."""

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Faces":
        return Faces(self.split, self.records[rows], self.identities[rows])

    def at_most(self, count: int, seed: int) -> "Faces":
        """``count`` of them at random, or all."""
        if len(self.records) <= count:
            return self
        return self.chosen(np.sort(np.random.default_rng([seed, 7]).permutation(len(self.records))[:count]))

    def halves(self, seed: int) -> tuple["Faces", "Faces"]:
        """Those of one half of the identities, and those of the others."""
        first = fitting_half(self.identities, seed)
        return self.chosen(first), self.chosen(~first)


def development_faces(packed: Packed, split: str) -> Faces:
    """Each development picture of a training split once. Raises UsageError, with the fix, where there are too few."""
    from hrfr_fast.evaluation.embedding import distinct_pictures

    pairs = packed.pairs.get(f"{DEVELOPMENT}{split}")
    records, identities = np.empty(0, np.int64), np.empty(0, np.int64)
    if pairs is not None and pairs.kind == "development" and pairs.identities is not None:
        records, _ = distinct_pictures(pairs.split)
        identities = pairs.identities[records].astype(np.int64)
    count = len(np.unique(identities))
    if pairs is None or count < FEWEST_IDENTITIES:
        raise UsageError(
            f"{packed.path}: {split} has {count or 'no'} development identities, and matching needs"
            f" {FEWEST_IDENTITIES}: pack again with --dev-identities 60, say, and train anew, so that the model has"
            " not seen them"
        )
    return Faces(pairs.split, records, identities)


def degraded(faces: Faces, view: Drawn, seed: int) -> Augmentation:
    """The degradation of every face: a function of the record's number, so candidates draw the same numbers."""
    cycle = np.zeros(len(faces.records), np.int64)
    return view.draw(UNCHANGED, seed, cycle, faces.records, DRAW_VIEW, faces.split.size)


def probe_auc(
    native: NDArray[np.floating], native_identities: NDArray[np.int64],
    shown: NDArray[np.floating], shown_identities: NDArray[np.int64], seed: int,
) -> Auc:  # fmt: skip
    """AUC of a linear probe that tells native [N, D] from degraded [M, D] embeddings of other identities.

    Cross-validated: no identity is in two folds, and each fold has its share of both kinds.
    """
    from sklearn.metrics import roc_auc_score

    count = min(FOLDS, len(np.unique(native_identities)), len(np.unique(shown_identities)))
    fold = np.concatenate([folds_of(native_identities, count, seed), folds_of(shown_identities, count, seed)])
    points = np.concatenate([native, shown])
    is_native = np.arange(len(points)) < len(native)
    areas = []
    for number in range(count):
        inside = fold == number
        probe = classifier("linear", int((~inside).sum()))
        probe.fit(points[~inside], is_native[~inside])
        areas.append(float(roc_auc_score(is_native[inside], probe.predict_proba(points[inside])[:, 1])))
    return Auc(float(np.mean(areas)), float(np.std(areas, ddof=1) / np.sqrt(count)))
