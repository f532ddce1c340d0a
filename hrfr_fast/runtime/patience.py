"""Calls that may never come back: a read from a mount whose server is gone raises no error and cannot be cancelled."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

What = TypeVar("What")
REPEAT = 10.0  # times longer until something is told of again


def ends_within(function: Callable[[], object], seconds: float) -> bool:
    """Whether ``function`` ends in time, by an error or not. It runs in a thread of its own, which is left alone where
    it does not: it keeps no process from ending."""
    ended = threading.Event()

    def call() -> None:
        try:
            function()
        except Exception:  # an answer, too
            pass
        finally:
            ended.set()

    threading.Thread(target=call, name="hrfr-patience", daemon=True).start()
    return ended.wait(seconds)


class Watch(Generic[What]):
    """A thread that looks now and then how long this process has been at something.

    Args:
        tell: called from that thread with what it is and for how many seconds, after ``patience`` seconds, and again
            after ten times as long.
        patience: seconds.
        name: of the thread.
    """

    def __init__(self, tell: Callable[[What, float], None], patience: float, name: str) -> None:
        self.tell, self.patience = tell, patience
        self._at: tuple[What, float] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def begin(self, what: What) -> None:
        """From now on this process is at ``what``."""
        self._at = what, time.monotonic()

    def pause(self) -> None:
        """It is at nothing that is watched."""
        self._at = None

    def is_at(self, what: What) -> bool:
        """Whether it still is at ``what``."""
        at = self._at
        return at is not None and at[0] == what

    def end(self) -> None:
        """Look no more, and wait for the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        told, wait = None, self.patience
        while not self._ended.wait(min(1.0, self.patience / 4)):
            at = self._at
            if at != told:
                wait = self.patience
            if at is None or time.monotonic() - at[1] < wait:
                continue
            told, wait = at, wait * REPEAT
            self.tell(at[0], time.monotonic() - at[1])
