"""Cache directories of numba, Triton, torch and matplotlib on machines without a writable home directory.

A container started with ``--user``, a read-only installation and cron have no home that can be written to. numba then
refuses to compile, Triton and older releases of torch fail, matplotlib warns. Where a library's own choice cannot be
written to, it gets a private directory instead, which is removed at exit.
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

PRIVATE = "hrfr-fast-cache-"
"""How the name of a private folder begins."""
PROBE = bytes(1 << 20)  # about the size of the compiled kernels, so that a full disk or quota is noticed


@cache
def use_writable_caches() -> tuple[str, ...]:
    """Set libraries' environment variables to a private directory where their usual cache cannot be written to.

    To be called before numba, matplotlib, Triton or torch's compiler are used; only the first call does anything. A
    message is printed where it concerns numba, whose kernels are then compiled at every start.

    Returns:
        The environment variables that were set, none on a usual machine. Processes started later inherit them.
    """
    _set_user_name()
    lacking = tuple(name for name, folders in _usual_folders().items() if not any(map(writable, folders)))
    folder = private_folder() if lacking else None
    for name in lacking:
        if folder:
            os.environ[name] = str(folder / name.lower())
    if "NUMBA_CACHE_DIR" in lacking:
        console.print(
            "no cache directory can be written to: the CPU's kernels are compiled at every start, which takes half a"
            " minute to a minute; set NUMBA_CACHE_DIR to a directory that can be written to, and they are kept",
            markup=False, highlight=False,
        )  # fmt: skip
    return lacking


def numba_keeps_kernels() -> bool:
    """Whether numba has a directory for compiled kernels, if only until exit; it may have been imported before."""
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
    """Whether a cache can be made in ``folder``, or in its first existing parent: compiled kernels would fit there."""
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
    for parent in (tempfile.gettempdir, lambda: "/dev/shm"):  # a container started with --read-only may have no other
        with suppress(OSError):
            place = Path(parent())
            _remove_left(place)
            folder = Path(tempfile.mkdtemp(prefix=f"{_private_names()}{os.getpid()}-", dir=place))
            atexit.register(_remove, folder, os.getpid())
            return folder
    return None


def _usual_folders() -> dict[str, tuple[Path, ...]]:
    """Environment variable -> directories, of which its library uses the first that it can write to."""
    usual = {
        "NUMBA_CACHE_DIR": (Path(__file__).parents[1] / "resampling" / "__pycache__", cache_home() / "numba"),
        "MPLCONFIGDIR": (cache_home() / "matplotlib",),
        "TRITON_CACHE_DIR": (Path(os.environ.get("TRITON_HOME") or _home()) / ".triton" / "cache",),
    }
    return {name: (Path(os.environ[name]),) if os.environ.get(name) else folders for name, folders in usual.items()}


def _home() -> Path:
    home = Path(os.path.expanduser("~"))
    return home if home.is_absolute() else Path("/proc/nonexistent")  # this user has no home


def _set_user_name() -> None:
    """Set a name for a user without one: older releases of torch ask for it, and fail."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"


def _private_names() -> str:
    """How names of private folders begin where process numbers mean what they mean here: containers may share one."""
    try:
        return f"{PRIVATE}{os.stat('/proc/self/ns/pid').st_ino}-"
    except OSError:
        return f"{PRIVATE}0-"


def _remove_left(place: Path) -> None:
    """Remove the private folders of this user's processes that were killed: in /dev/shm they take memory."""
    names = _private_names()
    for folder in place.glob(f"{names}*"):
        process = folder.name.removeprefix(names).partition("-")[0]
        if process.isdecimal() and not os.path.exists(f"/proc/{process}") and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a forked child
        shutil.rmtree(folder, ignore_errors=True)
