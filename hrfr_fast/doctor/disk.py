"""Measurement of a disk: how fast it writes, reads and answers random reads."""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import fsync

PROBE_BYTES = 64 << 20
BLOCK = 4096
RANDOM_SECONDS = 0.3


@dataclass(frozen=True)
class Disk:
    """Speed of the disk under a folder, measured without the page cache where the system allows that."""

    folder: str
    free_bytes: int
    write_bytes_per_second: float
    read_bytes_per_second: float
    random_reads_per_second: float
    """Reads of 4 KiB, one at a time."""


def measure_disk(folder: Path, size: int = PROBE_BYTES) -> Disk:
    """Speed of a file of ``size`` bytes in ``folder``, removed afterwards. Raises UsageError on a full disk."""
    free = shutil.disk_usage(folder).free
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            file.write(content)
            file.flush()
            fsync(file.fileno())
            written = time.perf_counter() - start
            _drop_cached_pages(file.fileno())
            start = time.perf_counter()
            file.seek(0)
            while file.read(4 << 20):
                pass
            read = time.perf_counter() - start
            _drop_cached_pages(file.fileno())
            return Disk(str(folder), free, size / written, size / read, _random_reads(file.fileno(), size))
    except OSError as error:
        raise UsageError(f"{folder}: the disk cannot be measured there: {error.strerror}") from error


def _drop_cached_pages(descriptor: int) -> None:
    """Ask the system to drop the file's pages from its cache, so that reading reaches the disk."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _random_reads(descriptor: int, size: int) -> float:
    """Random reads a second of a file of ``size`` bytes."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    blocks = np.random.default_rng(1).permutation(size // BLOCK).tolist()
    start, done = time.perf_counter(), 0
    for block in blocks:
        os.pread(descriptor, BLOCK, block * BLOCK)
        done += 1
        if time.perf_counter() - start > RANDOM_SECONDS:
            break
    return done / (time.perf_counter() - start)
