"""Open-set 1:N identification: how often a known person is found while strangers are turned away.

FPIR is the share of searches of people who are not in the gallery whose highest score reaches the threshold; TPIR at
rank K the share of searches of people who are in it whose own identity reaches the threshold and is among the first K
(Grother & Ngan, "Face Recognition Vendor Test, part 2: identification", NIST IR 8271, section 3; with K = 20
the TPIR20@FPIR of Cheng, Zhu & Gong, "Surveillance Face Recognition Challenge", 2018).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import RESAMPLES, fill_empty, multiplicities, percentile_interval
from hrfr_fast.evaluation.identification import Search
from hrfr_fast.evaluation.verification import FEWEST_FALSE_ACCEPTS

WEIGHTS_AT_ONCE = 1 << 23  # bounds the memory of a block of resamples to about 200 MB


@dataclass(frozen=True)
class OpenSet:
    """TPIR at fixed FPIR, shares in [0, 1], by FPIR."""

    tpir: dict[float, float]
    resampled: dict[float, NDArray[np.float64]]
    """float64 [resamples] each: the rate in every resample of the subjects of the probes, mated and unmated ones."""
    warnings: list[str]

    def intervals(self) -> dict[float, tuple[float, float]]:
        """95 % percentile intervals, by FPIR."""
        return {fpir: percentile_interval(values) for fpir, values in self.resampled.items()}


def tpir_at_fpir(
    found: Search,
    subjects: NDArray[np.int64],
    *,
    rank: int,
    fpirs: tuple[float, ...],
    resamples: int = RESAMPLES,
    seed: int = 0,
    advance: Callable[[int], None] = lambda number: None,
) -> OpenSet:
    """TPIR at ``rank`` and the loosest threshold whose FPIR does not exceed each target.

    Args:
        found: the outcome of all n probes, mated and unmated ones.
        subjects: int64 [n], what is resampled: whom each probe shows. Searches of several galleries with equal
            ``subjects`` and seed see equal resamples.
        rank: how far down the list of candidates the own identity may stand.
        advance: called with how many more resamples are done; may raise, to stop.

    Raises:
        ValueError: there are no mated or no unmated probes.
    """
    if found.mated.all() or not found.mated.any():
        raise ValueError("open-set identification needs probes of people in the gallery and of others")
    strangers = np.flatnonzero(~found.mated)
    strangers = strangers[np.argsort(-found.highest[strangers], kind="stable")]
    known = np.flatnonzero(found.mated)
    known = known[np.argsort(-found.own[known], kind="stable")]
    curves = _Curves(found.highest[strangers], found.own[known], found.rank[known] <= rank)
    ones = np.ones((1, len(subjects)))
    point = curves.rates(ones[:, strangers], ones[:, known], fpirs)[:, 0]
    _, row = np.unique(subjects, return_inverse=True)
    units, block = int(row.max()) + 1, max(1, min(100, WEIGHTS_AT_ONCE // len(subjects)))
    parts = []
    for start in range(0, resamples, block):
        drawn = multiplicities(units, start, min(block, resamples - start), seed)
        weights = drawn[:, row]
        for kind in (found.mated, ~found.mated):
            fill_empty(weights, kind)
        parts.append(curves.rates(weights[:, strangers], weights[:, known], fpirs))
        advance(len(drawn))
    resampled = np.concatenate(parts, axis=1) if parts else np.empty((len(fpirs), 0))
    return OpenSet(
        dict(zip(fpirs, point.tolist(), strict=True)),
        dict(zip(fpirs, resampled, strict=True)) if resamples else {},
        [text for fpir in fpirs if (text := _warning(fpir, len(strangers)))],
    )


@dataclass(frozen=True)
class _Curves:
    """Scores of unmated and mated probes, falling, and which mated ones have their own identity among the first."""

    unmated: NDArray[np.float32]
    mated: NDArray[np.float32]
    listed: NDArray[np.bool_]

    def rates(
        self, unmated: NDArray[np.float64], mated: NDArray[np.float64], fpirs: tuple[float, ...]
    ) -> NDArray[np.float64]:
        """TPIR, float64 [K, R], at K FPIRs for weights [R, u] of the unmated and [R, m] of the mated probes."""
        alarms = np.cumsum(unmated, axis=1)
        right = np.cumsum(mated * self.listed, axis=1)
        total = mated.sum(axis=1)
        result = np.empty((len(fpirs), len(unmated)))
        for row, fpir in enumerate(fpirs):
            allowed = (fpir + 1e-12) * alarms[:, -1:]
            # Accepted is what scores above the first stranger that would make one false alarm too many.
            accepted = (alarms <= allowed).sum(axis=1)
            limit = np.append(self.unmated, -np.inf)[accepted]
            above = np.searchsorted(-self.mated, -limit, side="left")
            before = np.take_along_axis(right, np.maximum(above - 1, 0)[:, None], axis=1)[:, 0]
            result[row] = np.where(above > 0, before, 0.0) / total
        return result


def _warning(fpir: float, unmated: int) -> str:
    alarms = fpir * unmated
    if alarms >= FEWEST_FALSE_ACCEPTS:
        return ""
    return f"TPIR at FPIR {fpir:g} rests on {alarms:g} of {unmated:,} searches of people not in the gallery: too few"
