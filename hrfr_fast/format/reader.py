"""Reading packed faces: memory-mapped shards behind a manifest.

Opening reads the manifest, the shards' headers and their checksum files; pixels are only ever touched when asked for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format import manifest
from hrfr_fast.format.alignment_record import notes_of
from hrfr_fast.format.names import pair_shard
from hrfr_fast.format.pair_defects import PairDefects
from hrfr_fast.format.shard_files import check_shard_files, plain_file
from hrfr_fast.format.split import Part as Part
from hrfr_fast.format.split import Split as Split
from hrfr_fast.runtime.errors import DamageFound, UsageError
from hrfr_fast.runtime.untrusted import array_of


@dataclass(frozen=True)
class PairSet:
    """P pairs of pictures for verification: records 2i and 2i+1 of ``split`` are pair i."""

    name: str
    kind: str  # "test" or "development"
    split: Split
    identities_path: Path | None
    identity_coverage: float  # share of the pictures whose identity is known, 0..1
    overlap: Mapping[str, Any]  # training split -> how many of the pictures were found in it
    defects: PairDefects = field(default_factory=PairDefects)
    notes: tuple[str, ...] = ()  # sentences to print beside its numbers
    identities_digest: str | None = None  # SHA-256 of the file of identities, where that is known

    @cached_property
    def same(self) -> NDArray[np.bool_]:
        """bool [P]: whether pair i shows one person."""
        labels = self.split.labels
        if len(labels) % 2 or (labels[0::2] != labels[1::2]).any():
            raise DamageFound(f"{self.split.path}: its records are not pairs; {self.split.advice}")
        return np.asarray(labels[0::2] == 1)

    @cached_property
    def identities(self) -> NDArray[np.int32] | None:
        """int32 [2P]: number of the person each picture shows, the unit of the bootstrap; None where none is known."""
        if self.identities_path is None:
            return None
        try:
            content = self.identities_path.read_bytes()
            if self.identities_digest not in (None, hashlib.sha256(content).hexdigest()):
                raise ValueError("it does not match its digest")
            identities = array_of(content)
        except (OSError, ValueError) as error:
            raise DamageFound(f"{self.identities_path}: {error}; {self.split.advice}") from error
        if identities.shape != (self.split.samples,) or identities.dtype != np.int32:
            raise DamageFound(f"{self.identities_path}: expected int32 [{self.split.samples}]; {self.split.advice}")
        return np.asarray(identities)

    def __len__(self) -> int:
        return self.split.samples // 2


@dataclass(frozen=True)
class Packed:
    """A packed directory. ``digest`` changes whenever any stored picture, label or identity does."""

    path: Path
    manifest: dict[str, Any] = field(repr=False)
    splits: dict[str, Split]
    pairs: dict[str, PairSet]

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all shards."""
        return str(self.manifest["digest"])


def open_packed(path: str | Path) -> Packed:
    """Open the output of ``hrfr-fast pack`` (or of ``synth --packed``).

    Returns:
        The directory: its ``splits`` and ``pairs`` by name, memory-mapped, and its ``digest``.

    Raises:
        UsageError: nothing packed here, or something is missing; says which command makes it.
        DamageFound: a file does not fit the manifest: another size, or tables of another shard.
    """
    path = Path(path)
    content = manifest.read(path)
    try:
        splits = {name: split_of(path, name, entry) for name, entry in content["splits"].items()}
        pairs = {name: pair_set_of(path, name, entry) for name, entry in content["pairs"].items()}
        notes = notes_of(content["provenance"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DamageFound(
            f"{path / manifest.NAME}: an entry is incomplete ({error!r}); {manifest.repair(path)}"
        ) from error
    return Packed(path, content, splits, {name: replace(one, notes=notes) for name, one in pairs.items()})


def split_of(directory: Path, name: str, entry: Mapping[str, Any]) -> Split:
    """The split of a manifest entry, after :func:`check_shard_files`."""
    paths = check_shard_files(directory, entry)
    names = list(entry["identity_names"])
    several = [
        Part(path, part["samples"], part.get("tables_digest", ""))
        for path, part in zip(paths, manifest.parts_of(entry), strict=True)
    ]
    return Split(
        name,
        paths[0],
        entry["size"],
        entry["samples"],
        len(names),
        entry["encoding"],
        names,
        tuple(several) if "files" in entry else (),
        entry.get("tables_digest", ""),
    )


def pair_set_of(directory: Path, name: str, entry: Mapping[str, Any]) -> PairSet:
    """The pair set of a manifest entry, after :func:`check_shard_files`."""
    (path,) = check_shard_files(directory, entry)
    split = Split(
        pair_shard(name), path, entry["size"], entry["samples"], 2, entry["encoding"],
        tables_digest=entry.get("tables_digest", ""),
    )  # fmt: skip
    identities = plain_file(directory, entry["identities_file"]) if entry["identities_file"] else None
    if identities is not None and not identities.is_file():
        raise UsageError(f"{identities} is missing; {manifest.repair(directory)}")
    defects = PairDefects.of_entry(entry)
    return PairSet(
        name, entry["kind"], split, identities, entry["identity_coverage"], entry["overlap"], defects,
        identities_digest=entry["identities_digest"],
    )  # fmt: skip
