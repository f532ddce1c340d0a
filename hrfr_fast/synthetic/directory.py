"""The directory that synthetic data is written to: marked with its settings, continued or refused."""

import json
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.runtime.lock import NAME as LOCK

MARKER = "synth.json"
PARTIAL = ".partial"  # unfinished folders
LAYOUT = 1  # part of the marker: a change of the faces or of the tree must not continue an older one


def check_seed(seed: int) -> None:
    """Raise UsageError for a seed that is no 64-bit key."""
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed is {seed}; it must be within 0..2**64 - 1")


def claim(root: Path, settings: dict[str, Any]) -> None:
    """Mark ``root`` as made with ``settings``. Raises UsageError where it holds something else."""
    marker = root / MARKER
    settings = json.loads(json.dumps({"layout": LAYOUT} | settings))
    if marker.exists():
        try:
            found = json.loads(marker.read_bytes())
        except ValueError:
            found = None
        if found != settings:
            raise UsageError(f"{root} holds synthetic faces of other settings ({MARKER}); choose an empty directory")
    elif any(path.name != LOCK for path in root.iterdir()):
        raise UsageError(f"{root} is not empty and not a tree of synthetic faces; choose an empty directory")
    write_json(marker, settings)
    (root / PARTIAL).mkdir(exist_ok=True)


def refuse_interrupted(root: Path) -> None:
    """Raise UsageError where ``synth`` was interrupted in ``root``: a part of a tree looks like a smaller one."""
    if (root / MARKER).is_file() and (root / PARTIAL).is_dir():
        raise UsageError(
            f"{root} is incomplete: `hrfr-fast synth` was interrupted there. Run the same command again to complete it"
        )
