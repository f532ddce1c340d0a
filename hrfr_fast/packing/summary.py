"""The account of a pack: what became of every split and pair set, and how the command tells it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrfr_fast.format.quarantine import QUARANTINE


@dataclass
class ShardSummary:
    """What became of one split or pair set."""

    name: str
    samples: int
    identities: int
    size: int
    encoding: str
    quarantined: int
    unreadable: int  # of the quarantined: files that could not be read and are tried again by the next pack
    action: str  # "packed", "continued from 1,234 of 5,678", "finished earlier" or "unchanged"
    why: str = ""  # for a shard packed anew though there was one: what changed


@dataclass
class PackSummary:
    """What a pack did. ``lines()`` is what the command prints."""

    out: Path
    digest: str = ""
    nothing_to_do: bool = False
    shards: dict[str, ShardSummary] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    encoding: str = ""  # the choice and its reason

    @property
    def quarantined(self) -> int:
        """Pictures and list lines refused, over all shards."""
        return sum(shard.quarantined for shard in self.shards.values())

    @property
    def unreadable(self) -> int:
        """How many of them could not be read."""
        return sum(shard.unreadable for shard in self.shards.values())

    def lines(self) -> list[str]:
        """Human-readable account."""
        left = "what could not be read still cannot be" if self.unreadable else "nothing to do"
        lines = [f"{left}: the input is unchanged"] if self.nothing_to_do else []
        for s in self.shards.values():
            what = f"{s.samples // 2:,} pairs" if s.name.startswith("pairs-") else f"{s.identities:,} identities"
            refused = f", {s.quarantined:,} in quarantine" if s.quarantined else ""
            refused += f" ({s.unreadable:,} of them could not be read)" if s.unreadable else ""
            why = f" ({s.why})" if s.why else ""
            lines.append(f"{s.name}: {s.samples:,} faces, {what}, {s.size} px, {s.encoding}{refused}: {s.action}{why}")
        if self.encoding and not self.nothing_to_do:
            lines.append(self.encoding)
        if self.quarantined:
            lines.append(f"{self.quarantined:,} refused; files and reasons: {self.out / QUARANTINE}")
        return lines


def shard_summary(name: str, entry: dict[str, Any], action: str, why: str = "") -> ShardSummary:
    """The account of the shard with this manifest entry."""
    source = entry["source"]
    quarantined, unreadable = source.get("quarantined", 0), source.get("unreadable", 0)
    return ShardSummary(
        name,
        entry["samples"],
        entry.get("identities", 0),
        entry["size"],
        entry["encoding"],
        quarantined,
        unreadable,
        action,
        why,
    )
