"""The directory that a command fills: locked for one process, with advice when the disk or a signal ends the work."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hrfr_fast.runtime.errors import Interrupted, UsageError
from hrfr_fast.runtime.files import writing
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.signals import StopFlag


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
