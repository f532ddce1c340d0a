"""Resampled AUC, equal error rate and TAR at fixed FAR: the bootstrap distributions behind their intervals.

The same quantities as in ``verification.py``, of weighted pairs and for all resamples of a block at once.
"""

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import BLOCK, RESAMPLES, weights_of_both_kinds
from hrfr_fast.evaluation.verification import FARS


def resampled_rates(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None,
    *,
    fars: tuple[float, ...] = FARS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Bootstrap distributions of "auc", "eer", and of TAR at each of ``fars`` ("0.1", ...), float64 [resamples].

    Args:
        scores: float64 [P], higher means more alike.
        same: bool [P], both kinds present.
        identities: int32 [2P], or None: see ``bootstrap.pair_weights``.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    blocks = [
        _rates(
            weights_of_both_kinds(same, identities, start, min(BLOCK, resamples - start), seed)[:, order],
            same[order],
            last,
            fars,
        )
        for start in range(0, resamples, BLOCK)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _rates(
    weights: NDArray[np.float64], same: NDArray[np.bool_], last: NDArray[np.intp], fars: tuple[float, ...]
) -> dict[str, NDArray[np.float64]]:
    """The rates for weights [R, P] of pairs sorted by falling score; ``last``: where each run of equal scores ends."""
    tar, far = _curve(weights * same, last), _curve(weights * ~same, last)
    auc = (np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1]) / 2).sum(axis=1)  # trapezoids: ties count half
    result = {"auc": auc, "eer": _equal_error(far, tar)}
    for target in fars:
        allowed = (far <= target + 1e-12).sum(axis=1) - 1
        result[f"{target:g}"] = tar[np.arange(len(tar)), allowed]
    return result


def _curve(weights: NDArray[np.float64], last: NDArray[np.intp]) -> NDArray[np.float64]:
    """Share of the weight that is accepted at each distinct score, [R, K + 1], from 0 to 1."""
    accepted = np.cumsum(weights, axis=1)[:, last]
    share = accepted / np.maximum(accepted[:, -1:], 1e-300)
    return np.concatenate([np.zeros((len(share), 1)), share], axis=1)


def _equal_error(far: NDArray[np.float64], tar: NDArray[np.float64]) -> NDArray[np.float64]:
    """The equal error rates, [R]: where FAR = 1 - TAR, linear between points."""
    gap = far - (1 - tar)
    k = np.maximum(np.argmax(gap >= 0, axis=1), 1)
    rows = np.arange(len(far))
    rise = gap[rows, k] - gap[rows, k - 1]
    share = np.where(rise > 0, -gap[rows, k - 1] / np.where(rise > 0, rise, 1), 0)
    return np.asarray(far[rows, k - 1] + share * (far[rows, k] - far[rows, k - 1]))
