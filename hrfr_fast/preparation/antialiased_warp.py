"""A face under a similarity transform, antialiased where it shrinks.

Public alignment code samples the photograph at the pixels of the small picture, bilinearly: of a face that shrinks ten
times it sees a hundredth of the pixels, and detail turns into noise. Here the face is turned at k times the wanted
size, k the shrink factor rounded up, so that no pixel of the photograph is skipped (OpenCV's cubic, a = -0.75, to 1/32
px), and then shrunk k times by the package's own definition of resampling.
"""

import math

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.picture_files import Rejected

LARGEST = 8192
"""Most px of the turned face before it is shrunk, a side: 200 MB."""
LONGEST_SIDE = 32766
"""Of a photograph: OpenCV's limit."""


def aligned_face(image: NDArray[np.uint8], matrix: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """The face of a photograph as uint8 [height, width, 3]; black beyond the photograph.

    Args:
        image: uint8 [H, W, 3].
        matrix: [2, 3], maps points of the photograph to those of the result, in px from the centre of the first pixel.

    Raises:
        Rejected: the face, or the photograph, is too large.
    """
    import cv2

    shrink = 1 / math.hypot(matrix[0, 0], matrix[1, 0])
    factor = max(1, math.ceil(shrink - 1e-6))
    if factor * max(width, height) > LARGEST or max(image.shape[:2]) > LONGEST_SIDE:
        raise Rejected(
            f"its face is {shrink:.0f} times as large as wanted, or it has more than {LONGEST_SIDE} px a side"
        )
    larger = factor * matrix
    larger[:, 2] += (factor - 1) / 2  # pixel centres: p -> factor (p + 1/2) - 1/2
    size = (factor * width, factor * height)
    turned = cv2.warpAffine(np.ascontiguousarray(image), larger, size, flags=cv2.INTER_CUBIC, borderValue=0.0)
    if factor == 1:
        return np.asarray(turned, np.uint8)
    from hrfr_fast.resampling.crop import resampled_box  # numba: 0.5 s to import

    side = max(width, height)
    shrunk = resampled_box(np.asarray(turned, np.uint8), (0, 0, factor * side, factor * side), side)
    return np.ascontiguousarray(shrunk[:height, :width])
