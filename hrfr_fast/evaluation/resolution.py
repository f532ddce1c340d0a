"""Scores of the same pairs when the faces lose resolution: on both sides of a pair, or on one side only."""

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.views import HR, LR36, PairViews

SIDES = (8, 12, 16, 24, 32, 36, 48, 72, HR)
"""Test resolutions in pixels; HR stands for the faces as they are, 144."""
CROSSES = {"HR-HR": (HR, HR), "HR-LR": (HR, LR36), "LR-LR": (LR36, LR36)}


def crossed_scores(views: PairViews) -> dict[str, NDArray[np.float64]]:
    """By "HR-HR", "HR-LR" (the second face at 36 px) and "LR-LR": the cosine of every pair, float64 [P]."""
    return {name: views.scores(first, second) for name, (first, second) in CROSSES.items()}


def scores_by_side(views: PairViews, sides: tuple[int, ...] = SIDES) -> dict[int, NDArray[np.float64]]:
    """By side in pixels, rising: the cosine of every pair, float64 [P], both faces at that resolution."""
    pixels = {views.pairs.split.size if side == HR else side: side for side in sides}
    return {side: views.scores(pixels[side]) for side in sorted(pixels)}
