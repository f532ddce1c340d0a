"""Calls that may never come back: a read from a mount whose server is gone raises no error and cannot be cancelled."""

import threading
from collections.abc import Callable


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
