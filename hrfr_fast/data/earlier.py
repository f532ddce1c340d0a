"""What an earlier pack left in the output directory, and which of its shards are still what this one would make."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hrfr_fast.data import commit, manifest
from hrfr_fast.data.shards import check_shard_files
from hrfr_fast.data.sources import Candidates, changes, saved_key
from hrfr_fast.errors import DamageFound, HrfrError, UsageError


@dataclass(frozen=True)
class Earlier:
    """The output directory ``out`` as it is found."""

    out: Path
    manifest: dict[str, Any] | None
    keys: dict[str, dict[str, Any]]
    """Shard name -> all that decides the bytes of the shard this pack wants."""
    current: frozenset[str]
    """Names of the shards that need not be packed again."""

    @classmethod
    def look(cls, out: Path, todo: Sequence[Candidates], page_size: int) -> Self:
        """Compare ``out`` with what is to be packed."""
        try:
            content = manifest.read(out)
        except (UsageError, DamageFound):
            content = None
        keys = {candidates.name: _key(candidates, page_size) for candidates in todo}
        current = frozenset(name for name in keys if content and _is_current(out, content, name, keys[name]))
        return cls(out, content, keys, current)

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do: all that is wanted is here, and nothing else."""
        return self.manifest is not None and self.current == self.keys.keys() == self.entries().keys()

    def entries(self) -> dict[str, dict[str, Any]]:
        """Manifest entries by shard name; none without a manifest."""
        return entries_of(self.manifest) if self.manifest else {}

    def refusals(self, shard: str) -> list[dict[str, Any]]:
        """What the quarantine holds of ``shard``."""
        try:
            lines = [json.loads(line) for line in (self.out / commit.QUARANTINE).read_text().splitlines()]
        except (OSError, ValueError):
            return []
        return [line for line in lines if line["split"] == shard]

    def why(self, candidates: Candidates) -> str:
        """What is different from the shard that ``out`` holds; empty where it holds none."""
        if candidates.name not in self.entries():
            return ""
        key, path = self.keys[candidates.name], self.out / commit.listing_name(candidates.name)
        before = saved_key(path)
        if before is None or before == key:
            return "the packed files are missing or damaged"
        said = []
        if before.get("listing") != key["listing"]:
            added, removed, changed = changes(path, candidates.listing_lines())
            said.append(f"files: {added} added, {removed} removed, {changed} changed")
        names = [n for n in ("size", "encoding", "resize", "page_size", "format") if before.get(n) != key[n]]
        return "; ".join([*said, *(f"{n}: {before.get(n)} -> {key[n]}" for n in names)])


def entries_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of a manifest by shard name."""
    return {**content["splits"], **{f"pairs-{name}": entry for name, entry in content["pairs"].items()}}


def _key(candidates: Candidates, page_size: int) -> dict[str, Any]:
    return {
        "format": manifest.VERSION,
        "listing": candidates.fingerprint,
        "size": candidates.size,
        "encoding": candidates.encoding,
        "resize": candidates.resize,
        "page_size": page_size,
        "candidates": candidates.count,
    }


def _is_current(out: Path, content: dict[str, Any], name: str, key: dict[str, Any]) -> bool:
    entry = entries_of(content).get(name)
    if entry is None or saved_key(out / commit.listing_name(name)) != key:
        return False
    try:
        check_shard_files(out, entry)
        return not entry.get("identities_file") or (out / entry["identities_file"]).is_file()
    except (HrfrError, KeyError, TypeError):
        return False
