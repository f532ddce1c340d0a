"""On a CPU, memory that one step frees is kept for the next.

glibc gives large blocks back to the kernel as soon as they are freed. A training step frees and takes the same gigabyte
of activations every time, and each time the kernel clears it page by page: a third of the CPU time of lowres144 at
width 16 (19 of 57 s; 1.4 s with memory kept).
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h
NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; its memory stays at its highest. False where the C library is not glibc.

    The first few steps still fetch memory: torch asks for aligned blocks, and each leaves a splinter that keeps the
    freed block from joining its neighbour until glibc's cache of seven splinters is full (up to nine 64 MB blocks).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
