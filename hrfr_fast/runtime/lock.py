"""One writer a directory: a lock held while a command writes there, whose file names the holder.

The lock is the kernel's (``flock``) and ends with its process however that ends, so a file left by a killed one is no
obstacle. On file systems without it the file's content stands in: its holder counts as long as its process is there.
"""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import writing

NAME = ".hrfr-fast.lock"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What ``flock`` says on file systems that have no locks, NFS without its lock service for one."""
SETTLING_SECONDS = 0.2  # without locks: how long two that start at once wait to see whose name stays in the file
COMMAND_LENGTH = 200

_held: set[int] = set()


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Create ``directory`` and hold it for this process; on leaving, what was created and stayed empty is removed.

    Raises:
        UsageError: another command (or another thread of this process) holds it; says which, where and since when.
        CannotWrite: nothing can be written there.
    """
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    path = directory / NAME
    with writing(path):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    _held.add(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that it is gone
        _held.discard(descriptor)
        os.close(descriptor)
        with suppress(OSError):
            for one in missing:
                one.rmdir()


def _acquire(path: Path) -> int:
    """An open file at ``path`` that this process holds and that names it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _hold(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _hold(descriptor: int, path: Path) -> bool:
    """Lock and sign the open file; False where its holder removed it meanwhile, and a new one is to be opened."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, _settled(descriptor)) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise OSError(error.errno, error.strerror, str(path)) from None
        _hold_by_name(descriptor, path)
        return True
    try:
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return False
    except FileNotFoundError:
        return False
    _sign(descriptor)
    return True


def _hold_by_name(descriptor: int, path: Path) -> None:
    """Take the file where the system has no locks, unless it names a process that may still run."""
    holder = _read(descriptor)
    if holder and _may_run(holder):
        raise _in_use(path, holder, f" (if it no longer runs, remove {path}: this file system has no locks)")
    mine = _sign(descriptor)
    time.sleep(SETTLING_SECONDS)
    if (holder := _read(descriptor)) != mine:
        raise _in_use(path, holder)


def _sign(descriptor: int) -> dict[str, Any]:
    """Name this process in the lock file."""
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command.encode("utf-8", "replace").decode()[:COMMAND_LENGTH],
        "born": _birth(os.getpid()),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return holder


def _read(descriptor: int) -> dict[str, Any]:
    """Who the lock file names; nobody where it is empty or not whole."""
    try:
        holder = json.loads(os.pread(descriptor, 1 << 16, 0))
        return holder if {"pid", "host", "since", "command", "born"} <= holder.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _settled(descriptor: int) -> dict[str, Any]:
    """As ``_read``, after the moment that a new holder takes to write its name."""
    for _ in range(20):
        if holder := _read(descriptor):
            return holder
        time.sleep(SETTLING_SECONDS / 20)
    return {}


def _in_use(path: Path, holder: dict[str, Any], more: str = "") -> UsageError:
    who = "another process"
    if holder:
        who = f"`{holder['command']}` (process {holder['pid']} on {holder['host']}, since {holder['since']})"
    return UsageError(f"{path.parent} is in use by {who}; wait until it ends, or choose another directory{more}")


def _may_run(holder: dict[str, Any]) -> bool:
    """Whether the process that is named may still be there; of another machine nothing is known."""
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's
        pass
    return _birth(holder["pid"]) in ("", holder["born"])


def _birth(pid: int) -> str:
    """When a process was started, in ticks since the machine was: tells it from a later one of the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _close_in_child() -> None:
    """A forked process shares its parent's lock, and must not keep it when the parent has ended."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
