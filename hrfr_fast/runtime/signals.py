"""Ctrl-C and SIGTERM as a flag that long loops check between two pieces of work.

A second signal ends the process at once, without waiting for the current piece: with SystemExit, which handlers of
errors do not catch. One of torchrun's ranks it does not end: torchrun sends SIGTERM to all as soon as one has ended,
while others still save, and kills what is left after 30 seconds (``--shutdown-timeout``).
"""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self


class StopFlag:
    """Context manager in which SIGINT and SIGTERM only set ``signal_number``.

    Off the main thread, where Python cannot install handlers, the flag is never set.

    Args:
        launched: the process is one of torchrun's ranks. Left by an error, the context leaves SIGTERM ignored: else the
            launcher would end the process before it has said what is wrong.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.launched = launched
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        for number, handler in self._previous.items():
            ending = self.launched and error is not None and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ending else handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self and self.launched:
            return
        if self:
            os.write(2, b"\nstopped at once, at the second signal; what was written before it is kept\n")
            raise SystemExit(128 + number)
        self.signal_number = number
