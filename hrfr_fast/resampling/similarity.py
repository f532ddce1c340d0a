"""Alignment of a face by its landmarks: the similarity transform that brings them closest to a template's.

Rotation, one scale and a translation, by least squares (Umeyama, "Least-squares estimation of transformation parameters
between two point patterns", PAMI 13(4), 1991, which in the plane is a linear regression of complex numbers), and the
warp that public evaluations use: bilinear, without antialiasing, black beyond the picture.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def similarity_transform(landmarks: ArrayLike, template: ArrayLike) -> NDArray[np.float64]:
    """The matrix [2, 3] that maps points of a picture to those of the template.

    Args:
        landmarks, template: [K, 2], x and y in px, two different points at least.

    Raises:
        ValueError: all landmarks are one point, or one is not finite.
    """
    source = np.asarray(landmarks, np.float64) @ (1, 1j)
    target = np.asarray(template, np.float64) @ (1, 1j)
    centred = source - source.mean()
    spread = float((np.abs(centred) ** 2).sum())
    if not np.isfinite(spread) or spread < 1e-6:
        raise ValueError("its landmarks are one point, or no numbers")
    turn = (target - target.mean()) @ centred.conj() / spread
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def warped(image: NDArray[np.uint8], matrix: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """A picture, uint8 [H, W, 3], under the transform ``matrix`` [2, 3], uint8 [height, width, 3]."""
    import cv2

    return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=0.0), np.uint8)
