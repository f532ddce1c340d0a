"""Decoding of a picture file into a record, trusting nothing.

A header is read and checked before any pixel is decoded, so a decompression bomb costs nothing; a damaged file is
rejected rather than half decoded. Grey, palette and 16-bit pictures become 8-bit RGB, an alpha channel is dropped.
"""

import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.beton import JPEG, RAW
from hrfr_fast.packing.image_checks import check_complete
from hrfr_fast.packing.image_headers import (
    JPEG_SIGNATURE,
    exif_orientation,
    has_exif,
    is_usual_jpeg,
    jpeg_header,
    picture_size,
)
from hrfr_fast.packing.picture_files import Rejected

# 4096 x 4096: far beyond any face crop, and small enough that one such picture in each of 16 workers fits in memory.
MAX_PIXELS = 1 << 24
JPEG_QUALITY = 95
SILENT = 0  # OpenCV's LOG_LEVEL_SILENT


@dataclass(frozen=True)
class Target:
    """Required form of a record.

    Args:
        size: width and height in pixels.
        resize: whether pictures of other sizes are resampled instead of rejected.
        encoding: "raw" pixels; "jpeg": JPEG files as they are, others encoded; "jpeg-or-raw": JPEG files as they are,
            others raw, so that nothing is lost.
    """

    size: int
    resize: bool = False
    encoding: str = "raw"


def record_of(
    data: bytes | NDArray[np.uint8], target: Target, room: memoryview | None = None
) -> tuple[bytes | memoryview, int]:
    """(payload, mode) of the record made from a file's bytes, or from RGB pixels [H, W, 3]. Raises Rejected.

    ``room``: as many bytes as the raw pixels of ``target`` take. The payload is ``room`` itself where they were decoded
    into it, as usual JPEG files of the right size are.
    """
    if room is not None and not target.resize and _decodes_into(data, target.size, room):
        return room, RAW
    if not isinstance(data, bytes):
        _check_size(data.shape[1], data.shape[0], target)
        return _encoded(data, target)
    is_jpeg = data.startswith(JPEG_SIGNATURE)
    if is_jpeg:
        width, height, colorspace = jpeg_header(data)
        turn = exif_orientation(data)
    else:
        width, height = picture_size(data)
    _check_size(width, height, target)
    if not is_jpeg:
        image = _decode_other(data, width, height)
    else:
        image = _decode_jpeg(data, height, width)
        if turn != 1:
            image = oriented(image, turn)
        elif target.encoding != "raw" and colorspace == "YCbCr" and width == height == target.size:
            return data, JPEG
    return _encoded(image, target)


def _decodes_into(data: bytes | NDArray[np.uint8], size: int, room: memoryview) -> bool:
    """Whether ``data`` is a whole JPEG of ``size`` px that nothing turns, which then is in ``room``.

    For anything else the longer way finds the reason, or what is to be done.
    """
    if not isinstance(data, bytes) or not data.startswith(JPEG_SIGNATURE):
        return False
    if not is_usual_jpeg(data, size) or has_exif(data):
        return False
    import simplejpeg

    try:  # by position: keywords take 0.2 us a picture
        image = simplejpeg.decode_jpeg(data, "RGB", False, False, 0, 0, 1, room, True)
    except ValueError:
        return False
    return bool(image.shape == (size, size, 3))


def _encoded(image: NDArray[np.uint8], target: Target) -> tuple[bytes, int]:
    """(payload, mode) of the record made from pixels [H, W, 3]."""
    if image.shape[:2] != (target.size, target.size):
        image = resized(image, target.size)
    if target.encoding == "jpeg":
        import simplejpeg

        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), JPEG_QUALITY, "RGB", "444"), JPEG
    return image.tobytes(), RAW


def decode(data: bytes, target: Target) -> NDArray[np.uint8]:
    """Pixels of a picture file, uint8 [size, size, 3] RGB. Raises Rejected."""
    payload, _ = record_of(data, Target(target.size, target.resize))
    return np.frombuffer(payload, np.uint8).reshape(target.size, target.size, 3)


class _OpenCVSilent:
    """Context in which OpenCV logs nothing. Several threads may be in it; the last to leave restores the level."""

    def __init__(self) -> None:
        self._lock, self._inside, self._level = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._level = opencv_logging().getLogLevel()
                opencv_logging().setLogLevel(SILENT)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                opencv_logging().setLogLevel(self._level)


def opencv_logging() -> Any:
    """What has OpenCV's ``getLogLevel`` and ``setLogLevel``: a module of OpenCV 5, OpenCV itself before that."""
    import cv2

    return getattr(cv2.utils, "logging", cv2)


_OPENCV_SILENT = _OpenCVSilent()


def decode_whole(data: bytes, most: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Pixels of a picture file of any size up to ``most`` pixels, uint8 [H, W, 3] RGB, upright. Raises Rejected."""
    width, height = picture_size(data)
    _refuse_absurd(width, height, most)
    if data.startswith(JPEG_SIGNATURE):
        return oriented(_decode_jpeg(data, height, width), exif_orientation(data))
    return _decode_other(data, width, height)


def _refuse_absurd(width: int, height: int, most: int = MAX_PIXELS) -> None:
    if width < 1 or height < 1 or width * height > most:
        raise Rejected(f"absurd size: the header says {width}x{height} pixels, at most {most} are decoded")


def _check_size(width: int, height: int, target: Target) -> None:
    _refuse_absurd(width, height)
    if not target.resize and (width, height) != (target.size, target.size):
        raise Rejected(f"wrong size: {width}x{height}, expected {target.size}x{target.size} (--resize accepts it)")


def _decode_jpeg(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    import simplejpeg

    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        raise Rejected(f"damaged or truncated JPEG: {error}") from error
    if image.shape != (height, width, 3):
        raise Rejected(f"damaged JPEG: it decodes to {image.shape}")
    return image


def _decode_other(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    import cv2

    try:
        check_complete(data)
        with _OPENCV_SILENT:  # The reason is reported by whoever asked for the picture.
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, struct.error) as error:
        raise Rejected(f"cannot be decoded: {error}") from error
    if image is None:
        raise Rejected("cannot be decoded")
    if image.dtype != np.uint8 or image.shape not in ((height, width, 3), (width, height, 3)):
        raise Rejected(f"it decodes to {image.shape}, its header says {width}x{height}")
    return np.ascontiguousarray(image[:, :, ::-1])


def oriented(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn the stored picture [H, W, 3] upright, as its EXIF orientation asks."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The centre square of [H, W, 3], resampled to [size, size, 3]: areas when shrinking, cubic when growing."""
    import cv2

    length = min(image.shape[:2])
    top, left = (image.shape[0] - length) // 2, (image.shape[1] - length) // 2
    square = np.ascontiguousarray(image[top : top + length, left : left + length])
    if length == size:
        return square
    interpolation = cv2.INTER_AREA if length > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (size, size), interpolation=interpolation), np.uint8)
