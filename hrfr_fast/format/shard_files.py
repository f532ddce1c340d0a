"""The files of a shard that a manifest entry names: whether they are there and belong together."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrfr_fast.format import beton, manifest
from hrfr_fast.runtime.errors import DamageFound, UsageError


def is_plain(name: object) -> bool:
    """Whether ``name`` is the name of a file and leads to no other directory."""
    return isinstance(name, str) and Path(name).name == name and not name.startswith(".") and "\0" not in name


def plain_file(directory: Path, name: str) -> Path:
    """``directory / name`` for a file name in a manifest. Raises DamageFound where it leads to another directory."""
    if not is_plain(name):
        raise DamageFound(
            f"{directory / manifest.NAME}: {name!r} is not a file name in this directory; {manifest.repair(directory)}"
        )
    return directory / name


def check_shard_files(directory: Path, entry: Mapping[str, Any]) -> list[Path]:
    """Check that the files of one shard are there, have the recorded size and belong together; returns their paths.

    Raises UsageError and DamageFound as ``reader.open_packed`` does.
    """
    return [_check_part(directory, part) for part in manifest.parts_of(entry)]


def _check_part(directory: Path, part: Mapping[str, Any]) -> Path:
    """Check one ``.beton`` and the checksums beside it; returns its path."""
    path = plain_file(directory, part["file"])
    checksums = beton.checksum_path(path)
    for file in (path, checksums):
        if not file.is_file():
            raise UsageError(f"{file} is missing; {manifest.repair(directory)}")
    size = os.path.getsize(path)
    if size != part["bytes"]:
        raise DamageFound(f"{path}: {size} bytes, the manifest says {part['bytes']}; {manifest.repair(directory)}")
    binding = beton.binding_of(checksums.read_bytes()).hex()
    try:
        header = beton.read_header(path)
    except DamageFound as error:
        raise DamageFound(f"{error}; {manifest.repair(directory)}") from error
    if binding != part["checksums_digest"] or header.binding.hex() != binding:
        raise DamageFound(
            f"{path}: the shard, {checksums.name} and {manifest.NAME} do not belong together;"
            f" {manifest.repair(directory)}"
        )
    return path
