"""Memory that worker processes put pixels into and the packer writes to the shard from: pixels pass no pipe.

A pipe copies them four times, 64 KiB a time, which took as long as a third of their decoding. The memory has no name
(``memfd_create``): nothing is left of it however the processes end, and the size of ``/dev/shm`` does not matter.
"""

import mmap
import os
from multiprocessing import reduction
from typing import Any

from hrfr_fast.packing.chunks import Chunk, with_bytes

_area: "SharedArea | None" = None  # of a worker process


class SharedArea:
    """``slots`` pieces of ``slot_bytes`` each, seen by this process and by workers that are handed the object.

    It is picklable while a process is being spawned, and at no other time: the file descriptor is inherited.
    """

    def __init__(self, slots: int, slot_bytes: int, descriptor: int | None = None) -> None:
        """``descriptor``: of the memory, where it exists. Raises OSError where there is none to be had."""
        self.slots, self.slot_bytes = slots, slot_bytes
        self._descriptor = os.memfd_create("hrfr-fast-pack") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self._descriptor, slots * slot_bytes)
        self._memory = mmap.mmap(self._descriptor, slots * slot_bytes)

    def slot(self, number: int) -> memoryview:
        """The bytes of slot ``number``."""
        return memoryview(self._memory)[number * self.slot_bytes : (number + 1) * self.slot_bytes]

    def close(self) -> None:
        """No further process will be given the memory; it goes with the last one that has it."""
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (self.slots, self.slot_bytes, reduction.DupFd(self._descriptor))


def _inherited(slots: int, slot_bytes: int, descriptor: Any) -> SharedArea:
    return SharedArea(slots, slot_bytes, descriptor.detach())


def shared_area(slots: int, slot_bytes: int) -> SharedArea | None:
    """An area; None where the system has no such memory (it is Linux's), and pipes have to do."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return SharedArea(slots, slot_bytes)
    except OSError:
        return None


def use_area(area: SharedArea | None) -> None:
    """In a worker process: the area whose slots :func:`own_slot` gives."""
    global _area
    _area = area


def own_slot(number: int) -> memoryview | None:
    """In a worker process: the bytes of a slot; None where there is no area."""
    return None if _area is None else _area.slot(number)


def taken(chunk: Chunk, area: SharedArea | None, slot: int) -> Chunk:
    """``chunk`` with its bytes, which a worker left in ``slot``; they stay until the slot is used again."""
    return chunk if area is None else with_bytes(chunk, area.slot(slot))
