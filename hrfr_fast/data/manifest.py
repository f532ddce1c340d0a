"""``manifest.json``: what a packed directory holds. Written last, it is what makes a pack exist."""

import hashlib
import json
from pathlib import Path
from typing import Any

from hrfr_fast.data.writer import ShardInfo
from hrfr_fast.errors import DamageFound, UsageError
from hrfr_fast.files import write_json

FORMAT, VERSION = "hrfr-fast packed", 1
NAME = "manifest.json"
WORK = ".packing"  # unfinished work, inside the output directory
SPLITS = ("lowres", "highres", "highres_eval")


def split_entry(
    name: str, info: ShardInfo, *, size: int, identity_names: list[str], source: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest's account of one split. ``source``: where its pictures came from (fingerprint, settings, counts)."""
    return {
        **_shard(f"{name}.beton", info),
        "size": size,
        "identities": len(identity_names),
        "identity_names": identity_names,
        "source": source or {},
    }


def pair_entry(
    name: str,
    info: ShardInfo,
    *,
    size: int,
    kind: str = "test",
    identities_digest: str | None = None,
    identity_coverage: float = 0.0,
    overlap: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest's account of one pair set of ``info.samples / 2`` pairs.

    Args:
        kind: "test" or "development".
        identities_digest: SHA-256 of ``pairs-<name>.identities.npy`` (int32 [2P]), None where there is none.
        identity_coverage: share of the pictures whose identity is known, 0..1.
        overlap: training split -> how many of the pictures were found in it.
    """
    return {
        **_shard(f"pairs-{name}.beton", info),
        "size": size,
        "pairs": info.samples // 2,
        "kind": kind,
        "identities_file": f"pairs-{name}.identities.npy" if identities_digest else None,
        "identities_digest": identities_digest,
        "identity_coverage": identity_coverage,
        "overlap": overlap or {},
        "source": source or {},
    }


def _shard(file: str, info: ShardInfo) -> dict[str, Any]:
    return {
        "file": file,
        "samples": info.samples,
        "bytes": info.bytes,
        "digest": info.digest,
        "checksums_digest": info.checksums_digest,
        "encoding": info.encoding,
    }


def build(splits: dict[str, Any], pairs: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    """The whole manifest. Same shards and provenance, same content: it holds no time and no machine."""
    splits = {name: splits[name] for name in SPLITS if name in splits}
    pairs = {name: pairs[name] for name in sorted(pairs)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "digest": digest_of(splits, pairs),
        "splits": splits,
        "pairs": pairs,
        "provenance": provenance,
    }


def digest_of(splits: dict[str, Any], pairs: dict[str, Any]) -> str:
    """SHA-256 over every shard's digest, and every identity table's, with the names they go by."""
    lines = [f"{entry['file']} {entry['digest']}" for entry in [*splits.values(), *pairs.values()]]
    lines += [f"{entry['identities_file']} {entry['identities_digest']}" for entry in pairs.values()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def write(directory: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest`` into ``directory`` atomically: from then on the directory is a finished pack."""
    write_json(Path(directory) / NAME, manifest)


def read(directory: Path) -> dict[str, Any]:
    """The manifest of a finished pack.

    Raises:
        UsageError: no finished pack here, or one of another format version; names the command that makes it.
        DamageFound: the file is there and is not what :func:`build` returns.
    """
    directory = Path(directory)
    path = directory / NAME
    if (directory / WORK / NAME).exists():
        raise UsageError(
            f"{directory}: packing was interrupted while the finished files were moved into place;"
            f" run the same `hrfr-fast pack DATA --out {directory}` again to complete it (it takes a moment)"
        )
    if not path.exists():
        unfinished = " (packing was begun and is not finished)" if (directory / WORK).exists() else ""
        raise UsageError(
            f"{directory}: no {NAME} here{unfinished}; make it with `hrfr-fast pack DATA --out {directory}`"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}")
        if manifest["version"] != VERSION:
            raise UsageError(
                f"{path}: format version {manifest['version']}, this hrfr-fast reads {VERSION}; pack again"
            )
        if manifest["digest"] != digest_of(manifest["splits"], manifest["pairs"]):
            raise ValueError("its digest does not match its shards")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageFound(f"{path}: not a manifest of packed faces ({error!r}); pack again") from error
    return manifest
