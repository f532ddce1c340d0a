"""Maps from one embedding space or view to another.

There are two kinds: some use *correspondences*, that is which two points are the same picture, the others only the two
clouds of points. A map with correspondences uses what only labelled data give.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis import cpd

PointMap = Callable[[NDArray[np.floating]], NDArray[np.float64]]
"""[n, D] to [n, D], not normalised."""


def unit(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows divided by their norms; a zero row stays zero."""
    points = np.asarray(points, np.float64)
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


def translation(source: NDArray[np.floating], target: NDArray[np.floating]) -> PointMap:
    """Moves the mean of ``source`` to that of ``target``. No correspondences."""
    shift = target.mean(axis=0, dtype=np.float64) - source.mean(axis=0, dtype=np.float64)
    return lambda points: points + shift


def coral(source: NDArray[np.floating], target: NDArray[np.floating]) -> PointMap:
    """Gives ``source`` the mean and covariance of ``target`` (CORAL: Sun, Feng & Saenko, AAAI 2016; the mean is ours).

    No correspondences. Covariances are shrunk as Ledoit & Wolf (2004) do: there may be fewer points than
    dimensions.
    """
    from sklearn.covariance import ledoit_wolf

    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    whiten = _power(ledoit_wolf(source)[0], -0.5)
    colour = _power(ledoit_wolf(target)[0], 0.5)
    matrix, mean, new_mean = whiten @ colour, source.mean(axis=0), target.mean(axis=0)
    return lambda points: (points - mean) @ matrix + new_mean


def procrustes(source: NDArray[np.floating], target: NDArray[np.floating]) -> PointMap:
    """Orthogonal map, after centring (Schoenemann 1966, scipy). Row i of both is one picture: correspondences."""
    from scipy.linalg import orthogonal_procrustes

    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    mean, new_mean = source.mean(axis=0), target.mean(axis=0)
    rotation, _ = orthogonal_procrustes(source - mean, target - new_mean)
    return lambda points: (points - mean) @ rotation + new_mean


def linear(source: NDArray[np.floating], target: NDArray[np.floating]) -> PointMap:
    """Any linear map and offset, ridge regression with the penalty chosen by leave-one-out. Correspondences."""
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(alphas=np.logspace(-4, 2, 13)).fit(np.asarray(source, np.float64), np.asarray(target, np.float64))
    return lambda points: np.asarray(fitted.predict(points), np.float64)


@dataclass(frozen=True)
class PrincipalAxesMap:
    """An affine map of the coordinates in a few principal axes; the other components stay as they are."""

    mean: NDArray[np.float64]
    """[D]"""
    axes: NDArray[np.float64]
    """[D, d], orthonormal columns."""
    inner: cpd.Affine

    def project(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """[n, D] to coordinates [n, d]."""
        return (points - self.mean) @ self.axes

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        coordinates = self.project(points)
        return points + (self.inner(coordinates) - coordinates) @ self.axes.T


def principal_axes(points: NDArray[np.floating], dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D] and the first principal axes [D, d] of ``points`` [n, D]; d is at most min(n - 1, D)."""
    from sklearn.decomposition import PCA

    fitted = PCA(min(dimensions, len(points) - 1, points.shape[1])).fit(np.asarray(points, np.float64))
    return fitted.mean_, fitted.components_.T


def coherent_point_drift(
    source: NDArray[np.floating],
    target: NDArray[np.floating],
    dimensions: int,
    register: Callable[[NDArray[np.floating], NDArray[np.floating]], cpd.Affine],
) -> PrincipalAxesMap:
    """Coherent Point Drift in the principal axes of both clouds. No correspondences.

    Args:
        register: called with target and source coordinates, like :func:`hrfr_fast.analysis.cpd.affine`.
    """
    mean, axes = principal_axes(np.concatenate([source, target]), dimensions)
    return PrincipalAxesMap(mean, axes, register((target - mean) @ axes, (source - mean) @ axes))


def _power(symmetric: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T
