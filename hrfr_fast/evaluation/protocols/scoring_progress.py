"""The progress of scoring, which for millions of comparisons takes minutes, and its clean end after Ctrl-C."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hrfr_fast.runtime.errors import Interrupted
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag


@contextmanager
def scoring_progress(totals: Mapping[str, int], show: bool) -> Iterator[Callable[[str, int], None]]:
    """A function to call with the name of a task and how much more of it is done; it raises Interrupted after Ctrl-C.

    Args:
        totals: how much each task has to do, by name; its bar appears with its first call.
    """
    with StopFlag() as stop, progress_bar(show) as bar:
        tasks: dict[str, Any] = {}

        def advance(what: str, number: int) -> None:
            if stop:
                raise Interrupted(f"stopped while scoring ({what})", stop.signal_number or signal.SIGINT)
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=totals[what], note="")
            bar.advance(tasks[what], number)

        yield advance
