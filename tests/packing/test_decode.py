import struct
import zlib
from functools import partial

import cv2
import numpy as np
import pytest

from hrfr_fast.format import beton
from hrfr_fast.packing.chunks import decode_chunk, with_bytes
from hrfr_fast.packing.decode import Target, decode, oriented, record_of
from hrfr_fast.packing.image_headers import exif_orientation
from hrfr_fast.packing.picture_files import AT_ONCE, Rejected, read_file

simplejpeg = pytest.importorskip("simplejpeg")

TARGET = Target(36)


def encode(image, extension):
    """An RGB (or grey, RGBA, 16-bit) picture as a file's bytes."""
    swapped = image if image.ndim == 2 else image[..., [2, 1, 0, *range(3, image.shape[2])]]
    done, data = cv2.imencode(extension, np.ascontiguousarray(swapped))
    assert done
    return data.tobytes()


def with_exif(jpeg, orientation, order=">"):
    mark = b"MM" if order == ">" else b"II"
    tiff = mark + struct.pack(order + "HIH", 42, 8, 1) + struct.pack(order + "HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def png(width, height, pixels=b"", depth=8, colour=2):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def animated(still):
    """A PNG of two equal frames: https://www.w3.org/TR/png-3/#apng-frame-based-animation."""
    body = struct.pack(">II", 2, 0)
    control = struct.pack(">I", len(body)) + b"acTL" + body + struct.pack(">I", zlib.crc32(b"acTL" + body))
    return still[:33] + control + still[33:]


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp", ".jpg"])
def test_every_format_decodes_to_what_opencv_sees(make_picture, extension):
    data = encode(make_picture(1, 36), extension)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(decode(data, TARGET).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp", ".jpg"])
def test_a_file_cut_anywhere_is_rejected(make_picture, extension):
    data = encode(make_picture(2, 36), extension)
    for cut in range(0, len(data) - 1, 7):
        with pytest.raises(Rejected):
            decode(data[:cut], TARGET)


KINDS = {
    "grey": lambda p: p[..., 0],
    "alpha": lambda p: np.dstack([p, p[..., 0]]),
    "16 bit": lambda p: p.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_pixel_kinds_become_rgb(make_picture, kind):
    image = make_picture(3, 36)
    expected = np.repeat(image[..., :1], 3, axis=2) if kind == "grey" else image
    assert (decode(encode(KINDS[kind](image), ".png"), TARGET) == expected).all()


def test_a_grey_jpeg_becomes_rgb(make_picture):
    grey = make_picture(3, 36)[..., :1].copy()
    data = simplejpeg.encode_jpeg(grey, 95, "GRAY", "Gray")
    assert np.abs(decode(data, TARGET).astype(int) - grey).max() <= 6


BAD = {
    "bomb": (lambda p: png(60_000, 60_000), "absurd size"),
    "zero": (lambda p: png(0, 36), "absurd size"),
    "short pixels": (lambda p: png(36, 36, bytes(500)), "truncated PNG"),
    "cmyk": (
        lambda p: simplejpeg.encode_jpeg(np.concatenate([p, p[..., :1]], axis=2, dtype=np.uint8).copy("C"), 90, "CMYK"),
        "RGB",
    ),
    "wrong size": (lambda p: encode(p[:30], ".png"), "wrong size: 36x30"),
    "text": (lambda p: b"hello, this is not a picture at all" * 9, "not a JPEG, PNG, WebP or BMP"),
    "jpeg marker alone": (lambda p: b"\xff\xd8", "JPEG"),
    "animated png": (lambda p: animated(encode(p, ".png")), "an animated PNG is not one picture"),
    "flipped png bit": (lambda p: encode(p, ".png")[:-40] + b"x" + encode(p, ".png")[-39:], "damaged PNG"),
    "bmp of endless height": (lambda p: b"BM" + bytes(16) + struct.pack("<ii", 36, -(2**31)) + bytes(40), "absurd"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("resize", [False, True])
def test_bad_pictures_are_rejected_with_the_reason(make_picture, name, resize):
    make, reason = BAD[name]
    if resize and name == "wrong size":
        return
    with pytest.raises(Rejected, match=reason):
        decode(make(make_picture(4, 36)), Target(36, resize=resize))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_exif_orientation_is_honoured_as_opencv_does(make_picture, make_jpeg, orientation, order):
    data = with_exif(make_jpeg(make_picture(5, 36)), orientation, order)
    assert exif_orientation(data) == orientation
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(decode(data, TARGET).astype(int) - expected).max() <= 1


def test_turning_is_exact():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert (oriented(image, 3) == image[::-1, ::-1]).all()
    assert (oriented(image, 6) == np.rot90(image, -1)).all()
    assert (oriented(image, 8) == np.rot90(image)).all()


def test_a_jpeg_passes_through_only_as_it_is(make_picture, make_jpeg):
    data, target = make_jpeg(make_picture(6, 36)), Target(36, resize=True, encoding="jpeg")
    assert record_of(data, target) == (data, beton.JPEG)
    turned = record_of(with_exif(data, 6), target)
    grey = record_of(simplejpeg.encode_jpeg(make_picture(6, 36)[..., :1].copy(), 90, "GRAY", "Gray"), target)
    shrunk = record_of(make_jpeg(make_picture(6, 72)), target)
    for payload, mode in (turned, grey, shrunk):
        assert mode == beton.JPEG and simplejpeg.decode_jpeg_header(payload) == (36, 36, "YCbCr", "444")
    lossless = Target(36, encoding="jpeg-or-raw")
    pixels = make_picture(6, 36)
    assert record_of(encode(pixels, ".png"), lossless) == (pixels.tobytes(), beton.RAW)


def test_resizing_takes_the_centre_square_and_is_antialiased():
    stripes = np.zeros((72, 144, 3), np.uint8)
    stripes[:, 36:108:2] = 254  # in the centre square: lines of one pixel
    stripes[:, 108:] = 255
    shrunk = decode(encode(stripes, ".png"), Target(36, resize=True))
    assert shrunk.shape == (36, 36, 3) and (shrunk == 127).all()


def test_a_rejected_picture_takes_its_partner_along(tmp_path, make_picture, make_jpeg):
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(make_jpeg(make_picture(i, 36)))
    (tmp_path / "3.jpg").write_bytes(b"broken")
    chunk = decode_chunk([partial(read_file, str(tmp_path / f"{i}.jpg")) for i in range(6)], TARGET, paired=True)
    assert chunk.kept == [0, 1, 4, 5] and [position for position, _ in chunk.rejected] == [3]
    assert len(chunk.blob) == sum(chunk.lengths)


def kinds_of_files(make_picture, make_jpeg):
    """Files that are packed, turned, rejected or hold no JPEG."""
    pixels = make_picture(3, 36)
    whole = make_jpeg(pixels)
    return [
        whole,
        with_exif(whole, 6),
        with_exif(whole, 1),
        simplejpeg.encode_jpeg(pixels[..., :1].copy(), 90, "GRAY", "Gray"),
        whole[: len(whole) // 2],
        whole[:200],
        make_jpeg(make_picture(4, 72)),
        make_jpeg(make_picture(4, 20)),
        make_jpeg(make_picture(4, 48)[:27]),  # as many pixels, of another shape
        encode(pixels, ".png"),
        b"broken",
        simplejpeg.encode_jpeg(np.full((36, 36, 4), 90, np.uint8), 90, "CMYK", "444"),
        whole,
    ]


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("room", [0, 2, 100])
def test_where_bytes_go_changes_none_of_them(make_picture, make_jpeg, encoding, resize, room):
    files, target = kinds_of_files(make_picture, make_jpeg), Target(36, resize, encoding)
    readers = [partial(bytes, data) for data in files]
    expected, area = decode_chunk(readers, target, False), memoryview(bytearray(b"\xaa" * (room * 3888)))
    found = with_bytes(decode_chunk(readers, target, False, area), area)
    assert bytes(found.blob) == expected.blob
    for name in ("kept", "lengths", "crc32", "modes", "rejected", "unreadable"):
        assert getattr(found, name) == getattr(expected, name), name
    assert len(expected.kept) == (9 if resize else 6)


@pytest.mark.parametrize("size", [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE, 3 * AT_ONCE + 5])
def test_a_file_of_any_size_is_read_whole(tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert read_file(str(tmp_path / "file")) == content
