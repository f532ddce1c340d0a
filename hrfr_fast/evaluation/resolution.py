"""Verification scores of the same pairs when both faces, or only the second, lose resolution."""

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.views import HR, LR36, PairViews

RESOLUTIONS = (8, 12, 16, 24, 32, 36, 48, 72, HR)
"""Test resolutions in pixels; HR stands for the faces as they are, 144."""
CROSS_RESOLUTION_VIEWS = {"HR-HR": (HR, HR), "HR-LR": (HR, LR36), "LR-LR": (LR36, LR36)}


def cross_resolution_scores(views: PairViews) -> dict[str, NDArray[np.float64]]:
    """By "HR-HR", "HR-LR" (the second face at 36 px) and "LR-LR": the cosine of every pair, float64 [P]."""
    return {name: views.scores(first, second) for name, (first, second) in CROSS_RESOLUTION_VIEWS.items()}


def scores_by_resolution(
    views: PairViews, resolutions: tuple[int, ...] = RESOLUTIONS
) -> dict[int, NDArray[np.float64]]:
    """By resolution in pixels, rising: the cosine of every pair, float64 [P], both faces at that resolution.

    Resolutions that the faces as they are do not have are left out.
    """
    stored = views.pairs.split.size
    view_at = {stored if view == HR else view: view for view in resolutions if view < stored or view == HR}
    return {pixels: views.scores(view_at[pixels]) for pixels in sorted(view_at)}
