"""Writing files so that a reader never sees half of one: temporary name, fsync, rename."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing; it appears whole when the block ends, and not at all when it raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` atomically."""
    with atomic_write(path) as file:
        file.write(content)


def write_json(path: str | Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, atomically. Raises ValueError for NaN."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def fsync_directory(path: str | Path) -> None:
    """Make renames and new names in the directory ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
