"""Targets: checkpoints, ours and public ones, whose checksums fit, whatever they say, and checksums that say anything.

A checksum refuses a mutated file before anything behind it is reached. So these targets compute the checksums anew,
where the input has a place for them; one turns this round and asserts that no change of a sealed file is read.
"""

import functools
import io
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from hrfr_fast.model import sealed_files
from hrfr_fast.model.checkpoint import FORMAT, load_module, load_state, load_tensor, read_metadata
from hrfr_fast.model.row_files import read_rows, write_tensors
from hrfr_fast.model.sealed_files import read_header
from tools.fuzz_targets.models import METADATA, _checkpoint, _pickled, _translated, _used
from tools.fuzz_targets.target import ALLOWED, Target, written

BLOCK = 16
"""Bytes for each checksum, in place of 16 MB: small files have several blocks."""
NAME = "last.safetensors"
_DIGITS = re.compile(rb'"crc32": ?"([^"]*)"')


@contextmanager
def _small_blocks() -> Iterator[None]:
    with mock.patch.object(sealed_files, "BLOCK", BLOCK):
        yield


@functools.cache
def _sealed() -> bytes:
    """A head of three rows and something that comes before it."""
    with tempfile.TemporaryDirectory() as place, _small_blocks():
        tensors = {"head.weight": torch.arange(6.0).view(3, 2), "head.bias": torch.ones(3), "a": torch.arange(5)}
        write_tensors(Path(place) / NAME, tensors, {"format": FORMAT, "hrfr": json.dumps(METADATA)})
        return (Path(place) / NAME).read_bytes()


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Header and tensors of a file, however long it claims the header to be."""
    length = min(int.from_bytes(content[:8], "little"), max(0, len(content) - 8))
    return content[8 : 8 + length], content[8 + length :]


def _with_digits(header: bytes, tensors: bytes, digits: bytes) -> bytes:
    """A file with these digits in the place of its checksums, where the header has one."""
    place = _DIGITS.search(header)
    if place is not None:
        header = header[: place.start(1)] + digits + header[place.end(1) :]
    return struct.pack("<Q", len(header)) + header + tensors


def resealed(content: bytes) -> bytes:
    """The file with a length and checksums that fit header and tensors, as a writer with bad intentions makes it."""
    header, tensors = _parts(content)
    blocks = [tensors[at : at + BLOCK] for at in range(0, len(tensors), BLOCK)]
    unsealed = _parts(_with_digits(header, tensors, b"0" * 8 * (1 + len(blocks))))[0]
    found = [zlib.crc32(unsealed), *map(zlib.crc32, blocks)]
    return _with_digits(header, tensors, "".join(f"{one:08x}" for one in found).encode())


def _read(path: Path) -> None:
    """Everything that reads a part of a checkpoint, each for itself."""
    for step in (
        lambda: read_metadata(path),
        lambda: read_rows(path, "head.weight", range(1, 3)),
        lambda: read_rows(path, "head.weight", range(3)),
        lambda: load_module(path, "head", nn.Linear(2, 3)),
        lambda: load_tensor(path, "head.weight"),
    ):
        with suppress(*ALLOWED):
            step()


def _rows(content: bytes, folder: Path) -> None:
    with _small_blocks():
        _read(written(folder, NAME, resealed(content)))


def _header(content: bytes, folder: Path) -> None:
    """The input is the header alone, in front of good tensors."""
    tensors = _parts(_sealed())[1]
    with _small_blocks():
        _read(written(folder, NAME, resealed(struct.pack("<Q", len(content)) + content + tensors)))


def _tensors(content: bytes, folder: Path) -> None:
    """The input describes the tensors: a JSON object; metadata, their end and checksums are good ones."""
    try:
        entries = json.loads(content)
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return
    size = max(ends, default=0)
    if not 0 <= size <= 1 << 16:
        return
    entries["__metadata__"] = {"format": FORMAT, "hrfr": json.dumps(METADATA), sealed_files.KEY: ""}
    header = json.dumps(entries).encode()
    with _small_blocks():
        _read(written(folder, NAME, resealed(struct.pack("<Q", len(header)) + header + bytes(size))))


def _checksums(content: bytes, folder: Path) -> None:
    """The input stands in the place of the checksums, and the file's other bytes are good."""
    with _small_blocks():
        _read(written(folder, NAME, _with_digits(*_parts(_sealed()), content)))


def _damage(content: bytes, folder: Path) -> None:
    """A changed file is refused, or what is read of it is what was written: nothing else comes through."""
    path = written(folder, NAME, content)
    with _small_blocks(), open(path, "rb") as file:
        header = read_header(file, path)
        if header.checksums is None:  # their place has another name now: read as a file of an earlier version
            return
        found = header.read(file, 0, header.size)
    assert bytes(found) == _parts(_sealed())[1], "other bytes were read than were written"


def _network(content: bytes, folder: Path) -> None:
    """A whole checkpoint with a network, sealed anew, as `evaluate` reads it."""
    path = written(folder, NAME, resealed(content))
    with _small_blocks():
        _used(path)


@functools.cache
def _zip_parts() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_pickled()[0])) as file:
        return {part.filename: file.read(part) for part in file.infolist()}


def _pickle(content: bytes, folder: Path) -> None:
    """The input is the pickle in a file of torch.save, beside good tensors, under checksums that fit."""
    parts, anew = _zip_parts(), io.BytesIO()
    with zipfile.ZipFile(anew, "w") as file:
        for name, good in parts.items():
            file.writestr(name, content if name.endswith("/data.pkl") else good)
    path = written(folder, "public.pth", anew.getvalue())
    with suppress(*ALLOWED):
        _translated(path)
    load_state(path, torch.device("cpu"))


def _described(_folder: Path) -> Sequence[bytes]:
    header = json.loads(_parts(_sealed())[0])
    del header["__metadata__"]
    return [json.dumps(header).encode()]


TARGETS = (
    Target("sealed-rows", _rows, lambda _folder: [_sealed()]),
    Target("sealed-header", _header, lambda _folder: [_parts(_sealed())[0]]),
    Target("sealed-tensors", _tensors, _described),
    Target("sealed-checksums", _checksums, lambda _folder: [_DIGITS.findall(_parts(_sealed())[0])[0]]),
    Target("sealed-damage", _damage, lambda _folder: [_sealed()]),
    Target("sealed-pickle", _pickle, lambda _folder: [next(p for n, p in _zip_parts().items() if n.endswith(".pkl"))]),
    Target("sealed-network", _network, lambda _folder: [resealed(_checkpoint())]),
)
