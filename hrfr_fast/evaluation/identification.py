"""1:N identification: who of the gallery is this? Closed set: every probe's person is in the gallery.

The gallery holds one high-resolution picture of each person, the first; every other picture is a probe, once as it is
and once in the view LR36.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation import bootstrap
from hrfr_fast.evaluation.embedding import embed
from hrfr_fast.evaluation.views import HR, LR36
from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

RANKS = (1, 5)


def identify(backbone: "nn.Module", split: Split, size: int, compute: "Compute") -> dict[str, Any]:
    """Rank-1 and rank-5 rates on ``split`` (highres_eval) with 95 % intervals that resample the probes' people.

    Returns:
        ``gallery`` and ``probes`` (counts) and, for probes "HR" and "LR", ``rank1``, ``rank1_ci``, ``rank5`` ...

    Raises:
        UsageError: fewer than two people, or nobody with a second picture.
    """
    gallery, probes = gallery_and_probes(split.labels)
    if len(gallery) < 2 or not len(probes):
        raise UsageError(f"{split.path}: identification needs two people and a second picture of one of them")
    shelf = embed(backbone, split, size, compute, records=gallery)
    result: dict[str, Any] = {"gallery": len(gallery), "probes": len(probes)}
    for name, view in (("HR", HR), ("LR", LR36)):
        asked = embed(backbone, split, size, compute, records=probes, degrade=view)
        found = ranks(asked, split.labels[probes], shelf, split.labels[gallery])
        result[name] = rates(found, split.labels[probes])
    return result


def gallery_and_probes(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Records of the gallery (the first of each label) and of the probes (all others of labels with several)."""
    _, first = np.unique(labels, return_index=True)
    probes = np.setdiff1d(np.arange(len(labels)), first)
    return first.astype(np.int64), probes.astype(np.int64)


def ranks(
    probes: NDArray[np.float32],
    probe_labels: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """1-based rank of each probe's own person among the gallery by cosine, int64 [n]; ties count against it.

    Args:
        probes, gallery: unit rows, [n, D] and [m, D].
        gallery_labels: [m], sorted, each once.
    """
    own = np.searchsorted(gallery_labels, probe_labels)
    result = np.empty(len(probes), np.int64)
    for start in range(0, len(probes), 1024):
        rows = slice(start, start + 1024)
        similar = probes[rows] @ gallery.T
        right = similar[np.arange(len(similar)), own[rows]]
        result[rows] = (~(similar < right[:, None])).sum(axis=1)  # an embedding that is no number comes last
    return result


def rates(found: NDArray[np.int64], people: NDArray[np.int64]) -> dict[str, Any]:
    """Share of probes ranked at most 1 and 5, with intervals over ``people`` (the probes' labels)."""
    cluster = np.repeat(people, 2).astype(np.int32)  # the bootstrap's unit is a pair: a probe and itself
    everyone = np.ones(len(found), bool)
    result: dict[str, Any] = {}
    for rank in RANKS:
        hit = (found <= rank).astype(np.float64)
        result[f"rank{rank}"] = float(hit.mean())
        result[f"rank{rank}_ci"] = list(bootstrap.accuracy_interval(hit, everyone, cluster))
    return result
