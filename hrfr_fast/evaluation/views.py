"""Views: test faces shrunk to several resolutions, their names, and the embeddings of a pair set in each of them.

A view is the size in pixels to which a face is shrunk before it is enlarged to the model's input: 36 is LR36
(144 -> 36 -> 144), 0 is the face as it is. A 32-px model shrinks each view to 32: for it they differ little.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.embedding import distinct_pictures, embed
from hrfr_fast.format.reader import PairSet
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

HR = 0
LR36 = 36


@dataclass(frozen=True)
class PairViews:
    """Embeddings of a pair set's distinct pictures, by view."""

    pairs: PairSet
    rows: NDArray[np.int64]
    """[2P]: row of each picture in the arrays of ``embeddings``."""
    embeddings: dict[int, NDArray[np.float32]]
    """View -> float32 [U, D] of unit norm."""

    def scores(self, first: int = HR, second: int | None = None) -> NDArray[np.float64]:
        """Cosine of every pair, float64 [P], its first picture in view ``first``, the other in ``second``."""
        left = self.embeddings[first].astype(np.float64)
        right = self.embeddings[first if second is None else second].astype(np.float64)
        return np.einsum("pd,pd->p", left[self.rows[0::2]], right[self.rows[1::2]])


def pair_views(
    backbone: "nn.Module", pairs: PairSet, size: int, compute: "Compute", views: tuple[int, ...]
) -> PairViews:
    """The embeddings of ``pairs`` in each of ``views``; a view of the pictures' own size or more changes nothing."""
    unique, rows = distinct_pictures(pairs.split)
    effective = {view: HR if view >= pairs.split.size else view for view in views}
    embeddings = {
        view: embed(backbone, pairs.split, size, compute, records=unique, degrade=view)
        for view in sorted(set(effective.values()))
    }
    return PairViews(pairs, rows, {view: embeddings[shown] for view, shown in effective.items()})


def parse_view(text: str) -> tuple[int, int]:
    """The views of a pair's first and second picture by name: ``hr`` (0), ``lr36`` (36), or two: ``hr-lr36``.

    Raises:
        UsageError: anything else.
    """
    names = text.split("-")
    if len(names) > 2 or not all(re.fullmatch(r"hr|lr[1-9]\d{0,3}", name) for name in names):
        raise UsageError(f"--view {text}: give hr, lr36 (shrunk to 36 px and back; any number), or two as in hr-lr36")
    views = [HR if name == "hr" else int(name.removeprefix("lr")) for name in names]
    return views[0], views[-1]


def view_name(degrade: int | tuple[int, int]) -> str:
    """The name of a view, or of the two views of a pair's pictures; the inverse of ``parse_view``."""
    first, second = degrade if isinstance(degrade, tuple) else (degrade, degrade)
    names = [f"lr{view}" if view else "hr" for view in (first, second)]
    return names[0] if first == second else "-".join(names)


def view_notes(degrade: int | tuple[int, int], size: int, stored: int) -> tuple[str, ...]:
    """Caveats of a view for a model of ``size`` px and pictures stored at ``stored`` px."""
    views = [view for view in (degrade if isinstance(degrade, tuple) else (degrade,)) if view]
    notes = []
    if views and size <= min(views):
        notes.append(f"a {size}-px model shrinks every view to {size} px: nearly the same pictures, a control")
    if any(view >= stored for view in views):
        notes.append(f"its pictures have {stored} px: shrinking to {max(views)} px takes nothing away")
    return tuple(notes)
