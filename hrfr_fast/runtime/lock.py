"""Lock of a directory, held while a command writes there; its file names the holder.

The lock is the system's (``flock``) and ends with its process however that ends, so the file of a killed process does
no harm. On file systems without ``flock`` the file's content decides: the lock is held while the process it names runs.
Of a process on another machine nobody knows whether it runs, so its lock is held until somebody removes the file; but
for locks ``on_behalf_of`` a directory whose holder vouches that their processes have ended.
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
from hrfr_fast.runtime.files import fsync, remove_leftovers, writing
from hrfr_fast.runtime.untrusted import parsed_json

NAME = ".hrfr-fast.lock"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""Errors of ``flock`` on file systems that have no locks, such as NFS without its lock service."""
SETTLING_SECONDS = 0.2  # without flock: how long two processes that start at once wait to see whose name remains
COMMAND_LENGTH = 200

_held: set[int] = set()
_behalf, _patience = "", 0.0  # of ``on_behalf_of``


@contextmanager
def on_behalf_of(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """A context whose locks are taken for whoever holds ``directory``, who lets no two processes work on one part of
    it: the next one for a part is started after the last has ended.

    So on a file system without ``flock`` a lock that was taken for the same holder of ``directory`` by a process on
    another machine, which cannot be asked whether it runs, is taken over. A later holder knows nothing of the processes
    of an earlier one and takes over none of theirs.

    Args:
        patience: seconds to wait for a lock that is in use: the server of a network file system ends the locks of a
            machine that is gone only after a while, 90 s with NFS as it comes.
    """
    global _behalf, _patience
    before = _behalf, _patience
    _behalf, _patience = _identity_of_holder(directory), patience
    try:
        yield
    finally:
        _behalf, _patience = before


def holder_of(directory: Path) -> dict[str, Any]:
    """Who holds ``directory``: pid, host, since, command, born, behalf. Empty where nobody does or has said so.

    On file systems with ``flock`` the file of a killed process still names it.
    """
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY)
    except OSError:
        return {}
    try:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)


def _identity_of_holder(directory: Path) -> str:
    """Which process holds ``directory``, in words that no other one has; "" where nobody does."""
    holder = holder_of(directory)
    if not holder:
        return ""
    process = f"process {holder['pid']} of {holder['host']} since {holder['since']} (born {holder['born']})"
    return f"{directory.resolve()}, held by {process}"


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Create ``directory`` and lock it; directories that were created and are still empty at the end are removed.

    What a killed holder left of files that it was writing there is deleted.

    Raises:
        UsageError: another command (or another thread of this process) holds it; says which, where and since when.
        CannotWrite: nothing can be written there.
    """
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    path = directory / NAME
    with writing(path):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire_patiently(path)
    _held.add(descriptor)
    try:
        remove_leftovers(directory)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: a process that opened it meanwhile sees that it is gone
        _held.discard(descriptor)
        os.close(descriptor)
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def _acquire_patiently(path: Path) -> int:
    """As ``_acquire``, trying again for as long as ``on_behalf_of`` says while it is in use."""
    deadline = time.monotonic() + _patience
    while True:
        try:
            return _acquire(path)
        except UsageError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(min(1.0, _patience / 10))


def _acquire(path: Path) -> int:
    """An open file at ``path`` that this process has locked and that names it."""
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
    """Lock the open file and write the holder into it; False where its last holder has removed it meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, _wait_for_holder(descriptor)) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise OSError(error.errno, error.strerror, str(path)) from None
        _hold_by_name(descriptor, path)
        return _is_at(path, descriptor)
    if not _is_at(path, descriptor):
        return False
    _write_holder(descriptor)
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at ``path``: its last holder may have removed it since it was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _hold_by_name(descriptor: int, path: Path) -> None:
    """Hold the file where the system has no locks, unless it names a process that may still run."""
    holder = _read_holder(descriptor)
    if holder and _may_run(holder) and not _vouched_for(holder):
        raise _in_use(path, holder, f" (if it no longer runs, remove {path}: this file system has no locks)")
    own_entry = _write_holder(descriptor)
    time.sleep(SETTLING_SECONDS)
    if (holder := _read_holder(descriptor)) != own_entry:
        raise _in_use(path, holder)


def _write_holder(descriptor: int) -> dict[str, Any]:
    """Name this process in the lock file."""
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command.encode("utf-8", "replace").decode()[:COMMAND_LENGTH],
        "born": _start_time(os.getpid()),
        "behalf": _behalf,
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    with suppress(OSError):  # for other machines that share the file system; a full disk is told where data are written
        fsync(descriptor)
    return holder


def _read_holder(descriptor: int) -> dict[str, Any]:
    """The holder that the lock file names; empty where the file is empty, incomplete, or no file of ours."""
    try:
        holder: dict[str, Any] = parsed_json(os.pread(descriptor, 1 << 16, 0))
        texts = all(isinstance(holder[name], str) for name in ("host", "since", "command", "born"))
        return holder if texts and type(holder["pid"]) is int and 0 < holder["pid"] < 1 << 31 else {}
    except (ValueError, LookupError, TypeError):
        return {}


def _wait_for_holder(descriptor: int) -> dict[str, Any]:
    """As ``_read_holder``, after waiting until a new holder has written its name."""
    for _ in range(20):
        if holder := _read_holder(descriptor):
            return holder
        time.sleep(SETTLING_SECONDS / 20)
    return {}


def _in_use(path: Path, holder: dict[str, Any], advice: str = "") -> UsageError:
    who = "another process"
    if holder:
        who = f"`{holder['command']}` (process {holder['pid']} on {holder['host']}, since {holder['since']})"
    return UsageError(f"{path.parent} is in use by {who}; wait until it ends, or choose another directory{advice}")


def _may_run(holder: dict[str, Any]) -> bool:
    """Whether the holder may still run; a process on another machine always may."""
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs as another user
        pass
    return _start_time(holder["pid"]) in ("", holder["born"])


def _vouched_for(holder: dict[str, Any]) -> bool:
    """Whether whoever started this process knows that the holder, on another machine, has ended."""
    return bool(_behalf) and holder.get("behalf") == _behalf and holder["host"] != socket.gethostname()


def _start_time(pid: int) -> str:
    """Start of a process in clock ticks after boot, which distinguishes it from a later one of the same number.

    Empty where the system does not tell.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]  # a zombie: nobody has asked yet how it ended
    except (OSError, IndexError):
        return ""


def _close_in_child() -> None:
    """Release the lock in a forked child, which would otherwise keep it after its parent has ended."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
