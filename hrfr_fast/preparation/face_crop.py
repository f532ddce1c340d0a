"""One face of a source, cropped by its template and brought to the size of a split, as the bytes of a PNG file.

PNG, since it loses nothing: JPEG would leave traces of its 8-px blocks, large ones in a 36-px face and small ones in a
144-px face, and a network could tell the resolutions apart by them. A 36-px face takes about 3 kB, a 144-px one 40 kB.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.face_templates import FaceTemplate, crop_box
from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.decode import MAX_PIXELS, decode_whole
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.processes import one_opencv_thread

EXTENSION = ".png"
ROUNDING = 1e-6
"""In px: by so much less than the split's width a crop may be without counting as enlarged."""


@dataclass(frozen=True)
class Crop:
    """How the pictures of a split are cropped.

    Args:
        size: width in px of what is made.
        template, inter_eye: of the source, as ``face_templates.crop_box`` takes them.
        enlarge: whether a crop of fewer px than ``size`` is enlarged instead of rejected.
    """

    size: int
    template: FaceTemplate
    inter_eye: float | None = None
    enlarge: bool = False

    def side(self, image: NDArray[np.uint8]) -> float:
        """Width in px of the part of ``image`` that is used. Raises UsageError for another shape."""
        return crop_box(image.shape[1], image.shape[0], self.template, self.inter_eye).side

    def apply(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
        """The face, uint8 [size, size, 3], and whether it was enlarged. Raises Rejected."""
        from hrfr_fast.resampling.crop import resampled_box  # numba: 0.5 s to import

        height, width = image.shape[:2]
        try:
            box = crop_box(width, height, self.template, self.inter_eye)
        except UsageError as error:
            raise Rejected(str(error)) from None
        enlarged = box.side < self.size - ROUNDING
        if enlarged and not self.enlarge:
            raise Rejected(f"its crop has {box.side:.1f} px, fewer than {self.size} (--allow-upsampling enlarges it)")
        return resampled_box(image, box, self.size), enlarged


def read_pixels(read: Reader) -> NDArray[np.uint8]:
    """The picture that ``read`` gives, uint8 [H, W, 3] RGB. Raises Rejected."""
    content: Any = read()
    if isinstance(content, bytes):
        return decode_whole(content)
    height, width = content.shape[:2]
    if not 0 < height * width <= MAX_PIXELS:
        raise Rejected(f"absurd size: {width}x{height} pixels, at most {MAX_PIXELS} are used")
    return np.ascontiguousarray(content)


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 [H, W, 3] RGB."""
    import cv2

    written, content = cv2.imencode(EXTENSION, np.ascontiguousarray(image[:, :, ::-1]))
    assert written
    return content.tobytes()


def one_thread() -> None:
    """Keep a worker process to one thread of OpenCV and of numba: there is a worker for each core."""
    os.environ["NUMBA_NUM_THREADS"] = "1"  # read when numba is imported, which no worker has done yet
    one_opencv_thread()
