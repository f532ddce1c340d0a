"""``quarantine.jsonl``: the pictures and list lines rejected when a directory was packed, with the reasons."""

from pathlib import Path
from typing import Any

from hrfr_fast.format import beton
from hrfr_fast.format.manifest import entries_of
from hrfr_fast.runtime.untrusted import parsed_json

QUARANTINE = "quarantine.jsonl"


def read_quarantine(out: Path, content: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The lines of ``quarantine.jsonl``, None where it is not the one that belongs to the manifest ``content``."""
    try:
        path = out / QUARANTINE
        lines = [parsed_json(line) for line in path.read_bytes().splitlines()]
        shards = [line["split"] for line in lines]
        fits = content.get("quarantine_digest") in (None, beton.file_digest(path))  # earlier versions had none
        counted = all(
            entry["source"].get("quarantined", 0) == shards.count(shard) for shard, entry in entries_of(content).items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return lines if fits and counted else None
