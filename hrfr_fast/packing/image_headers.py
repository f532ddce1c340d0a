"""Headers of JPEG, PNG, BMP and WebP files: size, colour space and orientation, without decoding a pixel."""

import struct
from functools import cache

from hrfr_fast.packing.picture_files import Rejected

JPEG_SIGNATURE, PNG_SIGNATURE, BMP_SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of frame headers (ITU-T T.81, table B.1)
SEGMENTS = frozenset(range(0xC0, 0xFF)) - set(range(0xD0, 0xDB))  # markers before a scan that a length follows
EXIF, EXIF_WITHIN = b"Exif\0\0", 1 << 17  # bytes from the start


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a picture by its header. Raises Rejected for anything but these formats."""
    if data.startswith(JPEG_SIGNATURE):
        return jpeg_header(data)[:2]
    try:
        if data.startswith(PNG_SIGNATURE) and data[12:16] == b"IHDR":
            return struct.unpack_from(">II", data, 16)
        if data.startswith(BMP_SIGNATURE):
            width, height = struct.unpack_from("<ii", data, 18)
            return width, abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except struct.error as error:
        raise Rejected("the file ends within its header") from error
    raise Rejected("not a JPEG, PNG, WebP or BMP picture")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Size of a WebP file: https://developers.google.com/speed/webp/docs/riff_container, RFC 6386 section 9.1."""
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


def is_usual_jpeg(data: bytes, size: int) -> bool:
    """Whether a JPEG has size x size pixels, grey or of three colours, in half of the time of :func:`jpeg_header`.

    False also where going from segment to segment leads to no frame header.
    """
    at = 2
    try:
        while data[at] == 0xFF and data[at + 1] in SEGMENTS:
            if data[at + 1] in FRAMES:
                return data[at + 4 : at + 10] in _frames(size)
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    except IndexError:
        pass
    return False


@cache
def _frames(size: int) -> tuple[bytes, ...]:
    """Precision, height, width and number of components, as a frame header has them."""
    side = struct.pack(">2H", size, size)
    return b"\x08" + side + b"\x03", b"\x08" + side + b"\x01"


def has_exif(data: bytes) -> bool:
    """Whether a JPEG may say how it is to be turned."""
    return data.find(EXIF, 0, EXIF_WITHIN) >= 0


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation 1..8 of a JPEG, 1 where there is none (Exif 2.32, tag 0x0112)."""
    start = data.find(EXIF, 0, EXIF_WITHIN)
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
