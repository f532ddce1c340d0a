"""Cores and memory that this process may use."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hrfr_fast.runtime.ranks import current_ranks

_given: int | None = None
"""Of ``given_cores``."""


def cores() -> int:
    """Cores this process may use, or those it was given."""
    if _given is not None:
        return _given
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_rank() -> int:
    """Threads that this process computes and decodes with: all cores, or its share where torchrun has started several.

    The share is the cores divided by the processes of this machine, at least 1, or OMP_NUM_THREADS where that is above
    1. A 1 is not taken: torchrun itself sets it where nothing is set, which cannot be told from a wish.

    Raises UsageError where torchrun's variables contradict each other.
    """
    ranks = current_ranks()
    if not ranks.distributed:
        return cores()
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list is for nested parallelism
    if asked.isascii() and asked.isdigit() and int(asked) > 1:
        return int(asked)
    return max(1, cores() // ranks.local_count)


@contextmanager
def given_cores(count: int) -> Iterator[None]:
    """A context in which torch, numba and OpenCV compute with ``count`` threads and ``cores`` says so; 0: with all.

    Sums on a CPU are taken in one part a thread, so the number of threads decides the last bits of a training.
    """
    global _given
    if not count:
        yield
        return
    import cv2
    import numba
    import torch

    before = _given, torch.get_num_threads(), numba.get_num_threads(), cv2.getNumThreads()
    _given = count
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        _given = before[0]
        torch.set_num_threads(before[1])
        numba.set_num_threads(before[2])
        cv2.setNumThreads(before[3])


def memory() -> tuple[int, int]:
    """Bytes of host memory: in total, and available without swapping, page cache included."""
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        return int(lines["MemTotal"].split()[0]) << 10, int(lines["MemAvailable"].split()[0]) << 10
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # not Linux
    return total, total


def free_memory() -> int:
    """Bytes available without swapping, within the container's limit."""
    free = [memory()[1]]
    with suppress(OSError, ValueError):  # no limit ("max"), or no control groups
        # The container's use counts the page cache, which can be freed, so only the limit itself is a bound.
        free.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return min(free)


def peak_memory() -> int:
    """Most bytes of host memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # KiB on Linux


def gib(count: float) -> str:
    """A number of bytes as text, in GiB."""
    return f"{count / 2**30:.1f} GiB"
