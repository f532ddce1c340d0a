"""Targets: encoded pictures of every format, and what their headers claim."""

import functools
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.beton import RAW
from hrfr_fast.packing.decode import Target as Form
from hrfr_fast.packing.decode import decode_whole, record_of
from hrfr_fast.packing.picture_files import Rejected
from tools.fuzz_targets.target import ALLOWED, Target

SIDE = 8


@functools.cache
def pictures() -> dict[str, bytes]:
    """Name -> a small picture: each format, and the kinds of it that need care."""
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    rgb = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "jpeg": (rgb, "JPEG", {"quality": 90}),
        "progressive": (rgb, "JPEG", {"progressive": True}),
        "rotated": (rgb, "JPEG", {"exif": turned.tobytes()}),
        "grey": (rgb.convert("L"), "JPEG", {}),
        "cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "png": (rgb, "PNG", {}),
        "palette": (rgb.quantize(4), "PNG", {}),
        "alpha": (rgb.convert("RGBA"), "PNG", {}),
        "16-bit": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "bmp": (rgb, "BMP", {}),
        "webp": (rgb, "WEBP", {"lossless": True}),
        "lossy": (rgb, "WEBP", {"quality": 60}),
        "animated webp": (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "animated png": (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)]}),
    }
    found = {name: _saved(image, kind, options) for name, (image, kind, options) in kinds.items()}
    return found | {
        "png of 65535": png_claiming(65535, 65535),
        "bmp of 65535": found["bmp"][:18] + struct.pack("<ii", 65535, -65535) + found["bmp"][26:],
        "interlaced": _interlaced(pixels),
    }


def _saved(image: Any, kind: str, options: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width: int, height: int, interlace: int = 0, rows: bytes = b"") -> bytes:
    """An 8-bit RGB PNG whose header claims any size, with the pixels ``rows``, filter bytes included."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def _interlaced(pixels: NDArray[np.uint8]) -> bytes:
    from hrfr_fast.packing.image_checks import ADAM7

    rows = b""
    for y, step_y, x, step_x in ADAM7:
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[y::step_y, x::step_x])
    return png_claiming(SIDE, SIDE, 1, rows)


def _picture(content: bytes, _folder: Path) -> None:
    """Every way in which a picture is decoded; the last error is raised again, so that one good way is not enough."""
    refused: Exception | None = None
    ways = [Form(SIDE, resize, encoding) for resize in (False, True) for encoding in ("raw", "jpeg", "jpeg-or-raw")]
    for form in ways:
        try:
            payload, mode = record_of(content, form)
            assert mode != RAW or len(payload) == 3 * SIDE * SIDE
        except ALLOWED as error:
            refused = error
    try:
        image = decode_whole(content)
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    except Rejected as error:
        refused = error
    if refused:
        raise refused


def _seeds(_folder: Path) -> Sequence[bytes]:
    return list(pictures().values())


TARGETS = (Target("picture", _picture, _seeds),)
