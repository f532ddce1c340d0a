"""Worker processes: spawned, ending with their parent, with an error for the user where they cannot be started."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from hrfr_fast.runtime.errors import HrfrError

T = TypeVar("T")


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


def in_order(
    pool: ProcessPoolExecutor,
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    ahead: int,
    of: str = "",
    *,
    patience: float | None = None,
    describe: Callable[[int], str] = str,
) -> Iterator[T]:
    """Results of ``function(*arguments)`` in ``pool``, in order; at most ``ahead`` calls run ahead of the consumer.

    Args:
        calls: the arguments of each call.
        of: whose worker it is, for the message when one dies.
        patience: seconds after which a result that has not come never will; None: there is no such time.
        describe: gives, for the number of such a call, the words on what it was about.

    Raises HrfrError when a worker dies (killed for memory, most likely), or is stuck: then all of them are killed.
    """
    waiting: deque[Future[T]] = deque()
    done = 0
    try:
        for arguments in calls:
            waiting.append(pool.submit(function, *arguments))
            if len(waiting) > ahead:
                yield waiting.popleft().result(patience)
                done += 1
        while waiting:
            yield waiting.popleft().result(patience)
            done += 1
    except TimeoutError:
        if patience is None:  # of the function itself
            raise
        about = describe(done)
        kill_workers(pool)
        raise HrfrError(
            f"a worker process{of} has not answered for {patience:.0f} s: {about}. What is finished is kept: mend that,"
            " and run the same command again to continue"
        ) from None
    except BrokenProcessPool as error:
        raise HrfrError(
            f"a worker process{of} died (out of memory?); what is finished is kept: run the same command again to"
            " continue, with fewer --workers if it happens again. (A Python script that calls hrfr_fast with several"
            ' workers needs an `if __name__ == "__main__":` around it.)'
        ) from error


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of ``pool`` at once; it is not to be waited for any longer."""
    processes = dict(pool._processes or {})  # Python 3.14 has a method for it
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes.values():
        process.kill()


def one_opencv_thread() -> None:
    """Keep OpenCV to one thread: there is a worker for each core, and its own threads would only be in the way.

    Where OpenCV is not imported it stays so: JPEG does not need it, and the import takes 0.2 s of each worker.
    """
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    else:
        os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # read by OpenCV when it is loaded


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
