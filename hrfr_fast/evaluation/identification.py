"""1:N identification metrics of embeddings: where each probe's own identity stands in the gallery, and how alike it is.

The gallery may hold several pictures of an identity, and pictures of people who are no probe's own (distractors).
Nothing here knows where embeddings come from or how faces are stored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation import bootstrap

RANKS = (1, 5)
BLOCK_FLOATS = 1 << 25  # cosines computed at a time: bounds memory to about 300 MB, whatever the gallery


@dataclass(frozen=True)
class Search:
    """The outcome of n probes searched in a gallery of m pictures, by falling cosine."""

    mated: NDArray[np.bool_]
    """bool [n]: the gallery has a picture of the probe's identity."""
    rank: NDArray[np.int64]
    """int64 [n], 1-based: the place of the best picture of the own identity; m + 1 without one. Pictures of others
    that are as alike come first."""
    own: NDArray[np.float32]
    """float32 [n]: cosine of the best picture of the own identity; -inf without one."""
    highest: NDArray[np.float32]
    """float32 [n]: the highest cosine of any gallery picture."""
    average_precision: NDArray[np.float64] | None
    """float64 [n] where it was asked for; 0 without a picture of the own identity."""


def search(
    probes: NDArray[np.float32],
    probe_labels: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
    *,
    precision: bool = False,
    advance: Callable[[int], None] = lambda number: None,
) -> Search:
    """Every probe searched in the gallery.

    Args:
        probes, gallery: unit rows, [n, D] and [m, D].
        probe_labels, gallery_labels: [n] and [m], any integers; a label that no probe has is a distractor's.
        precision: compute the average precision of each probe, too.
        advance: called with how many more probes are done; may raise, to stop.
    """
    by_label = np.argsort(gallery_labels, kind="stable")
    first = np.searchsorted(gallery_labels[by_label], probe_labels, side="left")
    number = np.searchsorted(gallery_labels[by_label], probe_labels, side="right") - first
    n, m = len(probes), len(gallery)
    rank, own = np.full(n, m + 1, np.int64), np.full(n, -np.inf, np.float32)
    highest, precisions = np.empty(n, np.float32), np.zeros(n)
    rows = max(1, BLOCK_FLOATS // m)
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        cosines = probes[block] @ gallery.T
        highest[block] = cosines.max(axis=1)
        mated = np.flatnonzero(number[block])
        if len(mated):
            cosines = cosines if len(mated) == len(cosines) else cosines[mated]
            mates = _scores_of_mates(cosines, by_label, first[block][mated], number[block][mated])
            own[start + mated] = mates[:, 0]
            rank[start + mated] = _places(cosines, mates, number[block][mated], 1)[:, 0]
            if precision:
                places = _places(cosines, mates, number[block][mated], mates.shape[1])
                precisions[start + mated] = average_precision(places, number[block][mated])
        advance(len(number[block]))
    return Search(number > 0, rank, own, highest, precisions if precision else None)


def _scores_of_mates(
    cosines: NDArray[np.float32],
    by_label: NDArray[np.intp],
    first: NDArray[np.intp],
    number: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Cosines of each probe's own gallery pictures, falling, float32 [n, most]; -inf where there are fewer.

    A cosine that is not a number becomes -inf, so that it comes last.
    """
    mates = np.full((len(cosines), int(number.max())), -np.inf, np.float32)
    for k in range(mates.shape[1]):
        has = np.flatnonzero(number > k)
        mates[has, k] = cosines[has, by_label[first[has] + k]]
    return -np.sort(-np.nan_to_num(mates, nan=-np.inf, neginf=-np.inf), axis=1)


def _places(
    cosines: NDArray[np.float32], mates: NDArray[np.float32], number: NDArray[np.intp], count: int
) -> NDArray[np.int64]:
    """1-based places, int64 [n, count], of the first ``count`` own pictures; meaningless beyond ``number`` of them.

    Every picture of another identity that is not less alike comes before it.
    """
    existing = np.arange(mates.shape[1]) < number[:, None]
    places = np.ones((len(cosines), count), np.int64)
    for k in range(count):
        rows = np.flatnonzero(number > k)
        score = mates[rows, k, None]
        part = cosines if len(rows) == len(cosines) else cosines[rows]
        at_least = (~(part < score)).sum(axis=1)  # a cosine that is not a number counts against the probe
        places[rows, k] = at_least - ((mates[rows] >= score) & existing[rows]).sum(axis=1) + k + 1
    return places


def average_precision(places: NDArray[np.int64], number: NDArray[np.intp]) -> NDArray[np.float64]:
    """Average precision of each probe as the evaluation kit of TinyFace computes it, float64 [n].

    The area under precision over recall by trapezoids: a picture found at place r as the k-th of K adds
    ((k - 1) / (r - 1) + k / r) / 2 / K, where the first fraction is 1 for r = 1 (``compute_AP`` of the kit, which
    comes from the evaluation of Oxford buildings, Philbin et al., CVPR 2007). The ``average_precision_score`` of
    scikit-learn adds k / r / K, without interpolation.

    Args:
        places: int64 [n, most], 1-based and rising, of the probe's own pictures.
        number: [n], how many of them there are.
    """
    k = np.arange(1, places.shape[1] + 1)
    before = np.where(places > 1, (k - 1) / np.maximum(places - 1, 1), 1.0)
    heights = np.where(k <= number[:, None], (before + k / places) / 2, 0.0)
    return np.asarray(heights.sum(axis=1) / number)


def identify(
    probes: NDArray[np.float32],
    probe_labels: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
    *,
    most: tuple[int, ...] = RANKS,
) -> dict[str, Any]:
    """``rank1``, ``rank1_ci``, ``rank5``, ...: shares of probes with their own identity among the first of the gallery.

    The 95 % intervals resample the probes' identities.

    Args:
        probes, gallery: unit rows, [n, D] and [m, D].
        probe_labels: [n], each of them in ``gallery_labels``.
        gallery_labels: [m].
        most: the ranks K at which the share of probes found among the first K is given.
    """
    rank = ranks(probes, probe_labels, gallery, gallery_labels)
    hits = (rank[:, None] <= np.array(most)).astype(np.float64)
    resampled = bootstrap.resampled_cluster_means(hits, probe_labels)
    result: dict[str, Any] = {}
    for column, k in enumerate(most):
        result[f"rank{k}"] = float(hits[:, column].mean())
        result[f"rank{k}_ci"] = list(bootstrap.percentile_interval(resampled[:, column]))
    return result


def ranks(
    probes: NDArray[np.float32],
    probe_labels: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """1-based rank by cosine of each probe's own identity in the gallery, int64 [n]; ties count against the probe.

    The arguments are those of ``identify``.
    """
    return search(probes, probe_labels, gallery, gallery_labels).rank
