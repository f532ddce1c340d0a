"""The measures of a protocol's pairs of pictures: accuracy as published and as ours, AUC, EER and TAR at fixed FARs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import (
    RESAMPLES,
    accuracy_interval,
    interval_caveats,
    percentile_interval,
    resampled_means,
)
from hrfr_fast.evaluation.protocols.form import Pictures, VerificationPairs
from hrfr_fast.evaluation.protocols.results import Decisions, Level, Measure, PartResult
from hrfr_fast.evaluation.published_folds import PublishedAccuracy, fold_warning, published_accuracy, squared_distances
from hrfr_fast.evaluation.rates import resampled_rates
from hrfr_fast.evaluation.verification import Verification, verify

PUBLISHED_GRID = "list's folds, grid 0.01"
"""As published accuracies are computed."""
PUBLISHED_EXACT = "list's folds, exact"
STRATIFIED = "stratified folds, exact"


@dataclass(frozen=True)
class _ScoredPairs:
    """P pairs of one part with their embeddings' distances."""

    same: NDArray[np.bool_]
    folds: NDArray[np.int64] | None
    identities: NDArray[np.int32] | None
    fars: tuple[float, ...]
    distances: NDArray[np.float64] = field(repr=False)


def verification_parts(
    embeddings: NDArray[np.float32], pictures: Pictures, pairs: VerificationPairs, *, resamples: int = RESAMPLES
) -> list[PartResult]:
    """One part for each group of ``pairs``, and the spread between them where there are several.

    Args:
        embeddings: float32 [N, D] of ``pictures``, unit rows.
        pairs: of pictures.
        resamples: of the bootstrap; 0 for no intervals.

    Raises:
        UsageError: too few pairs of a kind, embeddings that are not finite.
    """
    names = pairs.group_names or ("",)
    groups = [_scored(embeddings, pictures, pairs, number) for number in range(len(names))]
    parts = [_part(name, group, resamples) for name, group in zip(names, groups, strict=True)]
    return [*parts, _spread(parts, resamples)] if len(parts) > 1 else parts


def _scored(embeddings: NDArray[np.float32], pictures: Pictures, pairs: VerificationPairs, group: int) -> _ScoredPairs:
    chosen = np.arange(len(pairs)) if pairs.groups is None else np.flatnonzero(pairs.groups == group)
    first, second = pairs.first[chosen], pairs.second[chosen]
    identities = None
    if pictures.subjects is not None:
        identities = (
            np.stack([pictures.subjects[first], pictures.subjects[second]], axis=1).reshape(-1).astype(np.int32)
        )
    folds = None if pairs.folds is None else pairs.folds[chosen]
    distances = squared_distances(embeddings[first], embeddings[second])
    return _ScoredPairs(pairs.same[chosen], folds, identities, pairs.fars, distances)


def _part(name: str, pairs: _ScoredPairs, resamples: int) -> PartResult:
    # The cosine of unit rows: the same order as the squared distance, on which published thresholds are tried.
    ours = verify(1 - pairs.distances / 2, pairs.same, pairs.identities, fars=pairs.fars, resamples=resamples)
    measures, warnings = [], list(ours.warnings)
    if pairs.folds is not None:
        for exact, method in ((False, PUBLISHED_GRID), (True, PUBLISHED_EXACT)):
            published = published_accuracy(pairs.distances, pairs.same, pairs.folds, exact=exact)
            measures.append(_published_measure(published, method, pairs, resamples))
        if warning := fold_warning(pairs.same, pairs.folds):
            warnings.append(warning)
    measures.append(Measure("accuracy", ours.accuracy, ours.accuracy_ci, float(np.std(ours.folds)), STRATIFIED))
    measures += _rate_measures(ours, pairs, resamples)
    counts = {"pairs": len(pairs.same), "genuine": int(pairs.same.sum())}
    if pairs.identities is not None:
        counts["people"] = len(np.unique(pairs.identities))
    warnings += interval_caveats(counts.get("people"))
    decisions = Decisions(ours.correct, pairs.same, pairs.identities, "accuracy")
    level: Level = "pair" if pairs.identities is None else "identity"
    return PartResult(name, "verification", counts, tuple(measures), level, tuple(warnings), decisions)


def _published_measure(published: PublishedAccuracy, method: str, pairs: _ScoredPairs, resamples: int) -> Measure:
    right = (published.decisions == pairs.same).astype(np.float64)
    interval = accuracy_interval(right, pairs.same, pairs.identities, resamples=resamples) if resamples else None
    return Measure("accuracy", published.accuracy, interval, published.deviation, method)


def _rate_measures(ours: Verification, pairs: _ScoredPairs, resamples: int) -> list[Measure]:
    drawn = {}
    if resamples:
        drawn = resampled_rates(ours.scores, pairs.same, pairs.identities, fars=pairs.fars, resamples=resamples)
    rates = {"AUC": (ours.auc, "auc"), "EER": (ours.eer, "eer")}
    rates |= {f"TAR@FAR {far:g}": (ours.tar_at_far[f"{far:g}"], f"{far:g}") for far in pairs.fars}
    return [
        Measure(name, value, percentile_interval(drawn[key]) if drawn else None) for name, (value, key) in rates.items()
    ]


def _spread(parts: Sequence[PartResult], resamples: int) -> PartResult:
    """How far the groups' accuracies (stratified folds) lie apart; people are resampled within each group."""
    decided = [part.decisions for part in parts if part.decisions is not None]
    values = np.array([one.correct.mean() for one in decided])
    largest = deviation = None
    if resamples:
        columns = [
            # Another seed for each group: other people are drawn in each.
            resampled_means(one.correct.astype(np.float64), one.same, one.identities, resamples=resamples, seed=number)
            for number, one in enumerate(decided)
        ]
        drawn = np.stack(columns, axis=1)
        largest, deviation = percentile_interval(np.ptp(drawn, axis=1)), percentile_interval(drawn.std(axis=1))
    measures = (
        Measure("accuracy, largest - smallest", float(np.ptp(values)), largest, method=STRATIFIED),
        Measure("accuracy, deviation", float(values.std()), deviation, method=STRATIFIED),
    )
    counts = {"groups": len(parts), "pairs": sum(part.counts["pairs"] for part in parts)}
    note = "a spread between groups is never negative: chance alone makes it larger than 0"
    return PartResult("between groups", "verification", counts, measures, parts[0].interval_level, (note,))
