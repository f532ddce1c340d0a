"""What an earlier pack left in the output directory, and which of its shards are still what this one would make."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.manifest import entries_of
from hrfr_fast.format.quarantine import QUARANTINE, read_quarantine
from hrfr_fast.format.reader import check_shard_files
from hrfr_fast.format.saved_listing import changes, listing_name, saved_key
from hrfr_fast.packing.sources import Candidates
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.system import cores

DAMAGED = "the packed files are missing or damaged"


@dataclass(frozen=True)
class Earlier:
    """The output directory ``out`` as it is found."""

    out: Path
    manifest: dict[str, Any] | None
    keys: dict[str, dict[str, Any]]
    """Shard name -> all that decides the bytes of the shard this pack wants."""
    stale: dict[str, str]
    """Names of the shards that have to be packed -> what is different from those in ``out``, "" for a new shard."""
    quarantine: list[dict[str, Any]] | None
    """What the quarantine holds, None where it is missing or damaged."""

    @classmethod
    def look(cls, out: Path, todo: Sequence[Candidates], page_size: int, show_progress: bool = False) -> Self:
        """Compare ``out`` with what is to be packed.

        A shard is only kept if it still has the digest of the day it was packed, so that packing repairs whatever was
        damaged. That reads it all and takes SHA-256 of it, at about 1 GB a second and core: a tenth of the time that
        packing takes. Sizes and times alone would not show a flipped bit.
        """
        try:
            content = manifest.read(out)
        except (UsageError, DamageFound):
            content = None
        keys = {candidates.name: _key(candidates, page_size) for candidates in todo}
        quarantine = read_quarantine(out, content) if content else None
        stale = {}
        with ThreadPoolExecutor(cores()) as pool, progress_bar(show_progress and content is not None) as progress:
            task = progress.add_task("compare", total=len(todo), note="")
            reasons = pool.map(lambda one: _why_stale(out, content, one, keys[one.name], quarantine), todo)
            for candidates, why in zip(todo, reasons, strict=True):
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
        """Whether there is nothing to do: all that is wanted is here, and nothing else.

        The pairs of an earlier version, which did not look for defects, are looked through without packing them again.
        """
        if self.manifest is None or not all("defects" in entry for entry in self.manifest["pairs"].values()):
            return False
        return self.quarantine is not None and not self.stale and self.keys.keys() == self.entries().keys()

    def entries(self) -> dict[str, dict[str, Any]]:
        """Manifest entries by shard name; none without a manifest."""
        return entries_of(self.manifest) if self.manifest else {}

    def refusals(self, shard: str) -> list[dict[str, Any]]:
        """What the quarantine holds of ``shard``."""
        return [line for line in self.quarantine or [] if line["split"] == shard]


def _key(candidates: Candidates, page_size: int) -> dict[str, Any]:
    return {
        "format": manifest.VERSION,
        "listing": candidates.fingerprint,
        "size": candidates.size,
        "encoding": candidates.encoding,
        "resize": candidates.resize,
        "page_size": page_size,
        "candidates": candidates.count,
        **candidates.options,
    }


def _why_stale(
    out: Path,
    content: dict[str, Any] | None,
    candidates: Candidates,
    key: dict[str, Any],
    quarantine: list[dict[str, Any]] | None,
) -> str | None:
    """Why the shard of ``candidates`` has to be packed (anew), None where it is in ``out`` as it would be made."""
    name = candidates.name
    entry = entries_of(content).get(name) if content else None
    if entry is None:
        return ""
    path = out / listing_name(name)
    before = saved_key(path, str(entry.get("digest")))
    if before is None:
        return DAMAGED
    if before != key:
        return _difference(before, key, path, candidates)
    if not is_whole(out, entry):
        return DAMAGED
    if entry["source"].get("quarantined", 0) and quarantine is None:
        return f"{QUARANTINE} is missing or damaged"
    unreadable = [line for line in quarantine or [] if line["split"] == name and line.get("retry")]
    return "files can be read now that could not" if candidates.readable_again(unreadable) else None


def _difference(before: dict[str, Any], key: dict[str, Any], path: Path, candidates: Candidates) -> str:
    said = []
    if before.get("listing") != key["listing"]:
        added, removed, changed = changes(path, candidates.listing_lines())
        said.append(f"files: {added} added, {removed} removed, {changed} changed")
    names = [n for n in key if n not in ("listing", "candidates") and before.get(n) != key[n]]
    return "; ".join([*said, *(f"{n}: {before.get(n)} -> {key[n]}" for n in names)])


def is_whole(directory: Path, entry: dict[str, Any]) -> bool:
    """Whether the files of one shard have the digests that its manifest entry gives. Reads all of them."""
    try:
        path = check_shard_files(directory, entry)
        if entry.get("identities_file"):
            identities = directory / entry["identities_file"]
            if beton.file_digest(identities) != entry["identities_digest"]:
                return False
        return beton.file_digest(path) == entry["digest"]
    except (HrfrError, OSError, KeyError, TypeError):  # what cannot be read is no better than what is damaged
        return False
