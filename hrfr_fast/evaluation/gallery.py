"""Identification protocol of a packed split: who of the gallery is this, at high and at low resolution?

The gallery holds one high-resolution picture of each identity, the first; every other picture is a probe, once as it is
and once in the view LR36. Every probe's identity is in the gallery (closed set).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.embedding import embed
from hrfr_fast.evaluation.identification import identify
from hrfr_fast.evaluation.views import HR, LR36
from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute


def identify_split(backbone: "nn.Module", split: Split, size: int, compute: "Compute") -> dict[str, Any]:
    """Rank-1 and rank-5 rates on ``split`` (highres_eval) with 95 % intervals over the probes' identities.

    Returns:
        ``gallery`` and ``probes`` (counts) and, for probes "HR" and "LR", ``rank1``, ``rank1_ci``, ``rank5`` ...

    Raises:
        UsageError: fewer than two identities, or none with a second picture.
    """
    gallery, probes = gallery_and_probes(split.labels)
    if len(gallery) < 2 or not len(probes):
        raise UsageError(f"{split.path}: identification needs two people and a second picture of one of them")
    enrolled = embed(backbone, split, size, compute, records=gallery)
    result: dict[str, Any] = {"gallery": len(gallery), "probes": len(probes)}
    for name, view in (("HR", HR), ("LR", LR36)):
        embeddings = embed(backbone, split, size, compute, records=probes, degrade=view)
        result[name] = identify(embeddings, split.labels[probes], enrolled, split.labels[gallery])
    return result


def gallery_and_probes(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Records of the gallery (the first of each label) and of the probes (all others)."""
    _, first = np.unique(labels, return_index=True)
    return first.astype(np.int64), np.setdiff1d(np.arange(len(labels)), first)
