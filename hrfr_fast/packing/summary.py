"""Summary of a pack: the outcome for every split and pair set, and the lines that the command prints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrfr_fast.format.manifest import parts_of
from hrfr_fast.format.names import is_pair_shard
from hrfr_fast.format.quarantine import QUARANTINE
from hrfr_fast.runtime.words import counted


@dataclass
class ShardSummary:
    """Outcome for one split or pair set."""

    name: str
    samples: int
    identities: int
    size: int
    encoding: str
    rejected: int
    unreadable: int  # how many of the rejected could not be read; the next pack tries them again
    action: str  # "packed", "continued from 1,234 of 5,678", "finished earlier" or "unchanged"
    why: str = ""  # what changed, for a shard that replaces an earlier one
    files: int = 1


@dataclass
class PackSummary:
    """Outcome of a pack; the command prints its ``lines()``."""

    out: Path
    digest: str = ""
    nothing_to_do: bool = False
    shards: dict[str, ShardSummary] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    encoding: str = ""  # the choice and its reason

    @property
    def rejected(self) -> int:
        """Number of rejected pictures and list lines, over all shards."""
        return sum(shard.rejected for shard in self.shards.values())

    @property
    def unreadable(self) -> int:
        """Number of the rejected that could not be read."""
        return sum(shard.unreadable for shard in self.shards.values())

    def lines(self) -> list[str]:
        """One line a shard, the choice of encodings, and where the reasons for rejections are."""
        state = "what could not be read still cannot be" if self.unreadable else "nothing to do"
        lines = [f"{state}: the input is unchanged"] if self.nothing_to_do else []
        for shard in self.shards.values():
            pairs = is_pair_shard(shard.name)
            groups = counted(shard.samples // 2, "pair") if pairs else counted(shard.identities, "identity")
            rejected = f", {shard.rejected:,} rejected" if shard.rejected else ""
            rejected += f" ({shard.unreadable:,} of them could not be read)" if shard.unreadable else ""
            files = f", {shard.files:,} files" if shard.files > 1 else ""
            contents = f"{counted(shard.samples, 'face')}, {groups}, {shard.size} px, {shard.encoding}{files}{rejected}"
            why = f" ({shard.why})" if shard.why else ""
            lines.append(f"{shard.name}: {contents}: {shard.action}{why}")
        if self.encoding and not self.nothing_to_do:
            lines.append(self.encoding)
        if self.rejected:
            lines.append(f"{self.rejected:,} rejected; files and reasons: {self.out / QUARANTINE}")
        return lines


def shard_summary(name: str, entry: dict[str, Any], action: str, why: str = "") -> ShardSummary:
    """Summary of the shard with this manifest entry."""
    source = entry["source"]
    rejected, unreadable = source.get("quarantined", 0), source.get("unreadable", 0)
    counts = entry["samples"], entry.get("identities", 0)
    files = len(parts_of(entry))
    return ShardSummary(name, *counts, entry["size"], entry["encoding"], rejected, unreadable, action, why, files)
