"""The measures of a protocol's searches: rates at ranks, mean average precision, and TPIR at fixed FPIR.

Intervals resample the people of all probes of a search, mated and unmated ones, so that searches of several galleries
with the same probes see equal resamples and their mean has an interval, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import RESAMPLES, percentile_interval, resampled_cluster_means
from hrfr_fast.evaluation.identification import Search, search
from hrfr_fast.evaluation.open_set import tpir_at_fpir
from hrfr_fast.evaluation.protocols.form import Identification
from hrfr_fast.evaluation.protocols.results import Decisions, Measure, PartResult
from hrfr_fast.evaluation.protocols.scoring_progress import scoring_progress
from hrfr_fast.runtime.errors import UsageError

AVERAGE_PRECISION = "area under precision over recall by trapezoids, as in TinyFace's evaluation kit"
SEARCHING, RESAMPLING = "probes", "resamples of the subjects"
MEAN_PART = "mean of the galleries"


@dataclass(frozen=True)
class _Measured:
    """One search: its part, and the distribution of each of its measures, float64 [measures, resamples]."""

    part: PartResult
    resampled: NDArray[np.float64] = field(repr=False)


def identification_parts(
    embeddings: NDArray[np.float32],
    searches: Sequence[Identification],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    show_progress: bool = True,
) -> list[PartResult]:
    """One part for each search; the mean over searches of the same probes in several galleries, as IJB reports it.

    Args:
        embeddings: unit rows, float32 [N, D], of what the searches number: pictures or templates.

    Raises:
        UsageError: no probe's person is in a gallery; for an open set, every probe's is.
        Interrupted: after Ctrl-C.
    """
    if not np.isfinite(embeddings).all():
        raise UsageError("embeddings are not finite numbers: the model is broken, or its precision too low")
    open_sets = sum(bool(asked.fpirs) for asked in searches)
    totals = {SEARCHING: sum(len(asked.probes) for asked in searches), RESAMPLING: resamples * open_sets}
    with scoring_progress(totals, show_progress and bool(searches)) as advance:
        measured = [_measure(embeddings, asked, resamples, seed, advance) for asked in searches]
    parts = [one.part for one in measured]
    alike = all(np.array_equal(asked.probes, searches[0].probes) for asked in searches)
    return [*parts, _mean(measured)] if alike and len(parts) > 1 else parts


def _measure(
    embeddings: NDArray[np.float32],
    asked: Identification,
    resamples: int,
    seed: int,
    advance: Callable[[str, int], None],
) -> _Measured:
    subjects = _told_apart(asked.probe_subjects, asked.gallery_subjects)
    found = search(
        _rows(embeddings, asked.probes), subjects, _rows(embeddings, asked.gallery), asked.gallery_subjects,
        precision=asked.mean_average_precision, advance=partial(advance, SEARCHING),
    )  # fmt: skip
    mated = int(found.mated.sum())
    if not mated or (asked.fpirs and mated == len(subjects)):
        raise UsageError(
            f"{asked.name or 'the search'}: {mated:,} of {len(subjects):,} probes show people of the gallery; "
            + ("some must" if not mated else "open-set rates need probes of others, too")
        )
    names, values = _closed_set(found, asked)
    resampled = resampled_cluster_means(values, subjects, found.mated, resamples=resamples, seed=seed).T
    measures = [
        Measure(name, float(column[found.mated].mean()), _interval(row), method=AVERAGE_PRECISION * (name == "mAP"))
        for name, column, row in zip(names, values.T, resampled, strict=True)
    ]
    warnings: list[str] = []
    if asked.fpirs:
        rates = tpir_at_fpir(
            found, subjects, rank=asked.open_set_rank, fpirs=asked.fpirs, resamples=resamples, seed=seed,
            advance=partial(advance, RESAMPLING),
        )  # fmt: skip
        rank = "" if asked.open_set_rank == 1 else str(asked.open_set_rank)
        drawn = [rates.resampled.get(fpir, np.empty(0)) for fpir in asked.fpirs]
        measures += [
            Measure(f"TPIR{rank}@FPIR {fpir:g}", rates.tpir[fpir], _interval(row))
            for fpir, row in zip(asked.fpirs, drawn, strict=True)
        ]
        resampled, warnings = np.concatenate([resampled, drawn]), rates.warnings
    return _Measured(_part(asked, found, subjects, measures, warnings), resampled)


def _rows(embeddings: NDArray[np.float32], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of the embeddings, without copying hundreds of megabytes where they follow each other."""
    if len(numbers) and np.array_equal(numbers, np.arange(numbers[0], numbers[0] + len(numbers))):
        return embeddings[numbers[0] : numbers[0] + len(numbers)]
    return embeddings[numbers]


def _closed_set(found: Search, asked: Identification) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the closed-set measures, and what each probe adds to them, float64 [n, K]."""
    names = [f"rank-{rank}" for rank in asked.ranks]
    columns = [(found.rank <= rank).astype(np.float64) for rank in asked.ranks]
    if found.average_precision is not None:
        names.append("mAP")
        columns.append(found.average_precision)
    return names, np.stack(columns, axis=1)


def _part(
    asked: Identification,
    found: Search,
    subjects: NDArray[np.int64],
    measures: Sequence[Measure],
    warnings: Sequence[str],
) -> PartResult:
    mated = int(found.mated.sum())
    enrolled = asked.gallery_subjects[asked.gallery_subjects >= 0]
    counts = {"gallery": len(asked.gallery), "people": len(np.unique(enrolled)), "probes": mated}
    if distractors := len(asked.gallery) - len(enrolled):
        counts["distractors"] = distractors
    if mated < len(subjects):
        counts["unmated probes"] = len(subjects) - mated
    _, people = np.unique(subjects[found.mated], return_inverse=True)
    right = found.rank[found.mated] == 1
    decisions = Decisions(right, np.ones(mated, bool), np.repeat(people, 2).astype(np.int32), "rank-1")
    return PartResult(
        asked.name, "identification", counts, tuple(measures), "identity", tuple(warnings), decisions
    )  # fmt: skip


def _told_apart(probes: NDArray[np.int64], gallery: NDArray[np.int64]) -> NDArray[np.int64]:
    """The subjects of the probes, with a number of its own for each unknown one (-1), which then matches nobody."""
    unknown = np.flatnonzero(probes < 0)
    subjects = np.array(probes, np.int64)
    subjects[unknown] = max(probes.max(initial=0), gallery.max(initial=0)) + 1 + np.arange(len(unknown))
    return subjects


def _mean(measured: Sequence[_Measured]) -> PartResult:
    """The mean of each measure over the searches, resample by resample."""
    columns = zip(*(one.part.measures for one in measured), strict=True)
    rows = np.mean([one.resampled for one in measured], axis=0)
    measures = tuple(
        Measure(alike[0].name, float(np.mean([measure.value for measure in alike])), _interval(row))
        for alike, row in zip(columns, rows, strict=True)
    )
    return PartResult(MEAN_PART, "identification", {"searches": len(measured)}, measures, "identity")


def _interval(drawn: NDArray[np.float64]) -> tuple[float, float] | None:
    return percentile_interval(drawn) if len(drawn) else None
