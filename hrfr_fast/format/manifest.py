"""``manifest.json``: the contents of a packed directory. It is written last; without it there is no pack."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrfr_fast.format.manifest_entries import check_entries
from hrfr_fast.format.names import SPLITS, identities_file, pair_shard
from hrfr_fast.format.writer import ShardInfo
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.words import counted

FORMAT, VERSION = "hrfr-fast packed", 1
WITH_PARTS = 2  # the version where a split has several files, which readers of version 1 cannot take
NAME = "manifest.json"
WORK = ".packing"  # unfinished work, inside the output directory
MOST_BYTES = 1 << 31  # of 10 million people with names of 50 bytes it takes a quarter
CHECKSUM = "checksum"  # of everything else in the file; manifests of earlier versions have none


def split_entry(
    name: str, info: ShardInfo, *, size: int, identity_names: list[str], source: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest entry of one split. ``source``: where its pictures came from (fingerprint, settings, counts)."""
    return {
        **part_entry(f"{name}.beton", info),
        "size": size,
        "identities": len(identity_names),
        "identity_names": identity_names,
        "source": source or {},
    }


def divided_entry(
    parts: Sequence[dict[str, Any]], *, size: int, identity_names: list[str], source: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest entry of a split in several files.

    Args:
        parts: what :func:`part_entry` gave for each, in the order of their records.
        size, identity_names, source: as in :func:`split_entry`.
    """
    encodings = {part["encoding"] for part in parts}
    lines = [f"{part['file']} {part['digest']}" for part in parts]
    return {
        "files": list(parts),
        "samples": sum(part["samples"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "encoding": encodings.pop() if len(encodings) == 1 else "mixed",
        "size": size,
        "identities": len(identity_names),
        "identity_names": identity_names,
        "source": source or {},
    }


def parts_of(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The files of a shard, each with its name, samples, bytes, digests and encoding; one but for a divided split."""
    return entry.get("files") or [entry]


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
    """The manifest entry of one pair set of ``info.samples / 2`` pairs.

    Args:
        kind: "test" or "development".
        identities_digest: SHA-256 of ``pairs-<name>.identities.npy`` (int32 [2P]), None where there is none.
        identity_coverage: share of the pictures whose identity is known, 0..1.
        overlap: training split -> how many of the pictures were found in it.
    """
    return {
        **part_entry(f"{pair_shard(name)}.beton", info),
        "size": size,
        "pairs": info.samples // 2,
        "kind": kind,
        "identities_file": identities_file(pair_shard(name)) if identities_digest else None,
        "identities_digest": identities_digest,
        "identity_coverage": identity_coverage,
        "overlap": overlap or {},
        "defects": {},
        "source": source or {},
    }


def part_entry(file: str, info: ShardInfo) -> dict[str, Any]:
    """Name, size and digests of one file."""
    return {
        "file": file,
        "samples": info.samples,
        "bytes": info.bytes,
        "digest": info.digest,
        "checksums_digest": info.checksums_digest,
        "tables_digest": info.tables_digest,
        "encoding": info.encoding,
    }


def build(
    splits: dict[str, Any], pairs: dict[str, Any], provenance: dict[str, Any], quarantine_digest: str | None = None
) -> dict[str, Any]:
    """A whole manifest. Equal shards and provenance give equal content: it names no time and no machine.

    ``quarantine_digest``: SHA-256 of ``quarantine.jsonl``, None where there is no such file.
    """
    splits = {name: splits[name] for name in SPLITS if name in splits}
    pairs = {name: pairs[name] for name in sorted(pairs)}
    return {
        "format": FORMAT,
        "version": WITH_PARTS if any("files" in entry for entry in splits.values()) else VERSION,
        "digest": digest_of(splits, pairs),
        "splits": splits,
        "pairs": pairs,
        **({"quarantine_digest": quarantine_digest} if quarantine_digest else {}),
        "provenance": provenance,
    }


def digest_of(splits: dict[str, Any], pairs: dict[str, Any]) -> str:
    """SHA-256 over the names and digests of all shards and of all files of identities."""
    shards = [*splits.values(), *pairs.values()]
    lines = [f"{part['file']} {part['digest']}" for entry in shards for part in parts_of(entry)]
    lines += [f"{entry['identities_file']} {entry['identities_digest']}" for entry in pairs.values()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` (JSON values) with the SHA-256 of it under :data:`CHECKSUM`."""
    return {**content, CHECKSUM: _checksum(content)}


def without_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`with_checksum` was given. Raises ValueError where a checksum is there and does not fit."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    if CHECKSUM in content and content[CHECKSUM] != _checksum(rest):
        raise ValueError("its content does not match its checksum")
    return rest


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(directory: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest`` into ``directory`` atomically: from then on the directory is a finished pack."""
    write_json(Path(directory) / NAME, with_checksum(manifest))


def read(directory: Path) -> dict[str, Any]:
    """The manifest of a finished pack.

    Raises:
        UsageError: no finished pack here, or one of another format version; names the command that makes it.
        DamageFound: the file is there and is not what :func:`build` returns.
    """
    directory = Path(directory)
    path = directory / NAME
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; give the packed directory, the one that holds {NAME}")
    if (directory / WORK / NAME).exists():
        raise UsageError(
            f"{directory}: packing was interrupted while the finished files were moved into place;"
            f" run the same {command(directory)} again to complete it (it takes a moment)"
        )
    if not path.exists():
        raise UsageError(_nothing_packed(directory))
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise ValueError(f"no file, or one of more than {MOST_BYTES:,} bytes")
        manifest = without_checksum(parsed_json(path.read_bytes()))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}")
        if manifest["version"] not in (VERSION, WITH_PARTS):
            raise UsageError(
                f"{path}: format version {manifest['version']}, this hrfr-fast reads {VERSION} and {WITH_PARTS};"
                f" {command(directory)} makes it anew"
            )
        if manifest["digest"] != digest_of(manifest["splits"], manifest["pairs"]):
            raise ValueError("its digest does not match its shards")
        check_entries(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageFound(
            f"{path}: not a manifest of packed faces ({error}); {command(directory)}, with the flags it was packed"
            " with, makes it anew"
        ) from error
    return manifest


def _nothing_packed(directory: Path) -> str:
    """Message about a directory that holds no finished pack: what it is, and what to do."""
    if not directory.exists():
        return f"{directory}: no such directory; make it with {command(directory)}"
    if (directory / "checkpoints").is_dir():
        return f"{directory} is the directory of a training run, not packed faces: give what `hrfr-fast pack` wrote"
    if any((directory / name).is_dir() for name in SPLITS):
        return (
            f"{directory} is a data tree, not packed faces: run `hrfr-fast pack {shlex.quote(str(directory))} --out"
            " packed`, then give packed instead (to train: --data packed)"
        )
    below = [str(path.parent) for path in sorted(directory.glob(f"*/{NAME}"))[:3]]
    if below:
        return f"{directory}: no {NAME} here, but in {' and '.join(below)}: give that directory"
    unfinished = " (packing was begun and is not finished)" if (directory / WORK).exists() else ""
    return f"{directory}: no {NAME} here{unfinished}; make it with {command(directory)}"


def command(directory: Path, content: Mapping[str, Any] | None = None) -> str:
    """The command, in backquotes, that makes ``directory`` anew, with the flags in the manifest ``content``, if any."""
    provenance = content["provenance"] if content else {}
    faces = provenance.get("synthetic")
    if isinstance(faces, Mapping):  # of `synth --packed`, made without picture files
        words = ["hrfr-fast", "synth", str(directory), "--packed", "--scale", str(faces["scale"])]
        words += ["--seed", str(faces["seed"])]
        words += ["--shard-samples", str(faces["shard_samples"])] if faces.get("shard_samples") else []
    else:
        words = ["hrfr-fast", "pack", "DATA", "--out", str(directory), *_flags(provenance)]
    return f"`{shlex.join(words)}`"


def _flags(provenance: Mapping[str, Any]) -> list[str]:
    """The flags of ``pack`` whose values are not the default ones."""
    settings = provenance.get("settings", {})
    flags = ["--format", str(provenance["format"])] if provenance.get("format") else []
    if settings.get("encoding", "auto") != "auto":
        flags += ["--encoding", str(settings["encoding"])]
    if settings.get("dev_identities"):
        flags += ["--dev-identities", str(settings["dev_identities"])]
    if settings.get("resize"):
        flags.append("--resize")
    if settings.get("shard_samples"):
        flags += ["--shard-samples", str(settings["shard_samples"])]
    for name, size in settings.get("sizes", {}).items():
        flags += ["--size", f"{name}={size}"]
    for name, order in settings.get("carray_channels", {}).items():
        if name or order != "bgr":
            flags += ["--carray-channels", f"{name}={order}" if name else order]
    return flags


def repair(directory: Path) -> str:
    """Advice on damage in the packed ``directory``, as the end of a sentence.

    ``pack`` compares what it would keep with the digests, so the plain command is enough.
    """
    try:
        content = read(directory)
    except (HrfrError, OSError):
        return f"{command(directory)}, with the flags it was packed with, packs what is damaged anew"
    what = "makes it" if isinstance(content["provenance"].get("synthetic"), Mapping) else "packs what is damaged"
    return f"{command(directory, content)} {what} anew"


def incomplete(directory: Path, content: dict[str, Any]) -> str:
    """A sentence where files could not be read when ``directory`` was packed, without its full stop; else ""."""
    unreadable = sum(entry["source"].get("unreadable", 0) for entry in entries_of(content).values())
    if not unreadable:
        return ""
    again = f"{command(directory, content)} tries them again"
    return f"incomplete: {counted(unreadable, 'file')} could not be read when it was packed; {again}"


def entries_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of a manifest by shard name."""
    return {**content["splits"], **{pair_shard(name): entry for name, entry in content["pairs"].items()}}
