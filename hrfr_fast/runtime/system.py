"""Cores and memory that this process may use."""

import os
import resource
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
