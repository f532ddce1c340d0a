"""The pack that is in the output directory already, and which of its shards the next one can keep."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.manifest import entries_of
from hrfr_fast.format.names import listing_file
from hrfr_fast.format.quarantine import QUARANTINE, read_quarantine
from hrfr_fast.format.saved_listing import any_unchanged, changes, saved_key
from hrfr_fast.format.shard_files import check_shard_files
from hrfr_fast.packing.pack_settings import PackSettings
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.runtime.names import few, one_line
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.system import cores
from hrfr_fast.runtime.words import counted

DAMAGED = "the packed files are missing or damaged"


@dataclass(frozen=True)
class PreviousPack:
    """The pack in the output directory ``out``, compared with the one that is wanted."""

    out: Path
    manifest: dict[str, Any] | None
    keys: dict[str, dict[str, Any]]
    """Shard name -> all that decides the bytes of the wanted shard."""
    stale: dict[str, str]
    """Name of a shard that has to be packed -> its difference from the one in ``out``, "" for a new shard."""
    quarantine: list[dict[str, Any]] | None
    """Lines of ``quarantine.jsonl``, None where it is missing or damaged."""

    @classmethod
    def compare(
        cls, out: Path, wanted: Sequence[Candidates], settings: PackSettings, show_progress: bool = False
    ) -> Self:
        """Compare the pack in ``out`` with the ``wanted`` shards.

        A shard is only kept if it still has the digest of the day it was packed, so that packing repairs whatever was
        damaged. That reads all of it, at about 1 GB a second and core: a tenth of the time that packing takes. Sizes
        and times alone would not show a flipped bit.
        """
        try:
            content = manifest.read(out)
        except (UsageError, DamageFound):
            content = None
        keys = {candidates.name: _key(candidates, settings) for candidates in wanted}
        quarantine = read_quarantine(out, content) if content else None
        stale = {}
        with ThreadPoolExecutor(cores()) as pool, progress_bar(show_progress and content is not None) as progress:
            task = progress.add_task("compare", total=len(wanted), note="")
            reasons = pool.map(partial(_why_stale, out, content, quarantine), wanted, keys.values())
            for candidates, why in zip(wanted, reasons, strict=True):
                progress.advance(task)
                if why is not None:
                    stale[candidates.name] = why
        return cls(out, content, keys, stale, quarantine)

    @property
    def current(self) -> frozenset[str]:
        """Names of the shards that need not be packed again."""
        return frozenset(self.keys) - self.stale.keys()

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do: the pack holds what is wanted and nothing else.

        Earlier versions did not look for defects of pairs; those packs are completed without packing pairs again.
        """
        if self.manifest is None or not all("defects" in entry for entry in self.manifest["pairs"].values()):
            return False
        return self.quarantine is not None and not self.stale and self.keys.keys() == self.entries().keys()

    def refuse_other_set(self, data: Path, wanted: Sequence[Candidates]) -> None:
        """Raise UsageError where packing ``data``, which has another name than what the pack was made of, would delete
        a split, or would keep no file. What it was packed from may be gone."""
        source = self.manifest["provenance"].get("source") if self.manifest else None
        if self.manifest is None or source == data.resolve().name:
            return
        entries, splits = self.entries(), self.manifest["splits"].keys()
        if splits <= self.keys.keys() and (
            self.current
            or any(
                any_unchanged(self.out / listing_file(candidates.name), candidates.listing_lines())
                for candidates in wanted
                if candidates.name in entries
            )
        ):
            return
        held = few([f"{name} ({counted(entry['samples'], 'face')})" for name, entry in entries.items()])
        made_of = f", packed from {one_line(source)}" if isinstance(source, str) else ""
        raise UsageError(
            f"{self.out} holds another set{made_of}: {held}. Packing {data} there would replace it: choose another"
            f" --out, or delete {self.out} if it is no longer needed"
        )

    def entries(self) -> dict[str, dict[str, Any]]:
        """Manifest entries by shard name; none without a manifest."""
        return entries_of(self.manifest) if self.manifest else {}

    def rejected(self, shard: str) -> list[dict[str, Any]]:
        """Quarantine lines of ``shard``."""
        return [line for line in self.quarantine or [] if line["split"] == shard]


def _key(candidates: Candidates, settings: PackSettings) -> dict[str, Any]:
    """All that decides the bytes of a shard."""
    return {
        "format": manifest.VERSION,
        "listing": candidates.fingerprint,
        "size": candidates.size,
        "encoding": candidates.encoding,
        "resize": candidates.resize,
        "page_size": settings.page_size,
        "candidates": candidates.count,
        **candidates.options,
        **({"shard_samples": settings.shard_samples} if settings.divides(candidates) else {}),
    }


def _why_stale(
    out: Path,
    content: dict[str, Any] | None,
    quarantine: list[dict[str, Any]] | None,
    candidates: Candidates,
    key: dict[str, Any],
) -> str | None:
    """Why the shard of ``candidates`` has to be packed, None where ``out`` holds it as it would be packed."""
    name = candidates.name
    entry = entries_of(content).get(name) if content else None
    if entry is None:
        return ""
    path = out / listing_file(name)
    old_key = saved_key(path, str(entry.get("digest")))
    if old_key is None:
        return DAMAGED
    if old_key != key:
        return _difference(old_key, key, path, candidates)
    if not is_whole(out, entry):
        return DAMAGED
    if entry["source"].get("quarantined", 0) and quarantine is None:
        return f"{QUARANTINE} is missing or damaged"
    unreadable = [line for line in quarantine or [] if line["split"] == name and line.get("retry")]
    return "files can be read now that could not" if candidates.readable_again(unreadable) else None


def _difference(old_key: dict[str, Any], key: dict[str, Any], path: Path, candidates: Candidates) -> str:
    """What makes two shards different: files of the listing at ``path``, and settings."""
    differences = []
    if old_key.get("listing") != key["listing"]:
        added, removed, changed = changes(path, candidates.listing_lines())
        differences.append(f"files: {added} added, {removed} removed, {changed} changed")
    names = [name for name in {**key, **old_key} if name not in ("listing", "candidates")]
    names = [name for name in names if old_key.get(name) != key.get(name)]
    return "; ".join([*differences, *(f"{name}: {old_key.get(name)} -> {key.get(name)}" for name in names)])


def is_whole(directory: Path, entry: dict[str, Any]) -> bool:
    """Whether the files of one shard have the digests that its manifest entry gives. Reads all of them."""
    try:
        paths = check_shard_files(directory, entry)
        if entry.get("identities_file"):
            identities = directory / entry["identities_file"]
            if beton.file_digest(identities) != entry["identities_digest"]:
                return False
        with ThreadPoolExecutor(min(cores(), len(paths))) as pool:
            digests = list(pool.map(beton.file_digest, paths))
        return digests == [part["digest"] for part in manifest.parts_of(entry)]
    except (HrfrError, OSError, KeyError, TypeError):  # What cannot be read is as good as damaged.
        return False
