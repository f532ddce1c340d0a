"""The directory that synthetic data is written to: locked, marked with its settings, continued or refused."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.errors import Interrupted, UsageError
from hrfr_fast.runtime.files import write_json, writing
from hrfr_fast.runtime.lock import NAME as LOCK
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.signals import StopFlag

MARKER = "synth.json"
PARTIAL = ".partial"  # unfinished folders
LAYOUT = 1  # part of the marker: a change of the faces or of the tree must not continue an older one


def check_seed(seed: int) -> None:
    """Raise UsageError for a seed that is no 64-bit key."""
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed is {seed}; it must be within 0..2**64 - 1")


def raise_if_stopped(stop: StopFlag, what_now: str) -> None:
    """Raise Interrupted with the advice ``what_now`` when a signal has arrived."""
    if stop:
        raise Interrupted(f"stopped; {what_now}", stop.signal_number or signal.SIGINT)


@contextmanager
def writing_in(root: Path, advice: str) -> Iterator[None]:
    """Hold ``root`` for this process; an error of the disk is reported with ``advice`` on how to go on."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is not a directory")
    with directory_lock(root), writing(root, lambda: f"{root} is incomplete; {advice}"):
        yield


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
