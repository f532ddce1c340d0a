"""Completeness of PNG, BMP and WebP files: OpenCV may return the readable part of a cut or damaged file."""

import struct
import zlib

from hrfr_fast.packing.image_headers import BMP_SIGNATURE, PNG_SIGNATURE
from hrfr_fast.packing.picture_files import Rejected

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> channels
# Interlaced pixels: first row, row step, first column, column step of each pass.
ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


def check_complete(data: bytes) -> None:
    """Raise Rejected where a PNG, BMP or WebP file is cut or damaged."""
    if data.startswith(PNG_SIGNATURE):
        _check_png(data)
    elif data.startswith(BMP_SIGNATURE):
        _check_bmp(data)
    elif 8 + struct.unpack_from("<I", data, 4)[0] > len(data):
        raise Rejected("truncated WebP: the file is shorter than it says")


def _check_png(data: bytes) -> None:
    """Check that every chunk up to IEND is complete and unchanged, and holds the pixels that the header promises."""
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
    """Bytes of the decompressed pixels of a PNG, filter bytes included."""
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
