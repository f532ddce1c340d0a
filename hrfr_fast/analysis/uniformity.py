"""Uniformity of unit vectors on their sphere: metrics for any dimension, and significance tests."""

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.maps import unit

MOST_FOR_UNIFORMITY = 4000  # points: its distances are quadratic
DRAWS = 999  # samples of uniform points that the nearest-neighbour distance is compared with


def uniformity(points: NDArray[np.floating], t: float = 2.0) -> float:
    """log of the mean of exp(-t |x - y|^2) over pairs of unit rows (Wang & Isola, ICML 2020, section 4.2).

    The lower, the more evenly spread; 0 when all points are one.
    """
    from scipy.spatial.distance import pdist

    return float(np.log(np.exp(-t * pdist(points[:MOST_FOR_UNIFORMITY], "sqeuclidean")).mean()))


def uniform_points(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float64]:
    """Points spread uniformly at random on the unit sphere, [count, dimensions]."""
    return unit(np.random.default_rng([seed, 7]).standard_normal((count, dimensions)))


def alignment(cosines: NDArray[np.float64]) -> float:
    """Mean of |x - y|^2 over genuine pairs of unit vectors (Wang & Isola 2020, with alpha = 2); 0: all equal."""
    return float((2 - 2 * cosines).mean())


def effective_rank(points: NDArray[np.floating]) -> float:
    """exp of the entropy of the singular values' shares (Roy & Vetterli, EUSIPCO 2007), after centring.

    Of [n, D]: 1 when all lie on a line, min(n - 1, D) at most. Centred, for a common mean is no dimension in use.
    """
    values = np.linalg.svd(points - points.mean(axis=0), compute_uv=False).astype(np.float64)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def rayleigh(points: NDArray[np.floating]) -> float:
    """p-value of Rayleigh's test of uniformity against one preferred direction, unit rows [n, D].

    n D |mean|^2 is chi-squared with D degrees of freedom under uniformity, for n not small (Mardia & Jupp,
    "Directional Statistics", 2000, section 10.4.1).
    """
    from scipy.stats import chi2

    count, dimensions = points.shape
    return float(chi2.sf(count * dimensions * (points.mean(axis=0) ** 2).sum(), dimensions))


def bingham(points: NDArray[np.floating]) -> float:
    """p-value of Bingham's test of uniformity against a preferred axis or plane, unit rows [n, D].

    n D (D + 2) / 2 (tr T^2 - 1 / D), T the scatter matrix, is chi-squared with (D - 1)(D + 2) / 2 degrees of freedom
    (Mardia & Jupp 2000, section 10.7.1).
    """
    from scipy.stats import chi2

    count, d = points.shape
    scatter = points.T @ points / count
    statistic = count * d * (d + 2) / 2 * (float((scatter**2).sum()) - 1 / d)
    return float(chi2.sf(statistic, (d - 1) * (d + 2) / 2))


def nearest_neighbours(points: NDArray[np.floating], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Mean distance to the nearest neighbour over that of uniform points, and the two-sided p-value, unit rows [n, D].

    Below 1: clustered; above 1: more even than chance (Clark & Evans, Ecology 35(4), 1954, on the sphere; the null
    distribution by simulation).
    """
    observed = _nearest(points)
    null = np.array([_nearest(uniform_points(len(points), points.shape[1], seed + 1 + draw)) for draw in range(draws)])
    tail = min((null <= observed).sum(), (null >= observed).sum())
    return float(observed / null.mean()), float(min(1.0, 2 * (tail + 1) / (draws + 1)))


def _nearest(points: NDArray[np.floating]) -> float:
    from scipy.spatial import cKDTree

    return float(cKDTree(points).query(points, k=2)[0][:, 1].mean())


def centres(points: NDArray[np.floating], identities: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean direction of each identity, [identities, D], since pictures of one person are not independent."""
    _, row = np.unique(identities, return_inverse=True)
    sums = np.zeros((row.max() + 1, points.shape[1]))
    np.add.at(sums, row, points)
    return unit(sums)


def occupancy(directions: NDArray[np.floating], seed: int = 0) -> dict[str, float]:
    """p-values of three tests of uniformity, each sensitive to another alternative, and their Bonferroni combination.

    ``uniform_p`` is the smallest of them times three, at most 1.
    """
    ratio, p_neighbours = nearest_neighbours(directions, seed=seed)
    p_values = (rayleigh(directions), bingham(directions), p_neighbours)
    return {
        "rayleigh_p": p_values[0],
        "bingham_p": p_values[1],
        "nearest_neighbour_ratio": ratio,
        "nearest_neighbour_p": p_neighbours,
        "uniform_p": min(1.0, 3 * min(p_values)),
    }
