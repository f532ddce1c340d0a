"""Coherent Point Drift (Myronenko & Song, "Point Set Registration: Coherent Point Drift", TPAMI 32(12), 2010).

One point set is the centres of a Gaussian mixture, which is moved as a whole to maximise the likelihood of the other
set, without correspondences. pycpd does this in NumPy and keeps float64 arrays of M x N x D, which is 9 GB at 6,000
points and 32 dimensions, and its rigid mode takes two or three dimensions only; :func:`affine` here is the affine
variant (figure 3 of the paper) with an E-step in chunks on the device.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

CHUNK = 1024  # target points in a chunk of the E-step: bounds memory to CHUNK x M float64
ITERATIONS = 100
TOLERANCE = 1e-5
OUTLIERS = 0.1  # weight of the mixture's uniform component, for target points without a source point


class Affine(NamedTuple):
    """y -> y @ matrix + offset."""

    matrix: NDArray[np.float64]
    """[D, D]"""
    offset: NDArray[np.float64]
    """[D]"""
    iterations: int
    sigma2: float
    """Variance of the mixture's Gaussians at the end."""

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        return points @ self.matrix + self.offset


def affine(
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    device: "torch.device | str" = "cpu",
    *,
    outliers: float = OUTLIERS,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    chunk: int = CHUNK,
) -> Affine:
    """The affine map that moves ``source`` (float [M, D]) onto ``target`` (float [N, D]), without correspondences.

    Args:
        outliers: weight of the uniform component, 0 <= outliers < 1.
        iterations: at most; it stops when sigma^2 changes by less than the share ``tolerance``.
        chunk: target points compared at a time.
    """
    import torch

    x = torch.as_tensor(np.asarray(target, np.float64), device=device)
    y = torch.as_tensor(np.asarray(source, np.float64), device=device)
    dimensions = x.shape[1]
    sigma2 = _mean_squared_distance(x, y) / dimensions
    matrix, offset = torch.eye(dimensions, dtype=x.dtype, device=device), torch.zeros_like(x[0])
    done = 0
    while done < iterations:
        p1, pt1, px = _expectation(x, y @ matrix + offset, sigma2, outliers, chunk)
        mass = p1.sum()
        mean_x, mean_y = px.sum(0) / mass, (p1 @ y) / mass
        centred = y - mean_y
        # a = Xhat' P' Yhat and ypy = Yhat' d(P1) Yhat of the paper; px = P X was summed in chunks.
        a = (px - p1[:, None] * mean_x).T @ centred
        ypy = centred.T @ (p1[:, None] * centred)
        # On the CPU, D x D: CUDA's least squares assumes full rank, which a collapsed space does not have.
        matrix = torch.linalg.lstsq(ypy.cpu(), a.T.cpu()).solution.to(ypy.device)
        offset = mean_x - mean_y @ matrix
        done += 1
        previous = sigma2
        scatter = (pt1 * ((x - mean_x) ** 2).sum(1)).sum()
        sigma2 = float((scatter - torch.trace(a @ matrix)) / (mass * dimensions))
        if sigma2 <= 1e-12 or abs(sigma2 - previous) <= tolerance * previous:
            break
    return Affine(matrix.cpu().numpy(), offset.cpu().numpy(), done, max(sigma2, 0.0))


def _expectation(
    x: "torch.Tensor", moved: "torch.Tensor", sigma2: float, outliers: float, chunk: int
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """P1 [M], P'1 [N] and P X [M, D] of the posterior P [M, N], which never exists as a whole."""
    import torch

    p1 = torch.zeros(len(moved), dtype=x.dtype, device=x.device)
    px = torch.zeros_like(moved)
    pt1 = torch.empty(len(x), dtype=x.dtype, device=x.device)
    # The uniform component as one more logit of a softmax, so that nothing underflows: log c of the paper's eq. 6.
    share = outliers / (1 - outliers) * len(moved) / len(x)
    uniform = np.log(share) + x.shape[1] / 2 * np.log(2 * np.pi * sigma2) if share > 0 else -np.inf
    for start in range(0, len(x), chunk):
        part = x[start : start + chunk]
        logits = torch.cdist(part, moved).square_().div_(-2 * sigma2)
        uniforms = torch.full_like(logits[:, :1], uniform)
        norm = torch.logsumexp(torch.cat([torch.logsumexp(logits, 1, keepdim=True), uniforms], 1), 1, keepdim=True)
        p = logits.sub_(norm).exp_()
        pt1[start : start + chunk] = p.sum(1)
        p1 += p.sum(0)
        px += p.T @ part
    return p1, pt1, px


def _mean_squared_distance(x: "torch.Tensor", y: "torch.Tensor") -> float:
    """Over all pairs of points, from the two means and scatters."""
    between = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(between + x.var(0, correction=0).sum() + y.var(0, correction=0).sum())


def with_pycpd(
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    kind: str,
    *,
    outliers: float = OUTLIERS,
    iterations: int = ITERATIONS,
) -> Affine:
    """pycpd's "rigid" (rotation, scale, translation; two or three dimensions) or "affine" registration.

    Memory: 24 M N bytes and more in three dimensions.
    """
    from pycpd import AffineRegistration, RigidRegistration

    make = {"rigid": RigidRegistration, "affine": AffineRegistration}[kind]
    points = {"X": np.asarray(target, np.float64), "Y": np.asarray(source, np.float64)}
    registration = make(**points, w=outliers, max_iterations=iterations)
    registration.register()
    if kind == "rigid":
        scale, rotation, offset = registration.get_registration_parameters()
        matrix = scale * rotation
    else:
        matrix, offset = registration.get_registration_parameters()
    return Affine(matrix, np.ravel(offset), registration.iteration, float(registration.sigma2))
