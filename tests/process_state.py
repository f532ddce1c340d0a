"""State that belongs to the whole process: what a test changes here, every later test would run with."""

import fcntl
import gc
import locale
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import torch
from numba.np.ufunc import parallel

from hrfr_fast.packing.decode import opencv_logging

with suppress(ImportError):  # now, so that no test is the one whose import sets something up
    import matplotlib
    import sklearn  # noqa: F401 (KMP_ variables of the environment)

# torch's DataLoader sets its own handler of SIGCHLD once and keeps it.
SIGNALS = {str(number): number for number in sorted(signal.valid_signals() - {signal.SIGCHLD})}
# Set by pytest for each test, and by torch itself when it is first asked for its compiler's cache.
SET_BY_OTHERS = {"PYTEST_CURRENT_TEST", "PYTEST_VERSION", "TORCHINDUCTOR_CACHE_DIR"}
# Types that all of numba's kernels share; held here, since numba forgets those that nothing holds.
NUMBA_ARRAYS = [getattr(numba, name)[::1] for name in ("uint8", "uint16", "int32", "int64", "uint64", "float32")]


def seed_everything() -> None:
    """The same global random numbers for each test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def process_state() -> dict[str, Any]:
    """What it is now, by name. Warnings filters are not here: pytest gives each test its own."""
    return {
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name not in SET_BY_OTHERS and not name.startswith("_TORCHINDUCTOR_")
        },
        "working directory": os.getcwd(),
        "umask": _umask(),
        "signal handlers": {name: signal.getsignal(number) for name, number in SIGNALS.items()},
        "garbage collection": [gc.isenabled(), gc.get_threshold()],
        "locale": locale.setlocale(locale.LC_ALL),
        "logging": _logging(),
        "matplotlib": _matplotlib(),
        "torch's threads": torch.get_num_threads(),
        "torch's settings": _torch_settings(),
        "numba's threads": _numba_threads(),
        "numba's types": [array.mutable for array in NUMBA_ARRAYS],
        "OpenCV's threads": cv2.getNumThreads(),
        "OpenCV's log level": opencv_logging().getLogLevel(),
        "threads": {thread for thread in threading.enumerate() if not _lasts(thread)},
        "child processes": _children(),
        "open files": _open_files(),
    }


def changes(before: dict[str, Any], patience: float = 2.0) -> list[str]:
    """One line for each thing that is not as it was; what is just ending gets ``patience`` seconds for it."""
    end = time.monotonic() + patience
    while found := _differences(before, process_state()):
        if time.monotonic() > end:
            break
        gc.collect()  # cycles hold on to files
        time.sleep(0.02)
    return found


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    found = []
    for name, then in before.items():
        now = after[name]
        if isinstance(then, set):
            if more := now - then:
                found.append(f"{name}: left {sorted(map(str, more))}")
        elif now != then and isinstance(then, dict):
            differing = [key for key in then | now if then.get(key) != now.get(key)]
            found.append(f"{name}: " + ", ".join(f"{k} was {then.get(k)!r}, is {now.get(k)!r}" for k in differing))
        elif now != then:
            found.append(f"{name}: was {then!r}, is {now!r}")
    return found


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _logging() -> dict[str, Any]:
    root = logging.getLogger()
    handlers = [one for one in root.handlers if not type(one).__module__.startswith("_pytest")]
    return {"handlers": handlers, "level": root.level, "disabled": logging.root.manager.disable}


def _matplotlib() -> dict[str, Any]:
    """Backend, settings and open figures."""
    if "matplotlib" not in sys.modules:
        return {}
    pyplot = sys.modules.get("matplotlib.pyplot")
    return {**dict.copy(matplotlib.rcParams), "open figures": pyplot.get_fignums() if pyplot else []}


def _torch_settings() -> dict[str, Any]:
    # cuDNN's flags are not here: choosing a GPU sets them for the process, and leaves them.
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matrix products": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "oneDNN": torch.backends.mkldnn.enabled,
    }


def _lasts(thread: threading.Thread) -> bool:
    """Whether a thread belongs to the process, once started: tqdm's, those of the CPU's kernels, those of torch's
    compiler for GPUs, and torch's own that called Python once."""
    names = ("hrfr-kernels", "InductorSubproc", "subproc_worker_timer")
    return type(thread).__name__ in ("TMonitor", "_DummyThread") or thread.name.startswith(names)


def _numba_threads() -> int:
    """Of this thread; asking numba itself would start them."""
    return numba.get_num_threads() if parallel._is_initialized else numba.config.NUMBA_NUM_THREADS


def _children() -> set[int]:
    """Those of this thread, but for what lasts: the one that Python starts with the first pool, torch's compilers."""
    multiprocessing.active_children()  # joins those that have ended
    try:
        found = set(map(int, Path("/proc/thread-self/children").read_text(encoding="utf-8").split()))
    except OSError:  # a kernel that does not list them
        return set()
    return {child for child in found if not _compiles(child)} - {resource_tracker._resource_tracker._pid}


def _compiles(child: int) -> bool:
    """Whether it is the process in which torch compiles kernels for GPUs; once started it lasts as long as this one."""
    try:
        return b"compile_worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def _open_files() -> set[str]:
    """Files that this process holds open for writing. Maps of shards that fixtures share, and fonts, stay open."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            mode = fcntl.fcntl(int(descriptor), fcntl.F_GETFL) & os.O_ACCMODE
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the listing's own
            continue
        if mode != os.O_RDONLY and target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
            found.add(f"{descriptor} -> {target}")
    return found
