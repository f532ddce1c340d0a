"""TAR at fixed FAR and AUC of very many pairs, exactly, in memory that does not grow with all of their scores.

IJB-C compares 15,658,489 pairs of templates. Genuine pairs are few and all kept; of the impostors only the highest
scores are, since a FAR of f is decided by the highest f of them. So every rate is exact, not read from a histogram.
Intervals come from the node bootstrap of ``bootstrap.py``: a resample weighs the pairs that are kept, and the weight
of all impostors together follows from how many pairs each two subjects have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import BLOCK, RESAMPLES, multiplicities, percentile_interval
from hrfr_fast.evaluation.subject_pairs import SubjectPairs
from hrfr_fast.evaluation.top_scores import TopScores
from hrfr_fast.evaluation.verification import FEWEST_FALSE_ACCEPTS
from hrfr_fast.runtime.errors import UsageError

CHUNK = 1 << 14  # pairs scored at a time: 64 MB of embeddings of 512 numbers
MARGIN = 1.3  # a resample can need more of the highest impostors than the pairs as they are do
PAIRS, RESAMPLING = "impostor pairs", "resamples of the subjects"
ALWAYS_KEPT = 1 << 17
"""So many impostors are always kept: with that many or fewer, the AUC has an interval, too."""


@dataclass(frozen=True)
class Pairs:
    """P pairs of rows of an array of embeddings.

    Attributes:
        first, second: integers [P].
        same: bool [P].
    """

    first: NDArray[np.integer]
    second: NDArray[np.integer]
    same: NDArray[np.bool_]


@dataclass(frozen=True)
class PairRates:
    """The rates of many pairs, shares in [0, 1]; TAR by FAR.

    ``resampled`` has the distributions behind the intervals, float64 [resamples] by FAR, and of the AUC at "auc",
    where all impostors were kept.
    """

    auc: float
    tar: dict[float, float]
    resampled: dict[float | str, NDArray[np.float64]]
    warnings: list[str]
    genuine: int
    impostors: int
    units: str
    """What was resampled: "subject", or "pair" where no subjects are known."""
    unit_count: int
    """How many of them there are."""
    genuine_by_score: NDArray[np.int64]
    """int64 [G]: the genuine pairs, those with the highest scores first."""

    def accepted(self, far: float) -> NDArray[np.bool_]:
        """Which genuine pairs are accepted at ``far``, bool [G], in the order of the list."""
        by_score = np.arange(self.genuine) < round(self.tar[far] * self.genuine)
        return by_score[np.argsort(self.genuine_by_score)]

    def interval(self, of: float | str) -> tuple[float, float] | None:
        """The 95 % interval of the TAR at a FAR, or of "auc"; None where there is none."""
        return percentile_interval(self.resampled[of]) if of in self.resampled else None


def pair_rates(
    embeddings: NDArray[np.float32],
    pairs: Pairs,
    subjects: NDArray[np.int64] | None,
    *,
    fars: tuple[float, ...],
    resamples: int = RESAMPLES,
    seed: int = 0,
    advance: Callable[[str, int], None] = lambda what, number: None,
) -> PairRates:
    """TAR at the loosest threshold whose FAR does not exceed each target, and AUC.

    Args:
        embeddings: unit rows, float32 [N, D], of pictures or templates.
        subjects: int64 [N], whom each row shows; None: pairs are resampled, as independent ones.
        fars: false accept rates, each above 0 and at most 1.
        resamples: of the bootstrap; 0 for no intervals.
        advance: called with PAIRS or RESAMPLING and how many more of them are done; may raise, to stop.

    Raises:
        UsageError: there are no genuine or no impostor pairs, or an embedding is not finite.
    """
    genuine_rows, impostors = np.flatnonzero(pairs.same), int((~pairs.same).sum())
    if not len(genuine_rows) or not impostors:
        raise UsageError(f"{len(genuine_rows):,} genuine and {impostors:,} impostor pairs; both are needed")
    if not np.isfinite(embeddings).all():
        raise UsageError("embeddings are not finite numbers: the model is broken, or its precision too low")
    nodes = _Nodes(pairs, subjects)
    genuine = np.concatenate([scores for _, scores in _scores(embeddings, pairs, True)])
    order = np.argsort(-genuine, kind="stable")
    genuine, genuine_rows = genuine[order], genuine_rows[order]
    kept = TopScores(min(impostors, max(ALWAYS_KEPT, int(np.ceil(MARGIN * max(fars) * impostors)) + 1)))
    masses = SubjectPairs(nodes.units) if subjects is not None and kept.most < impostors else None
    won, rising = 0.0, genuine[::-1].copy()
    for rows, scores in _scores(embeddings, pairs, False):
        lost = np.searchsorted(rising, scores, side="left") + np.searchsorted(rising, scores, side="right")
        won += len(genuine) * len(scores) - float(lost.sum()) / 2  # a tie is half won (Mann-Whitney U)
        kept.add(scores, rows)
        advance(PAIRS, len(rows))
        if masses is not None:
            masses.add(*nodes.ends(rows))
    kept.finish()
    curves = _Curves(genuine, nodes.ends(genuine_rows), kept.scores, nodes.ends(kept.rows), kept.most == impostors)
    return PairRates(
        auc=won / (len(genuine) * impostors),
        tar=dict(zip(fars, curves.tar_of_the_pairs(fars, impostors), strict=True)),
        resampled=_resampled(curves, nodes.units, masses, fars, resamples, seed, advance),
        warnings=[text for far in fars if (text := _warning(far, impostors))],
        genuine=len(genuine),
        impostors=impostors,
        units="pair" if subjects is None else "subject",
        unit_count=nodes.units,
        genuine_by_score=genuine_rows,
    )


def _scores(
    embeddings: NDArray[np.float32], pairs: Pairs, same: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The pairs of one kind, some at a time: which ones, int64 [n], and their cosines, float32 [n]."""
    for start in range(0, len(pairs.same), CHUNK):
        rows = start + np.flatnonzero(pairs.same[start : start + CHUNK] == same)
        if len(rows):
            first, second = embeddings[pairs.first[rows]], embeddings[pairs.second[rows]]
            yield rows, np.einsum("pd,pd->p", first, second)


class _Nodes:
    """What is resampled, numbered from 0: the subjects of the pairs' ends, or the pairs themselves.

    Attributes:
        units: how many there are.
    """

    def __init__(self, pairs: Pairs, subjects: NDArray[np.int64] | None) -> None:
        self._pairs, self._of_row, self.units = pairs, None, len(pairs.same)
        if subjects is not None:
            shown = np.zeros(len(subjects), bool)
            shown[pairs.first], shown[pairs.second] = True, True
            numbers = np.zeros(len(subjects), np.int64)
            found, numbers[shown] = np.unique(subjects[shown], return_inverse=True)
            self._of_row, self.units = numbers, len(found)

    def ends(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The units of both ends of pairs ``rows``, int64 [n] each."""
        if self._of_row is None:
            return rows, rows
        return self._of_row[self._pairs.first[rows]], self._of_row[self._pairs.second[rows]]


@dataclass(frozen=True)
class _Curves:
    """Scores of the genuine pairs and of the highest impostors, falling, and the units of their ends.

    ``complete``: all impostors are there.
    """

    genuine: NDArray[np.float32]
    genuine_ends: tuple[NDArray[np.int64], NDArray[np.int64]]
    impostors: NDArray[np.float32]
    impostor_ends: tuple[NDArray[np.int64], NDArray[np.int64]]
    complete: bool

    def tar_of_the_pairs(self, fars: tuple[float, ...], impostors: int) -> list[float]:
        """TAR at each FAR, every pair counting once."""
        accepted = np.arange(1, len(self.impostors) + 1, dtype=np.float64)
        own = np.arange(1, len(self.genuine) + 1, dtype=np.float64)
        return self._tars(own, accepted, float(impostors), fars)

    def tar_and_auc(self, drawn: NDArray[np.float64], total: float | None, fars: tuple[float, ...]) -> list[float]:
        """TAR at each FAR, and the AUC where all impostors are there, in one resample.

        Args:
            drawn: float64 [units], how often each was drawn.
            total: weight of all impostors; None: of those that are there.
        """
        weights = _weights(drawn, self.genuine_ends)
        own, accepted = np.cumsum(weights), np.cumsum(_weights(drawn, self.impostor_ends, self.complete))
        total = float(accepted[-1]) if total is None else total
        tars = self._tars(own, accepted, total, fars)
        if self.complete:
            before = np.concatenate([[0.0], accepted])
            above = np.searchsorted(-self.impostors, -self.genuine, side="left")
            at_least = np.searchsorted(-self.impostors, -self.genuine, side="right")
            lost = (before[above] + before[at_least]) / 2
            tars.append(1 - float(weights @ lost) / (float(own[-1]) * total))
        return tars

    def _tars(
        self, own: NDArray[np.float64], accepted: NDArray[np.float64], total: float, fars: tuple[float, ...]
    ) -> list[float]:
        """TAR at each FAR from the weights accepted down to each genuine pair, and down to each impostor."""
        result = []
        for far in fars:
            # Accepted is what scores above the first impostor that would make one false accept too many.
            allowed = int(np.searchsorted(accepted, (far + 1e-12) * total, side="right"))
            if allowed == len(self.impostors) and self.complete:
                result.append(1.0)
                continue
            limit = self.impostors[min(allowed, len(self.impostors) - 1)]
            above = int(np.searchsorted(-self.genuine, -limit, side="left"))
            result.append(float(own[above - 1] / own[-1]) if above else 0.0)
        return result


def _weights(
    drawn: NDArray[np.float64], ends: tuple[NDArray[np.int64], NDArray[np.int64]], complete: bool = True
) -> NDArray[np.float64]:
    """Weights of pairs, float64 [n]: w_i for two ends of one unit, else w_i w_j.

    ``complete``: they are all of their kind, which weigh 1 each where none was drawn, as in
    ``bootstrap.weights_of_both_kinds``.
    """
    first, second = ends
    weights = np.where(first == second, drawn[first], drawn[first] * drawn[second])
    return weights if weights.any() or not complete else np.ones(len(weights))


def _resampled(
    curves: _Curves,
    units: int,
    masses: SubjectPairs | None,
    fars: tuple[float, ...],
    resamples: int,
    seed: int,
    advance: Callable[[str, int], None],
) -> dict[float | str, NDArray[np.float64]]:
    """The distributions of all rates; none where the weight of the impostors that are not kept is unknown."""
    if not resamples or not (curves.complete or masses is not None):
        return {}
    rows = []
    for start in range(0, resamples, BLOCK):
        drawn = multiplicities(units, start, min(BLOCK, resamples - start), seed)
        totals = [None] * len(drawn) if masses is None else masses.totals(drawn).tolist()
        for row, total in zip(drawn, totals, strict=True):
            rows.append(curves.tar_and_auc(row, total, fars))
            advance(RESAMPLING, 1)
    names: tuple[float | str, ...] = (*fars, "auc") if curves.complete else fars
    return dict(zip(names, np.array(rows).T, strict=True))


def _warning(far: float, impostors: int) -> str:
    accepted = far * impostors
    if accepted >= FEWEST_FALSE_ACCEPTS:
        return ""
    return f"TAR at FAR {far:g} rests on {accepted:g} of {impostors:,} impostor pairs: too few to trust"
