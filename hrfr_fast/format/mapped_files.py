"""Memory map of the files of a split: one array of bytes, whatever the number of files.

Several files are mapped one after the other into one range of addresses, each from a page of memory on. So a record of
any file is a place in one array, and everything that reads records (compiled kernels, DALI, FFCV) works on many files
as on one, at the same speed and without a copy.
"""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.bus_error import watch
from hrfr_fast.runtime.errors import DamageFound

MAP_FIXED = 0x10  # of <sys/mman.h>; Python's mmap does not offer it


class MappedFiles:
    """The bytes of ``paths``, read-only.

    Attributes:
        data: uint8, the files one after the other; zeros fill up the last page of each.
        begins: int64 [files], the place in ``data`` where each file begins.
        ends: int64 [files], the place after its last byte.

    Raises OSError where a file cannot be mapped.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._files = [os.stat(path) for path in paths]
        sizes = np.array([file.st_size for file in self._files], np.int64)
        whole_pages = -(-sizes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.begins = np.concatenate([[0], np.cumsum(whole_pages)[:-1]]).astype(np.int64)
        self.ends = self.begins + sizes
        if len(paths) == 1:
            self.data: NDArray[np.uint8] = np.memmap(paths[0], np.uint8, mode="r")
            self._map: mmap.mmap = self.data._mmap  # type: ignore[attr-defined]
        else:
            self._map = mmap.mmap(-1, int(whole_pages.sum()), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            self.data = np.frombuffer(self._map, np.uint8)
            for path, begin, size in zip(paths, self.begins.tolist(), sizes.tolist(), strict=True):
                _map_over(self.data.ctypes.data + begin, path, size)
        for path, begin, end in zip(paths, self.begins.tolist(), self.ends.tolist(), strict=True):
            watch(self.data[begin:end], path, self._map)

    def refuse_shrunk(self) -> None:
        """Raise DamageFound where a file has become shorter since it was mapped.

        It costs a microsecond a file. A file cut while the map is being read ends the process: see ``bus_error.py``.
        One that was replaced by another stays mapped as it was.
        """
        for path, then in zip(self.paths, self._files, strict=True):
            try:
                now = os.stat(path)
            except FileNotFoundError:
                continue
            if now.st_size < then.st_size and (now.st_ino, now.st_dev) == (then.st_ino, then.st_dev):
                raise DamageFound(
                    f"{path} has become shorter while it was in use: {now.st_size:,} bytes of {then.st_size:,}. Another"
                    f" program writes to it; `hrfr-fast check {path.parent}` lists all damage"
                )

    def free_pages(self) -> None:
        """Give back the memory of the pages read so far; they are read again when they are needed again."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _map_over(address: int, path: Path, size: int) -> None:
    """Map ``path`` at ``address``, over what is mapped there; it is unmapped with the range that it lies in."""
    system: Any = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    file = os.open(path, os.O_RDONLY)
    try:
        if system.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, file, 0) != address:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(file)
