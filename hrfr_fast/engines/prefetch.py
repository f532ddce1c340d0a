"""Prefetching: an iterator that runs in a thread, a few items ahead of its consumer."""

import threading
from collections.abc import Generator, Iterator
from queue import Queue
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """The items of ``items``, made in a thread of their own, at most ``depth`` before they are asked for.

    An exception of ``items`` is raised where its item would have come. Closing ends the thread and closes ``items``.
    """
    queue: Queue[tuple[T | None, BaseException | None]] = Queue()
    free_places, stopped = threading.Semaphore(depth), threading.Event()
    end = StopIteration()

    def run() -> None:
        try:
            while free_places.acquire() and not stopped.is_set():
                queue.put((next(items), None))
        except BaseException as error:
            queue.put((None, end if isinstance(error, StopIteration) else error))
        finally:
            getattr(items, "close", lambda: None)()

    thread = threading.Thread(target=run, name="hrfr-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is end:
                return
            if error is not None:
                raise error
            free_places.release()
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        free_places.release()
        thread.join()
