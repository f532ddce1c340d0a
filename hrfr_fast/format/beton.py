"""FFCV's ``.beton`` file format, version 2: dtypes, layout, and validation of a file's header and tables.

Source: ``ffcv/types.py``, ``ffcv/fields/rgb_image.py`` and ``ffcv/memory_allocator.py`` of libffcv/ffcv. Everything
is little-endian::

    header 24 B | 2 field descriptors of 1041 B | metadata rows | zeros up to a page | data pages | allocation table

Our files have two fields, ``image`` (RGBImage) and ``label`` (Int). A record never straddles two pages. The metadata
region may be larger than ``num_samples`` rows: space is reserved for every candidate picture, so that a rejected
one moves no page. FFCV ignores the 1,024 argument bytes of both fields; the image field's first 32 hold the SHA-256 of
the checksum file beside it, which ties the two files together.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.errors import DamageFound

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

VERSION = 2
JPEG, RAW = 0, 1
MODE_NAMES = {JPEG: "jpeg", RAW: "raw"}
TYPE_INT, TYPE_RGB_IMAGE = 1, 2
FIELDS = (("image", TYPE_RGB_IMAGE), ("label", TYPE_INT))
PAGE_SIZE = 8 << 20

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "u1", (16,)), ("arguments", "u1", (1024,))])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
METADATA = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
METADATA_START = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
BINDING_BYTES = 32

assert (HEADER.itemsize, FIELD.itemsize, METADATA.itemsize, ALLOCATION.itemsize) == (24, 1041, 24, 24)


def data_start(capacity: int, page_size: int) -> int:
    """Byte offset of the first page of a file with room for ``capacity`` metadata rows."""
    return -(-(METADATA_START + capacity * METADATA.itemsize) // page_size) * page_size


def record_offsets(lengths: NDArray[np.int64], page_size: int, position: int) -> NDArray[np.int64]:
    """Byte offset of each record when records of ``lengths`` [N] follow one another greedily from ``position``.

    A record that does not fit into what is left of a page starts the next page. Pages lie on multiples of
    ``page_size``. The offsets depend on the lengths alone, so an interrupted file continues identically.

    Raises:
        ValueError: a record is empty or longer than a page.
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > page_size):
        raise ValueError(f"record lengths must be within 1..{page_size} bytes, the page size")
    offsets = np.empty(len(lengths), np.int64)
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        room = page_size - position % page_size
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + room, side="right"))
        offsets[first:last] = position + (ends[first:last] - lengths[first:last]) - before
        if last < len(lengths):
            position = (position // page_size + 1) * page_size if last > first or room < page_size else position
        first = last
    return offsets


def header_bytes(samples: int, page_size: int, alloc_table_ptr: int, binding: bytes) -> bytes:
    """The header and both field descriptors. ``binding``: the 32-byte SHA-256 of the checksum file."""
    header = np.array((VERSION, len(FIELDS), page_size, samples, alloc_table_ptr), HEADER)
    fields = np.zeros(len(FIELDS), FIELD)
    for field, (name, type_id) in zip(fields, FIELDS, strict=True):
        field["type_id"] = type_id
        field["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
    fields[0]["arguments"][:BINDING_BYTES] = np.frombuffer(binding, np.uint8)
    return header.tobytes() + fields.tobytes()


@dataclass(frozen=True)
class Header:
    """Contents of the first 2,106 bytes of a file, checked against its size."""

    samples: int
    page_size: int
    alloc_table_ptr: int
    binding: bytes


def read_header(path: Path) -> Header:
    """Read and validate the header. Raises DamageFound saying what does not fit."""
    with open(path, "rb") as file:
        head = file.read(METADATA_START)
        size = os.fstat(file.fileno()).st_size
    if len(head) < METADATA_START:
        raise DamageFound(f"{path}: {size} bytes are too few for a .beton header of {METADATA_START}")
    header = np.frombuffer(head, HEADER, 1)[0]
    fields = np.frombuffer(head, FIELD, len(FIELDS), HEADER.itemsize)
    page_size, samples = int(header["page_size"]), int(header["num_samples"])
    table = int(header["alloc_table_ptr"])
    found = tuple((bytes(field["name"]).rstrip(b"\0").decode("latin-1"), int(field["type_id"])) for field in fields)
    if int(header["version"]) != VERSION or int(header["num_fields"]) != len(FIELDS) or found != FIELDS:
        raise DamageFound(f"{path}: not a version {VERSION} .beton file with the fields 'image' and 'label'")
    if page_size == 0 or page_size & (page_size - 1):
        raise DamageFound(f"{path}: the page size {page_size} is not a power of two")
    if samples > size // ALLOCATION.itemsize or table + samples * ALLOCATION.itemsize != size:
        raise DamageFound(
            f"{path}: {samples} records and an allocation table at byte {table} do not fit a file of {size} bytes"
            " (truncated or overwritten)"
        )
    if data_start(samples, page_size) > table:
        raise DamageFound(f"{path}: the allocation table at byte {table} lies inside the metadata")
    return Header(samples, page_size, table, fields[0]["arguments"][:BINDING_BYTES].tobytes())


@dataclass(frozen=True)
class Tables:
    """Place, length, mode and label of each of the N records of a validated file. Arrays are copies."""

    size: int
    page_size: int
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    modes: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_tables(path: Path, data: NDArray[np.uint8], digest: str = "") -> Tables:
    """Metadata and allocation table of ``path``, whose bytes ``data`` maps. Raises DamageFound where they are wrong.

    ``digest``: the ``tables_digest`` of the day the file was written; "" where that is not known.
    """
    header = read_header(path)
    n = header.samples
    metadata = np.frombuffer(data, METADATA, n, METADATA_START)
    allocation = np.frombuffer(data, ALLOCATION, n, header.alloc_table_ptr)
    image = metadata["image"]
    offsets, lengths = allocation["ptr"].astype(np.int64), allocation["size"].astype(np.int64)
    modes = image["mode"].copy()
    size = int(image["width"][0]) if n else 0

    def refuse(wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            raise DamageFound(f"{path}: record {int(wrong.argmax())}: {what}")

    refuse(allocation["sample_id"] != np.arange(n, dtype=np.uint64), "the allocation table is out of order")
    refuse(image["data_ptr"] != allocation["ptr"], "metadata and allocation table disagree on where it lies")
    refuse((image["width"] != size) | (image["height"] != size), f"it is not {size}x{size} as the first one is")
    refuse((modes != RAW) & (modes != JPEG), "neither raw nor JPEG")
    refuse((lengths < 1) | (lengths > header.page_size), "its length is not within 1..page size")
    refuse((modes == RAW) & (lengths != 3 * size * size), f"{size}x{size} raw pixels take {3 * size * size} bytes")
    first, ends = data_start(n, header.page_size), offsets + lengths
    refuse((offsets < first) | (ends > header.alloc_table_ptr), "it lies outside the data pages")
    refuse(offsets // header.page_size != (ends - 1) // header.page_size, "it straddles two pages")
    refuse(np.concatenate([[False], offsets[1:] < ends[:-1]]) if n else np.zeros(0, bool), "it overlaps the one before")
    if digest and digest != tables_digest(data[:METADATA_START].tobytes(), metadata.data, allocation.data):
        raise DamageFound(f"{path}: its tables (places and labels of the records) do not match their digest")
    return Tables(size, header.page_size, offsets, lengths, modes, metadata["label"].copy())


def tables_digest(head: bytes, metadata: "Buffer", allocation: "Buffer") -> str:
    """SHA-256 of all of a file but its pages: what decides where records lie and whose they are.

    Args:
        head: header and field descriptors.
        metadata: the rows of the N records, without the zeros behind them.
        allocation: the allocation table.
    """
    digest = hashlib.sha256(head)
    digest.update(metadata)
    digest.update(allocation)
    return digest.hexdigest()


def encoding_of(modes: NDArray[np.uint8]) -> str:
    """ "raw", "jpeg", or "mixed" where records of both ``modes`` are there; uint8 [N], N >= 1."""
    raw = modes == RAW
    return MODE_NAMES[RAW] if raw.all() else "mixed" if raw.any() else MODE_NAMES[JPEG]


def joined(tables: Sequence[Tables], begins: NDArray[np.int64]) -> Tables:
    """The tables of files that lie one after the other, each from its ``begins`` (int64 [files], bytes) on."""
    return Tables(
        tables[0].size,
        tables[0].page_size,
        np.concatenate([part.offsets + begin for part, begin in zip(tables, begins, strict=True)]),
        np.concatenate([part.lengths for part in tables]),
        np.concatenate([part.modes for part in tables]),
        np.concatenate([part.labels for part in tables]),
    )


def checksum_path(path: Path) -> Path:
    """``lowres.beton`` -> ``lowres.crc32``: one little-endian CRC-32 (zlib's) a record."""
    return path.with_suffix(".crc32")


def binding_of(checksums: bytes) -> bytes:
    """SHA-256 of the content of a checksum file, which the image field's arguments hold."""
    return hashlib.sha256(checksums).digest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as ``sha256sum`` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
