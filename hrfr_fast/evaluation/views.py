"""A model's embeddings of the same faces seen at several resolutions, computed once for all who ask.

A view is the side in pixels to which a face is shrunk before it is enlarged to the model's input: 36 is LR36
(144 -> 36 -> 144), 0 is the face as it is. A 32-px model shrinks each view to 32: for it they differ little.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.embedding import distinct_pictures, embed
from hrfr_fast.format.reader import PairSet, Split

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

HR = 0
LR36 = 36


@dataclass(frozen=True)
class PairViews:
    """Embeddings of a pair set's distinct pictures, by view."""

    pairs: PairSet
    place: NDArray[np.int64]
    """[2P]: row of each picture in the arrays of ``embeddings``."""
    embeddings: dict[int, NDArray[np.float32]]
    """View -> float32 [U, D] of unit norm."""

    def scores(self, first: int = HR, second: int | None = None) -> NDArray[np.float64]:
        """Cosine of every pair, float64 [P], its first picture in view ``first``, the other in ``second``."""
        left = self.embeddings[first].astype(np.float64)
        right = self.embeddings[first if second is None else second].astype(np.float64)
        return np.einsum("pd,pd->p", left[self.place[0::2]], right[self.place[1::2]])


def pair_views(
    backbone: "nn.Module", pairs: PairSet, size: int, compute: "Compute", views: tuple[int, ...]
) -> PairViews:
    """Embed ``pairs`` in each of ``views``; those at or above the pictures' own side count as unchanged."""
    unique, place = distinct_pictures(pairs.split)
    wanted = {view: _effective(view, pairs.split) for view in views}
    made = {
        degrade: embed(backbone, pairs.split, size, compute, records=unique, degrade=degrade)
        for degrade in sorted(set(wanted.values()))
    }
    return PairViews(pairs, place, {view: made[degrade] for view, degrade in wanted.items()})


def _effective(view: int, split: Split) -> int:
    return 0 if view >= split.size else view
