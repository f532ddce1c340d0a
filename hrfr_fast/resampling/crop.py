"""The resampling definition applied to one box of one picture of any shape."""

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.resampling.cpu import resample
from hrfr_fast.sampling.augmentation import no_augmentation


def resampled_box(image: NDArray[np.uint8], box: tuple[float, float, float, float], size: int) -> NDArray[np.uint8]:
    """The part ``box`` of a picture at ``size`` px, antialiased where it shrinks.

    Args:
        image: uint8 [H, W, 3].
        box: x0, y0, x1, y1 in px from the corner of the picture; what lies outside repeats the edge.

    Returns:
        uint8 [size, size, 3].
    """
    height, width = image.shape[:2]
    side = max(height, width)
    if height != width:  # The kernel takes squares; repeating the edge is what it does beyond them anyway.
        image = np.pad(image, ((0, side - height), (0, side - width), (0, 0)), "edge")
    augmentation = no_augmentation(1)
    augmentation.box[0] = np.array(box, np.float64) / side
    out = np.empty((1, size, size, 3), np.uint8)
    resample(np.ascontiguousarray(image).reshape(-1), np.zeros(1, np.int64), side, augmentation, out)
    return out[0]
