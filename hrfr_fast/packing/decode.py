"""From a picture file to the bytes of a record, trusting nothing.

This is what packing's worker processes run: it imports numpy, and simplejpeg or OpenCV once a file asks for it. A
header is read and judged before any pixel is decoded, so a decompression bomb costs nothing; a damaged file is refused
rather than half decoded. Grey, palette and 16-bit pictures become 8-bit RGB, an alpha channel is dropped.
"""

import errno
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.beton import JPEG, RAW

# 4096 x 4096: far beyond any face crop, and small enough that one such picture in each of 16 workers fits in memory.
MAX_PIXELS = 1 << 24
MAX_FILE_BYTES = 64 << 20
JPEG_QUALITY = 95
NO_FILE = (errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG)  # a folder, a socket, a name that no file can have
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


class Rejected(ValueError):
    """This picture cannot be packed; the message is the reason that goes to ``quarantine.jsonl``."""


class Unreadable(Rejected):
    """The system could not read the file: no rights, a failing disk, a lost mount, a link that leads nowhere.

    That says nothing about the picture, so the next pack tries it again.
    """


@dataclass(frozen=True)
class Target:
    """What a record must be.

    Args:
        size: pixels a side.
        resize: whether pictures of other sizes are resampled instead of refused.
        encoding: "raw" pixels; "jpeg": JPEG files as they are, others encoded; "jpeg-or-raw": JPEG files as they are,
            others raw, so that nothing is lost.
    """

    size: int
    resize: bool = False
    encoding: str = "raw"


@dataclass
class Chunk:
    """What became of some consecutive candidates: the kept ones' payloads joined, and why the others were refused."""

    blob: bytes = b""
    kept: list[int] = field(default_factory=list)  # position within the chunk
    lengths: list[int] = field(default_factory=list)
    crc32: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    unreadable: set[int] = field(default_factory=set)  # positions in ``refused`` that are to be tried again


def decode_chunk(root: str, paths: list[str], target: Target, paired: bool) -> Chunk:
    """Read and decode ``paths`` below ``root``. Under ``paired`` a refused picture takes its partner with it."""
    read = read_named if paired else read_file
    return collect((partial(read, os.path.join(root, path)) for path in paths), target, paired)


def collect(readers: Iterable[Callable[[], bytes | NDArray[np.uint8]]], target: Target, paired: bool) -> Chunk:
    """Gather a chunk from functions that each return one picture: a file's bytes, or uint8 RGB pixels."""
    chunk, records = Chunk(), []
    for position, read in enumerate(readers):
        try:
            source = read()
            picture = record_of(source, target) if isinstance(source, bytes) else (source.tobytes(), RAW)
        except Rejected as reason:
            chunk.refused.append((position, str(reason)))
            if isinstance(reason, Unreadable):
                chunk.unreadable.add(position)
            continue
        records.append((position, *picture))
    if paired and chunk.refused:
        bad = {position // 2 for position, _ in chunk.refused}
        records = [record for record in records if record[0] // 2 not in bad]
    for position, payload, mode in records:
        chunk.kept.append(position)
        chunk.lengths.append(len(payload))
        chunk.crc32.append(zlib.crc32(payload))
        chunk.modes.append(mode)
    chunk.blob = b"".join([record[1] for record in records])
    return chunk


def read_named(path: str) -> bytes:
    """A picture that a pair list names, as :func:`read_file`.

    A name that leads to nothing is a mistake of the list; the listing notices when the file appears.
    """
    try:
        return read_file(path)
    except Unreadable as reason:
        assert isinstance(reason.__cause__, OSError)
        if reason.__cause__.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.islink(path):
            raise Rejected(str(reason)) from reason
        raise


def read_file(path: str) -> bytes:
    """The whole file.

    Raises:
        Unreadable: the system does not let us.
        Rejected: it is no picture by its length, or no file at all.
    """
    try:
        # O_NONBLOCK: a named pipe among the pictures must not hang the packer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            size = os.fstat(descriptor).st_size
            if size > MAX_FILE_BYTES:
                raise Rejected(f"the file has {size} bytes, more than {MAX_FILE_BYTES}")
            data = os.read(descriptor, size + 1)
            while len(data) < size and (more := os.read(descriptor, size - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except OSError as error:
        kind = Rejected if error.errno in NO_FILE else Unreadable
        raise kind(f"cannot be read: {error.strerror}") from error
    if not data:
        raise Rejected("the file is empty")
    return data


def all_readable(folder: str | os.PathLike[str]) -> bool:
    """Whether the system lets us list all of ``folder`` and begin to read every file in it, whatever it holds."""
    failed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=failed.append):
        for name in names:
            try:
                with open(os.path.join(place, name), "rb") as file:
                    file.read(1)
            except OSError as error:
                failed.append(error)
    return not failed


def record_of(data: bytes, target: Target) -> tuple[bytes, int]:
    """A file's bytes -> (payload, mode). Raises Rejected."""
    is_jpeg = data[:2] == b"\xff\xd8"
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
    if image.shape[:2] != (target.size, target.size):
        image = resized(image, target.size)
    if target.encoding == "jpeg":
        import simplejpeg

        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), JPEG_QUALITY, "RGB", "444"), JPEG
    return image.tobytes(), RAW


def decode(data: bytes, target: Target) -> NDArray[np.uint8]:
    """A picture file's bytes -> uint8 [size, size, 3] RGB. Raises Rejected."""
    payload, _ = record_of(data, Target(target.size, target.resize))
    return np.frombuffer(payload, np.uint8).reshape(target.size, target.size, 3)


def _check_size(width: int, height: int, target: Target) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise Rejected(f"absurd size: the header says {width}x{height} pixels, at most {MAX_PIXELS} are decoded")
    if not target.resize and (width, height) != (target.size, target.size):
        raise Rejected(f"wrong size: {width}x{height}, expected {target.size}x{target.size} (--resize accepts it)")


# JPEG


def jpeg_header(data: bytes) -> tuple[int, int, str]:
    """(width, height, colour space) of a JPEG. Raises Rejected for broken headers and for CMYK."""
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise Rejected(f"not a decodable JPEG: {error}") from error
    if colorspace in ("CMYK", "YCCK"):
        raise Rejected(f"a {colorspace} JPEG has no defined RGB colours without its profile")
    return width, height, colorspace


def _decode_jpeg(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    import simplejpeg

    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        raise Rejected(f"damaged or truncated JPEG: {error}") from error
    if image.shape != (height, width, 3):
        raise Rejected(f"damaged JPEG: it decodes to {image.shape}")
    return image


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation 1..8 of a JPEG, 1 where there is none (Exif 2.32, tag 0x0112)."""
    start = data.find(b"Exif\0\0", 0, 1 << 17)
    if start < 0:
        return 1
    tiff = data[start + 6 : start + 6 + 65536]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    directory = struct.unpack_from(order + "I", tiff, 4)[0]
    if directory + 2 > len(tiff):
        return 1
    entries = struct.unpack_from(order + "H", tiff, directory)[0]
    for entry in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == 0x0112 and kind == 3:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def oriented(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn the stored picture [H, W, 3] upright, as its EXIF orientation asks."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


# PNG, BMP, WebP


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) out of a picture's header, nothing decoded. Raises Rejected for anything else."""
    if data[:2] == b"\xff\xd8":
        return jpeg_header(data)[:2]
    try:
        if data.startswith(PNG_SIGNATURE) and data[12:16] == b"IHDR":
            return struct.unpack_from(">II", data, 16)
        if data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            return width, abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except struct.error as error:
        raise Rejected("the file ends within its header") from error
    raise Rejected("not a JPEG, PNG, WebP or BMP picture")


def _webp_size(data: bytes) -> tuple[int, int]:
    """https://developers.google.com/speed/webp/docs/riff_container, RFC 6386 section 9.1."""
    kind = data[12:16]
    if kind == b"VP8X":
        if struct.unpack_from("<B", data, 20)[0] & 2:
            raise Rejected("an animated WebP is not one picture")
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise Rejected("a WebP file of an unknown kind")


def _check_whole(data: bytes) -> None:
    """OpenCV may return the readable part of a cut or damaged file, so wholeness is judged here."""
    if data.startswith(PNG_SIGNATURE):
        _check_png(data)
    elif data[:2] == b"BM":
        _check_bmp(data)
    elif 8 + struct.unpack_from("<I", data, 4)[0] > len(data):
        raise Rejected("truncated WebP: the file is shorter than it says")


def _check_png(data: bytes) -> None:
    """Every chunk whole and unchanged up to IEND, and as many pixels as the header promises."""
    at, pixels = 8, []
    while True:
        if at + 12 > len(data):
            raise Rejected("truncated PNG: it ends before its IEND chunk")
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise Rejected(f"truncated PNG: it ends within a {kind.decode('latin-1')} chunk")
        if zlib.crc32(data[at + 4 : at + 8 + length]) != struct.unpack_from(">I", data, at + 8 + length)[0]:
            raise Rejected(f"damaged PNG: the checksum of a {kind.decode('latin-1')} chunk is wrong")
        if kind == b"acTL":
            raise Rejected("an animated PNG is not one picture")
        if kind == b"IDAT":
            pixels.append(data[at + 8 : at + 8 + length])
        if kind == b"IEND":
            break
        at += 12 + length
    expected = _png_bytes(data)
    try:
        found = len(zlib.decompressobj().decompress(b"".join(pixels), expected + 1))
    except zlib.error as error:
        raise Rejected(f"damaged PNG: {error}") from error
    if found < expected:
        raise Rejected(f"truncated PNG: {found} bytes of pixels, {expected} expected")


def _png_bytes(data: bytes) -> int:
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if colour not in PNG_CHANNELS:
        raise Rejected(f"damaged PNG: colour type {colour}")
    bits = depth * PNG_CHANNELS[colour]
    if not interlace:
        return int(height * (1 + (width * bits + 7) // 8))
    total = 0
    for y, step_y, x, step_x in ADAM7:
        columns, rows = -(-max(width - x, 0) // step_x), -(-max(height - y, 0) // step_y)
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


def _check_bmp(data: bytes) -> None:
    (offset,) = struct.unpack_from("<I", data, 10)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (0, 3, 6):
        raise Rejected("a run-length coded BMP is not supported")
    if offset + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        raise Rejected("truncated BMP: fewer pixels than its header says")


def _decode_other(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    import cv2

    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the reason is ours to give
    try:
        _check_whole(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, struct.error) as error:
        raise Rejected(f"cannot be decoded: {error}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)  # the caller's process may use OpenCV, too
    if image is None:
        raise Rejected("cannot be decoded")
    if image.dtype != np.uint8 or image.shape not in ((height, width, 3), (width, height, 3)):
        raise Rejected(f"it decodes to {image.shape}, its header says {width}x{height}")
    return np.ascontiguousarray(image[:, :, ::-1])


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The centre square of [H, W, 3], resampled to [size, size, 3]: areas when shrinking, cubic when growing."""
    import cv2

    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side == size:
        return square
    kernel = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (size, size), interpolation=kernel), np.uint8)


def usual_size(root: str, paths: list[str], allowed: tuple[int, ...] | None = None) -> int | None:
    """The side most of these square pictures have (the larger in a tie), among ``allowed`` if given; None for none."""
    sizes: Counter[int] = Counter()
    for path in paths:
        try:
            width, height = picture_size(read_file(os.path.join(root, path)))
        except Rejected:
            continue
        if width == height and (allowed is None or width in allowed):
            sizes[width] += 1
    return max(sizes, key=lambda side: (sizes[side], side)) if sizes else None
