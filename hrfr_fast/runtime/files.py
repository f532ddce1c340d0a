"""Atomic writes, temporary name, fsync and rename, so that a reader never sees half a file.

Where the system refuses (a full disk, a quota, a read-only file system) CannotWrite is raised, which names the file.
"""

import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hrfr_fast.runtime.errors import CannotWrite, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFUSED = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EFBIG: "the file is larger than the system allows here (see `ulimit -f`, and the file system's own limit)",
    errno.EROFS: "the file system is read-only; choose another place, or mount it for writing",
}
"""Errors that only writing meets, and what to do."""
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of fsync on file systems that have none: there is nothing to wait for."""


def in_words(error: OSError, doing: str) -> str:
    """Message for an error of the system that no other code has explained; ``doing``: what was being done."""
    if error.filename is not None:
        return f"{error.filename}: {REFUSED.get(error.errno or 0, error.strerror or error)}"
    return f"{doing}: the system says: {error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no number')})"


def refuse_lost_directory() -> None:
    """Raise UsageError where the working directory was deleted: relative paths and workers need it."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the working directory cannot be found ({error.strerror}): it was deleted or moved away. Change to another"
            " one (cd) and run the command again"
        ) from None


@contextmanager
def writing(path: str | Path, then: Callable[[], str] = str) -> Iterator[None]:
    """A context that turns the system's refusal to write into CannotWrite.

    Args:
        path: named where the system's error names no file.
        then: gives, after an error, the sentence on what is kept and how to go on; it replaces an inner context's.
    """
    try:
        yield
    except CannotWrite as error:
        raise CannotWrite(error.what, then() or error.then) from error
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise CannotWrite(f"{error.filename or path}: {REFUSED[error.errno]}", then()) from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing; it appears whole when the block ends, and not at all when it raises.

    Raises CannotWrite where the system refuses; what was at ``path`` before is still there then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            fsync(file.fileno())
        os.replace(temporary, path)
        fsync_directory(path.parent)
    except OSError as error:
        reason = REFUSED.get(error.errno or 0, f"cannot be written: {error.strerror or error}")
        raise CannotWrite(f"{path}: {reason}", "Nothing was changed there") from error
    finally:
        with suppress(OSError):  # on a read-only file system even of a file that is not there: what failed was said
            temporary.unlink(missing_ok=True)


def remove_leftovers(directory: Path, name: str = "*", *, below: bool = False) -> None:
    """Delete what killed processes left of writing files ``name`` (a pattern) in ``directory``, and ``below`` it: each
    may be as large as a checkpoint. What a process of this machine still writes stays.

    Nobody else may be writing there, on whatever machine.
    """
    for path in (directory.rglob if below else directory.glob)(f".{name}.*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and not os.path.exists(f"/proc/{process}"):
            with suppress(OSError):  # another machine has been faster
                path.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` atomically."""
    with atomic_write(path) as file:
        file.write(content)


def write_json(path: str | Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, atomically. Raises ValueError for NaN."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_array(path: str | Path, array: "NDArray[Any]") -> None:
    """Replace ``path`` by a ``.npy`` file of ``array`` atomically."""
    import numpy as np

    content = io.BytesIO()  # np.save to a file does not report why it failed
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def fsync(descriptor: int) -> None:
    """Wait until what was written to an open file is on the disk, where the file system can do that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def fsync_directory(path: str | Path) -> None:
    """Make renames and new names in the directory ``path`` survive a power cut, where the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, *NO_SYNC):  # writable but not readable: it cannot be opened
            return
        raise
    try:
        fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EBADF:  # some network file systems raise it for every directory
            raise
    finally:
        os.close(descriptor)
