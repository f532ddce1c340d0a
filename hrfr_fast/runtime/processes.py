"""Worker processes: spawned, ending with their parent, with an error for the user where they cannot be started."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection

from hrfr_fast.runtime.errors import HrfrError


def worker_pool(workers: int, prepare: Callable[[], object] | None = None) -> ProcessPoolExecutor:
    """A pool of ``workers`` processes; each calls ``prepare`` first. Raises HrfrError where none can be started.

    Spawned, not forked: a worker must not inherit its parent's threads, modules and open files.
    """
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(prepare,))
    except OSError as error:  # of the first semaphore
        raise HrfrError(
            f"worker processes cannot be started: the system gives no semaphores ({error.strerror or error}; they live"
            " in /dev/shm, which has to be writable and not full). --workers 1 needs none"
        ) from error


def _start_worker(prepare: Callable[[], object] | None) -> None:
    """Leave Ctrl-C to the parent, and end with it even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
