"""Setting of glibc's allocator by which memory that one training step frees is kept for the next.

glibc returns large blocks to the operating system as soon as they are freed. A training step frees and allocates the
same gigabyte of activations every time, and each time the system clears it page by page: a third of the CPU time of
lowres144 at width 16 (19 of 57 s; 1.4 s with memory kept).
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h
NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory; its size stays at the peak. False where the C library is not glibc.

    The first few steps still allocate: torch asks for aligned blocks, and each leaves a fragment that keeps the freed
    block from joining its neighbour until glibc's cache of seven such fragments is full (up to nine 64 MB blocks).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
