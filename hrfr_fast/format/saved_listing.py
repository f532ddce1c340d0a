"""``<shard>.sources.gz``: the listing that a shard was packed from, with which the next pack finds what changed."""

import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hrfr_fast.format import beton
from hrfr_fast.format.manifest import entries_of, parts_of
from hrfr_fast.format.names import listing_file
from hrfr_fast.format.quarantine import QUARANTINE
from hrfr_fast.runtime.files import atomic_write
from hrfr_fast.runtime.untrusted import parsed_json

GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"  # deflate, no name, no time, fastest, from no special system
LONGEST_KEY, LONGEST_LINE = 1 << 20, 1 << 16  # bytes: a few kB of deflate may hold gigabytes


def save_listing(path: Path, key: dict[str, Any], shard: str, lines: Iterator[str]) -> None:
    """Write ``key``, the digest of the shard made of it, and the lines; equal content gives equal bytes."""
    with (
        atomic_write(path) as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as file,
    ):
        file.write(json.dumps(key | {"shard": shard}, sort_keys=True).encode() + b"\n")
        while block := list(itertools.islice(lines, 4096)):  # writing line by line takes twice as long
            file.write(os.fsencode("\n".join(block)) + b"\n")


def saved_key(path: Path, shard: str) -> dict[str, Any] | None:
    """The key :func:`save_listing` stored for the shard of this digest.

    None where there is none, where the file is damaged anywhere, or where it was written for another shard.
    """
    try:
        if not _is_whole(path):
            return None
        with gzip.open(path) as file:
            key: dict[str, Any] = parsed_json(file.readline(LONGEST_KEY))
            if not isinstance(key, dict):
                return None
    except (OSError, ValueError, EOFError, zlib.error):
        return None
    return key if key.pop("shard", shard) == shard else None  # Earlier versions did not name the shard.


def _is_whole(path: Path) -> bool:
    """Whether a listing is byte for byte what was written: gzip's own checksum, and nothing before or behind it."""
    inflate = zlib.decompressobj(31)
    with open(path, "rb") as file:
        if file.read(len(GZIP_HEADER)) != GZIP_HEADER:
            return False
        inflate.decompress(GZIP_HEADER)
        while block := file.read(1 << 16):
            inflate.decompress(block)
            if inflate.unused_data:
                return False
    return inflate.eof


def changes(path: Path, lines: Iterator[str]) -> tuple[int, int, int]:
    """Numbers of files (added, removed, changed) since the listing at ``path`` was saved."""
    before = _saved_lines(path)
    added = changed = 0
    for text in lines:
        name, _, rest = os.fsencode(text).partition(b"\t")
        old = before.pop(name, None)
        added += old is None
        changed += old is not None and old != rest
    return added, len(before), changed


def any_unchanged(path: Path, lines: Iterator[str]) -> bool:
    """Whether one of the files in the listing at ``path`` is among ``lines`` as it was."""
    before = _saved_lines(path)
    split = (os.fsencode(text).partition(b"\t") for text in lines)
    return any(before.get(name) == rest for name, _, rest in split)


def _saved_lines(path: Path) -> dict[bytes, bytes]:
    """Name -> the rest of its line in the listing at ``path``; empty where that cannot be read."""
    before: dict[bytes, bytes] = {}
    try:
        with gzip.open(path) as file:
            file.readline(LONGEST_KEY)
            for line in iter(partial(file.readline, LONGEST_LINE), b""):
                name, _, rest = line.rstrip(b"\n").partition(b"\t")
                before[name] = rest
    except (OSError, EOFError, zlib.error):
        pass
    return before


def files_of(content: dict[str, Any]) -> set[str]:
    """Names of all files of the pack with the manifest ``content``, the manifest itself excluded."""
    names = {QUARANTINE}
    for shard, entry in entries_of(content).items():
        names.add(listing_file(shard))
        for part in parts_of(entry):
            path = Path(part["file"])
            names |= {path.name, beton.checksum_path(path).name}
        if entry.get("identities_file"):
            names.add(entry["identities_file"])
    return names
