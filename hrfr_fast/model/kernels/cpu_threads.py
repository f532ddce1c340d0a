"""Threads for the CPU's kernels: as many as torch has, without an OpenMP team of their own.

numba's own teams would be a second one beside torch's, whose threads go on spinning for milliseconds after each
operation and so take the cores from one another. These threads sleep when there is nothing to do; the calling thread
works with them and never waits for one that has not begun, so a busy machine only costs their help.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

SMALLEST_SHARE = 1 << 15  # numbers a thread: below about 10 us of work waking it costs more than it helps
TURNS = 4  # parts of the work for each thread, so that a late one takes fewer


def over_segments(kernel: Callable[..., None], segments: int, numbers: int, *arguments: Any) -> None:
    """Call ``kernel(*arguments, first, last)`` so that all ``segments`` are done once, in threads where it pays.

    Args:
        kernel: releases the GIL; the results of segments do not depend on one another.
        numbers: of the maps, how much work there is.
    """
    threads = min(torch.get_num_threads(), segments, numbers // SMALLEST_SHARE)
    if threads < 2:
        kernel(*arguments, 0, segments)
        return
    step = max(1, segments // (threads * TURNS))
    parts = iter(range(0, segments, step))  # threads take from it one after the other: they hold the GIL for that

    def work() -> None:
        for first in parts:
            kernel(*arguments, first, min(first + step, segments))

    helpers = [_pool(torch.get_num_threads() - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="hrfr-kernels")


# A forked child has the pool but not its threads: work would wait in its queue for ever and keep the maps in memory.
os.register_at_fork(after_in_child=_pool.cache_clear)
