"""``hrfr-fast check``: comparison of every byte of a packed directory with the checksums of the day it was packed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.manifest import entries_of
from hrfr_fast.format.names import listing_file
from hrfr_fast.format.quarantine import QUARANTINE, read_quarantine
from hrfr_fast.format.reader import Split, pair_set_of, split_of
from hrfr_fast.format.saved_listing import files_of, saved_key
from hrfr_fast.format.shard_files import check_shard_files
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.untrusted import parsed_json

BATCH = 4096  # records checked at a time


@dataclass(frozen=True)
class Damage:
    """One damaged record or file (``record`` None)."""

    shard: str
    record: int | None
    what: str

    def __str__(self) -> str:
        return (
            f"{self.shard}: {self.what}" if self.record is None else f"{self.shard}: record {self.record}: {self.what}"
        )


def check_packed(path: str | Path, show_progress: bool = False) -> list[Damage]:
    """Compare every record with its checksum and every file with its digest; an empty list: nothing is damaged.

    Raises:
        UsageError: there is no finished pack at ``path``.
    """
    path = Path(path)
    try:
        content = manifest.read(path)
    except DamageFound as error:
        return [Damage(manifest.NAME, None, str(error))]
    damages: list[Damage] = []
    with progress_bar(show_progress) as progress:
        entries = [(kind, *item) for kind in ("splits", "pairs") for item in content[kind].items()]
        task = progress.add_task("check", total=len(entries), note="")
        for kind, name, entry in entries:
            damages += _check_shard(path, kind, name, entry)
            progress.advance(task)
    return damages + list(_other_files(path, content))


def describe_check(path: str | Path) -> list[str]:
    """Sentences on what :func:`check_packed` checks in the finished pack ``path`` and what it does not."""
    path = Path(path)
    content = manifest.read(path)
    covered = {manifest.NAME, *files_of(content)}
    lines = [f"checked: {', '.join(sorted(name for name in covered if (path / name).exists()))}"]
    if manifest.CHECKSUM not in parsed_json((path / manifest.NAME).read_bytes()):
        lines.append(f"{manifest.NAME} is of an earlier version, without a checksum: only its digests were checked")
    others = sorted(file.name for file in path.iterdir() if file.name not in covered)
    if manifest.WORK in others:
        others.remove(manifest.WORK)
        lines.append(f"not checked: unfinished work in {manifest.WORK}; the next pack compares it before it goes on")
    if others:
        lines.append(f"not checked, no part of the pack: {', '.join(map(one_line, others))}")
    return lines + list(filter(None, [manifest.incomplete(path, content)]))


def _check_shard(path: Path, kind: str, name: str, entry: dict[str, Any]) -> list[Damage]:
    try:
        return list(_damages(path, kind, name, entry))
    except (HrfrError, OSError) as error:
        return [Damage(str(entry.get("file", name)), None, str(error))]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [Damage(manifest.NAME, None, f"the entry of {name} is damaged ({error!r})")]


def _damages(path: Path, kind: str, name: str, entry: dict[str, Any]) -> Iterator[Damage]:
    files = [path / str(part["file"]) for part in manifest.parts_of(entry)]
    wrong_digests = {
        file.name
        for file, part in zip(files, manifest.parts_of(entry), strict=True)
        if file.is_file() and beton.file_digest(file) != part["digest"]
    }
    try:
        check_shard_files(path, entry)
        pairs = pair_set_of(path, name, entry) if kind == "pairs" else None
        split = pairs.split if pairs is not None else split_of(path, name, entry)
        for damage in _damaged_records(split):
            wrong_digests.discard(damage.shard)
            yield damage
        if pairs is not None:
            _ = pairs.same
            if pairs.identities_path is not None:
                _ = pairs.identities
                if beton.file_digest(pairs.identities_path) != entry["identities_digest"]:
                    yield Damage(pairs.identities_path.name, None, "the file does not match its digest")
    except (UsageError, DamageFound) as error:
        yield Damage(_named_in(str(error), files), None, str(error))
        return
    for damaged in sorted(wrong_digests):
        yield Damage(damaged, None, "every record matches its checksum, but the file does not match its digest")


def _damaged_records(split: Split) -> Iterator[Damage]:
    """The records whose bytes do not match their checksums, by file and number within the file."""
    begin = 0
    for part in split.parts:
        for first in range(begin, begin + part.samples, BATCH):
            last = min(first + BATCH, begin + part.samples)
            for record in split.verify(np.arange(first, last)).tolist():
                yield Damage(part.path.name, record - begin, "its bytes do not match its checksum")
            split.free_pages()
        begin += part.samples


def _named_in(message: str, files: list[Path]) -> str:
    """The name of the first of ``files`` that ``message`` is about."""
    about = (file.name for file in files if str(file) in message or str(beton.checksum_path(file)) in message)
    return next(about, files[0].name)


def _other_files(path: Path, content: dict[str, Any]) -> Iterator[Damage]:
    """Damage to the files that only the next pack reads; `synth --packed` writes none of them."""
    if content["provenance"].get("made_by") != "hrfr-fast pack":
        return
    if read_quarantine(path, content) is None:
        yield Damage(QUARANTINE, None, "missing, or not the one that was written with the shards")
    for shard, entry in entries_of(content).items():
        listing = listing_file(shard)
        if saved_key(path / listing, str(entry.get("digest"))) is None:
            yield Damage(listing, None, "missing or damaged: the next pack could not tell what changed")
