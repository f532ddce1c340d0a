"""Closed-set 1:N identification metrics of embeddings: the rank of each probe's own identity in the gallery.

Nothing here knows where embeddings come from or how faces are stored.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation import bootstrap

RANKS = (1, 5)
BLOCK = 1024  # probes compared with the gallery at a time: bounds memory to BLOCK x gallery floats


def identify(
    probes: NDArray[np.float32],
    probe_labels: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
) -> dict[str, Any]:
    """``rank1``, ``rank1_ci``, ``rank5``, ...: shares of probes whose own identity is among the first of the gallery.

    The 95 % intervals resample the probes' identities.

    Args:
        probes, gallery: unit rows, [n, D] and [m, D].
        probe_labels: [n], each of them in ``gallery_labels``.
        gallery_labels: [m], sorted, each once.
    """
    rank = ranks(probes, probe_labels, gallery, gallery_labels)
    clusters = np.repeat(probe_labels, 2).astype(np.int32)  # the bootstrap's unit is a pair: a probe and itself
    result: dict[str, Any] = {}
    for most in RANKS:
        hit = (rank <= most).astype(np.float64)
        result[f"rank{most}"] = float(hit.mean())
        result[f"rank{most}_ci"] = list(bootstrap.accuracy_interval(hit, np.ones(len(hit), bool), clusters))
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
    own = np.searchsorted(gallery_labels, probe_labels)
    result = np.empty(len(probes), np.int64)
    for start in range(0, len(probes), BLOCK):
        block = slice(start, start + BLOCK)
        cosines = probes[block] @ gallery.T
        genuine = cosines[np.arange(len(cosines)), own[block]]
        result[block] = (~(cosines < genuine[:, None])).sum(axis=1)  # an embedding that is not a number comes last
    return result
