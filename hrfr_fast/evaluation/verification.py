"""Verification metrics of scored pairs: 10-fold accuracy, AUC, equal error rate, and TAR at fixed FAR.

Accuracy is measured as on LFW (Huang et al., 2007): every pair is decided by a threshold chosen on the other nine
folds. Folds are stratified and shuffled by one fixed seed for all models, since block-ordered pair lists break
unshuffled folds. Nothing here knows where scores come from or how pairs are stored.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation import bootstrap
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import FOLDS as FOLD_PURPOSE
from hrfr_fast.runtime.philox import philox

FOLDS = 10
FOLD_SEED = 0
FARS = (1e-1, 1e-2, 1e-3)
FEWEST_FALSE_ACCEPTS = 10
NO_ERRORS = "no pair is decided wrongly: the accuracy's interval has no width, and does not say how rare errors are"


@dataclass(frozen=True)
class Verification:
    """The metrics of P pairs. Rates are shares in [0, 1]; arrays are left out of ``to_json``."""

    accuracy: float
    """Share of the pairs decided rightly by the thresholds of the other nine folds: the mean of ``folds`` where ten
    divides the genuine and the impostor pairs, and what comparisons and intervals are of in any case."""
    accuracy_ci: tuple[float, float] | None
    """95 % interval; None where no resampling was asked for."""
    interval_level: str
    """"identity" or "pair": what was resampled."""
    auc: float
    eer: float
    tar_at_far: dict[str, float]
    warnings: list[str]
    pairs: int
    folds: list[float]
    """Accuracy of each fold."""
    threshold: float
    """The threshold that is best on all pairs, for reference; decisions use the folds' own."""
    decisions: NDArray[np.bool_] = field(repr=False)
    """bool [P]: called the same person, by the threshold of the other nine folds."""
    scores: NDArray[np.float64] = field(repr=False)
    same: NDArray[np.bool_] = field(repr=False)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """bool [P]."""
        return self.decisions == self.same

    @property
    def guessing(self) -> float:
        """The accuracy of always giving the more frequent answer."""
        return float(max(self.same.mean(), 1 - self.same.mean()))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as in results.json and ``evaluate --json``."""
        names = ("accuracy", "accuracy_ci", "interval_level", "auc", "eer", "tar_at_far", "warnings", "pairs")
        values = {name: getattr(self, name) for name in (*names, "guessing", "folds", "threshold")}
        return values | {"accuracy_ci": list(self.accuracy_ci) if self.accuracy_ci else None}


def verify(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None = None,
    *,
    fars: tuple[float, ...] = FARS,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> Verification:
    """The verification metrics of scored pairs.

    Args:
        scores: float [P], higher means more alike.
        same: bool [P].
        identities: int32 [2P] cluster of pictures 2i, 2i + 1 for the bootstrap; None: it resamples pairs.
        fars: the false accept rates at which true accept rates are given.
        resamples: of the bootstrap; 0 for no interval.
        seed: of the bootstrap.

    Raises:
        UsageError: fewer than 10 genuine or impostor pairs, scores that are not finite, lengths that differ.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    _refuse_unusable(scores, same, identities)
    fold = fold_of_each(same)
    decisions, accuracies = np.empty(len(same), bool), []
    for number in range(FOLDS):
        held_out = fold == number
        decisions[held_out] = scores[held_out] >= best_threshold(scores[~held_out], same[~held_out])
        accuracies.append(float((decisions[held_out] == same[held_out]).mean()))
    right = (decisions == same).astype(np.float64)
    interval = (
        bootstrap.accuracy_interval(right, same, identities, resamples=resamples, seed=seed) if resamples else None
    )
    tar, warnings = tar_at_fars(scores, same, fars)
    if interval and right.all():
        warnings.append(NO_ERRORS)
    return Verification(
        accuracy=float(right.mean()),
        accuracy_ci=interval,
        interval_level="pair" if identities is None else "identity",
        auc=auc(scores, same),
        eer=equal_error_rate(scores, same),
        tar_at_far=tar,
        warnings=warnings,
        pairs=len(same),
        folds=accuracies,
        threshold=best_threshold(scores, same),
        decisions=decisions,
        scores=scores,
        same=same,
    )


def _refuse_unusable(scores: NDArray[np.float64], same: NDArray[np.bool_], identities: Any) -> None:
    if len(scores) != len(same) or (identities is not None and len(identities) != 2 * len(same)):
        raise UsageError(f"{len(scores)} scores for {len(same)} pairs; lengths must agree")
    if not np.isfinite(scores).all():
        raise UsageError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite numbers")
    if reason := why_too_few_pairs(same):
        raise UsageError(reason)


def why_too_few_pairs(same: NDArray[np.bool_]) -> str:
    """Why ``same`` (bool [P]) has too few pairs to make folds of; "" where it has enough."""
    genuine, impostor = int(same.sum()), int((~same).sum())
    if min(genuine, impostor) >= FOLDS:
        return ""
    return f"{genuine} genuine and {impostor} impostor pairs; at least {FOLDS} of each are needed"


def fold_of_each(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Fold of every pair, int64 [P] in 0..9: a tenth of the genuine and of the impostor pairs each, at random."""
    fold = np.empty(len(same), np.int64)
    keys = philox(FOLD_SEED, 0, np.arange(len(same)), purpose=FOLD_PURPOSE)[:, 0]
    for kind in (same, ~same):
        members = np.flatnonzero(kind)
        fold[members[np.argsort(keys[members], kind="stable")]] = np.arange(len(members)) % FOLDS
    return fold


def best_threshold(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The threshold with the most right decisions, among midpoints between distinct scores and one beyond each end.

    Of several that are equally good, the middle one is taken, since the edges of such a plateau are due to chance.
    """
    distinct, row = np.unique(scores, return_inverse=True)
    genuine = np.bincount(row, weights=same, minlength=len(distinct))
    impostor = np.bincount(row, weights=~same, minlength=len(distinct))
    # Candidate k lies below distinct score k: impostors below it and genuine pairs from it on are right.
    right = np.concatenate([[0], np.cumsum(impostor)]) + np.concatenate([np.cumsum(genuine[::-1])[::-1], [0]])
    candidates = [distinct[0] - 1, *midpoints(distinct), distinct[-1] + 1]
    best = np.flatnonzero(right == right.max())
    return float(candidates[best[len(best) // 2]])


def midpoints(distinct: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds between neighbours of D rising scores, float64 [D - 1]: the middle, or where no number lies between
    the two, the higher one. Half of their sum may be rounded to the lower one, and would accept it."""
    middle = (distinct[1:] + distinct[:-1]) / 2
    return np.where(middle > distinct[:-1], middle, distinct[1:])


def auc(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Probability that a genuine pair scores above an impostor pair, ties counting half (Mann-Whitney U)."""
    from scipy.stats import rankdata

    genuine, impostor = int(same.sum()), int((~same).sum())
    return float((rankdata(scores)[same].sum() - genuine * (genuine + 1) / 2) / (genuine * impostor))


def roc(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ROC curve (FAR, TAR), each float64 [K], from (0, 0) to (1, 1), one point for each distinct threshold."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    tar, far = np.cumsum(same[order])[last] / same.sum(), np.cumsum(~same[order])[last] / (~same).sum()
    return np.concatenate([[0.0], far]), np.concatenate([[0.0], tar])


def equal_error_rate(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The equal error rate: where false accept and false reject rate meet, linear between ROC points."""
    far, tar = roc(scores, same)
    gap = far - (1 - tar)  # rises from -1 to 1
    k = int(np.argmax(gap >= 0))
    if k == 0 or gap[k] == gap[k - 1]:
        return float(far[k])
    share = -gap[k - 1] / (gap[k] - gap[k - 1])
    return float(far[k - 1] + share * (far[k] - far[k - 1]))


def tar_at_fars(
    scores: NDArray[np.float64], same: NDArray[np.bool_], fars: tuple[float, ...] = FARS
) -> tuple[dict[str, float], list[str]]:
    """TAR at the loosest threshold whose FAR does not exceed each target, and warnings where impostors are few."""
    far, tar = roc(scores, same)
    result, warnings, impostors = {}, [], int((~same).sum())
    for target in fars:
        result[f"{target:g}"] = float(tar[far <= target + 1e-12].max())
        accepted = target * impostors
        if accepted < FEWEST_FALSE_ACCEPTS:
            warnings.append(
                f"TAR at FAR {target:g} rests on {accepted:g} of {impostors:,} impostor pairs: too few to trust"
            )
    return result, warnings
