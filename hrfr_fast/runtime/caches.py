"""Where the libraries beneath us keep what they compile, on machines where nobody can write to a home.

A container started with ``--user``, a read-only installation and cron have no home that can be written to. numba then
refuses to compile, Triton and older releases of torch fail, matplotlib complains. They are given one private directory
instead, which is removed at exit, and only where their own choice cannot be written to.
"""

import atexit
import getpass
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from hrfr_fast.runtime.progress import console

PROBE = bytes(1 << 20)  # about the size of the compiled kernels, so that a full disk or quota shows itself


@cache
def use_writable_caches() -> tuple[str, ...]:
    """Point libraries to a private directory for their caches where the usual one cannot be written to.

    To be called before numba, matplotlib, Triton or torch's compiler are used; only the first call does anything. It
    says so once where it concerns numba, whose kernels are then compiled anew at every start.

    Returns:
        The environment variables that were set, none on a usual machine. Processes started later inherit them.
    """
    _name_the_user()
    lacking = tuple(name for name, places in _places().items() if not any(map(writable, places)))
    folder = private_folder() if lacking else None
    for name in lacking:
        if folder:
            os.environ[name] = str(folder / name.lower())
    if "NUMBA_CACHE_DIR" in lacking:
        console.print(
            "no cache directory can be written to: the CPU's kernels are compiled anew at every start, which takes some"
            " 15 seconds; set NUMBA_CACHE_DIR to a directory that can be written to, and they are kept",
            markup=False, highlight=False,
        )  # fmt: skip
    return lacking


def numba_keeps_kernels() -> bool:
    """Whether numba has a directory to keep compiled kernels in, be it until exit; it may have been imported before."""
    from numba import config

    lacking = "NUMBA_CACHE_DIR" in use_writable_caches()
    if lacking and private_folder():
        config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # type: ignore[attr-defined]
    return not lacking or private_folder() is not None


def cache_home() -> Path:
    """The user's cache directory by the XDG convention; a path that does not exist where the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache")


@cache
def writable(folder: Path) -> bool:
    """Whether a cache can be kept in ``folder``: as much as compiled kernels take fits there, or above it."""
    if not folder.exists():
        return folder != folder.parent and writable(folder.parent)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(PROBE)
            file.flush()
    except OSError:
        return False
    return True


@cache
def private_folder() -> Path | None:
    """A directory for this process and those it starts, removed at exit; None where none can be made."""
    for parent in (None, "/dev/shm"):  # a container started with --read-only may have no other
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="hrfr-fast-cache-", dir=parent))
            atexit.register(_remove, folder, os.getpid())
            return folder
    return None


def _places() -> dict[str, tuple[Path, ...]]:
    """Variable -> directories, of which its library uses the first that it can write to."""
    usual = {
        "NUMBA_CACHE_DIR": (Path(__file__).parent / "data" / "__pycache__", cache_home() / "numba"),
        "MPLCONFIGDIR": (cache_home() / "matplotlib",),
        "TRITON_CACHE_DIR": (Path(os.environ.get("TRITON_HOME") or _home()) / ".triton" / "cache",),
    }
    return {name: (Path(os.environ[name]),) if os.environ.get(name) else places for name, places in usual.items()}


def _home() -> Path:
    home = Path(os.path.expanduser("~"))
    return home if home.is_absolute() else Path("/proc/nonexistent")  # the system knows no home of this user


def _name_the_user() -> None:
    """Give a user who has no name one: older releases of torch ask for it, and fail."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and no forked child of it
        shutil.rmtree(folder, ignore_errors=True)
