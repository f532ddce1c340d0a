"""``hrfr-fast doctor``: what is here, what each engine can do with it, and the fix for what is missing.

Looking and judging are apart: ``look`` gathers facts from the machine, ``diagnose`` is a pure function of them.
"""

import importlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.runtime.caches import use_writable_caches
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import fsync
from hrfr_fast.runtime.gpu_software import (
    COMPILER_FIX,
    DALI_WHEELS,
    architecture_fix,
    dali_fix,
    install_torch,
    replace_dali,
    torch_fix,
)
from hrfr_fast.runtime.system import cores, gib, memory

PROBE_BYTES = 64 << 20
BLOCK = 4096
RANDOM_SECONDS = 0.3
DALI_FIX = "pip install nvidia-dali-cuda120 (one wheel only: the cuda120 and cuda130 wheels own the same files)"
FFCV_FIX = "tools/install_ffcv.sh VENV, from a checkout of hrfr-fast, builds it"
LEAST_SHM = 1 << 30  # what loaders with worker processes beside this one need; our engines use none


@dataclass(frozen=True)
class Disk:
    """Measured on one folder, past the page cache where the system lets us."""

    folder: str
    free_bytes: int
    write_bytes_per_second: float
    read_bytes_per_second: float
    random_reads_per_second: float
    """Of 4 KiB, one at a time."""


@dataclass(frozen=True)
class Facts:
    """What is here. Versions are empty where a thing is missing; ``*_error`` says why it does not work."""

    cores: int
    memory_bytes: int
    memory_available_bytes: int
    shm_bytes: int
    gpus: tuple[str, ...] = ()
    """Name, memory and driver, a line each, as the driver tells."""
    driver: str = ""
    torch: str = ""
    torch_cuda: str = ""
    """The CUDA release torch was built for; empty for a CPU build."""
    cuda_usable: bool = False
    gpu_capability: tuple[int, int] = (0, 0)
    """The compute capability of the GPU that torch sees, and the architectures torch was built for."""
    torch_architectures: tuple[str, ...] = ()
    gpu_memory_free_bytes: int = 0
    torch_error: str = ""
    compiler_error: str = ""
    """What Triton lacks to compile kernels for the GPU."""
    dali: tuple[str, ...] = ()
    """Wheel and version; two wheels are one too many."""
    dali_error: str = ""
    ffcv: str = ""
    ffcv_error: str = ""
    threads: str = ""
    """numba's threading layer: tbb, omp or workqueue."""
    kernel_error: str = ""
    lost_caches: tuple[str, ...] = ()
    """Variables of the libraries' caches that no usual place can be written for: they are lost at exit."""
    disk: Disk | None = None
    """None where the folder cannot be written to."""


@dataclass(frozen=True)
class Verdict:
    """What one engine can do here."""

    engine: str
    works: bool
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything the command prints."""

    facts: Facts
    engines: list[Verdict]
    fixes: list[str] = field(default_factory=list)

    @property
    def works(self) -> bool:
        """Whether any engine can feed training here."""
        return any(verdict.works for verdict in self.engines)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "works": self.works}


def examine(folder: str | Path = ".") -> Diagnosis:
    """Look at this machine, measuring the disk under ``folder`` for a second or two, and diagnose.

    A folder that cannot be written to is not measured. Raises UsageError where ``folder`` is no directory.
    """
    return diagnose(look(Path(folder)))


def diagnose(facts: Facts) -> Diagnosis:
    """What each engine can do with these facts, and what to mend."""
    no_code = (
        architecture_fix(facts.torch, facts.gpu_capability, facts.torch_architectures, facts.driver)
        if facts.torch_architectures
        else ""
    )
    gpu = bool(facts.gpus) and facts.cuda_usable and not no_code
    engines = [_resident(facts, gpu), _dali(facts, gpu), _ffcv(facts)]
    fixes = [f"{verdict.engine}: {verdict.fix}" for verdict in engines if verdict.fix]
    if facts.torch_error:
        fixes.insert(0, f"torch: {facts.torch_error}; {install_torch(facts.driver) or 'update the driver'}")
    elif (facts.driver or facts.gpus) and not facts.cuda_usable:
        fixes.insert(0, torch_fix(facts.torch, facts.torch_cuda, facts.driver))
    elif no_code:
        fixes.insert(0, no_code)
    if facts.lost_caches:
        fixes.append(
            f"no home can be written to, so what is compiled is lost at exit; set {', '.join(facts.lost_caches)} to"
            " directories that can be written to and stay"
        )
    if facts.shm_bytes < LEAST_SHM:
        fixes.append(
            f"/dev/shm holds {gib(facts.shm_bytes)}: enough for hrfr-fast, too little for a torch DataLoader with"
            " workers beside it; in a container, start it with --shm-size=8g"
        )
    return Diagnosis(facts, engines, fixes)


def _resident(facts: Facts, gpu: bool) -> Verdict:
    broken = facts.torch_error or facts.kernel_error
    if broken:
        return Verdict("resident", False, f"cannot run: {broken}", "pip install --force-reinstall numba torch")
    if gpu:
        room = gib(int(0.6 * facts.gpu_memory_free_bytes))
        text, fix = f"on the GPU, for training sets of up to {room} of raw pixels", ""
        if facts.compiler_error:
            text, fix = f"{text}; slowly, and without --compile: {facts.compiler_error}", COMPILER_FIX
        return Verdict("resident", True, text, fix)
    fix = (
        "pip install tbb (the threads numba has to itself now serve one caller)" if facts.threads == "workqueue" else ""
    )
    return Verdict("resident", True, f"on the CPU, one kernel over {facts.cores} cores ({facts.threads} threads)", fix)


def _dali(facts: Facts, gpu: bool) -> Verdict:
    if len(facts.dali) > 1:
        two = f"two wheels are installed ({', '.join(facts.dali)}) and own the same files"
        return Verdict("dali", False, two, replace_dali(list(DALI_WHEELS)))
    if not facts.dali:
        return Verdict("dali", False, "is not installed", DALI_FIX)
    if facts.dali_error:
        return Verdict("dali", False, f"cannot be imported: {facts.dali_error}", DALI_FIX)
    if facts.torch_error:
        return Verdict("dali", False, "needs torch to hand its batches to")
    wrong_wheel = dali_fix(facts.dali[0].split()[0], facts.driver) if gpu else ""
    if wrong_wheel:
        return Verdict("dali", False, "cannot use the GPU", wrong_wheel)
    where = "decodes and resamples on the GPU" if gpu else f"runs its graph on the CPU, {facts.cores} threads"
    return Verdict("dali", True, where)


def _ffcv(facts: Facts) -> Verdict:
    if not facts.ffcv:
        return Verdict("ffcv", False, "is not installed", FFCV_FIX)
    if facts.ffcv_error:
        return Verdict("ffcv", False, f"cannot be imported: {facts.ffcv_error}", FFCV_FIX)
    if facts.torch_error or facts.kernel_error:
        return Verdict("ffcv", False, "needs torch and the resampling kernel")
    if facts.threads == "workqueue":
        fix = "pip install tbb, or install OpenMP (libgomp1)"
        return Verdict("ffcv", False, "numba's workqueue threads abort when two use them at once", fix)
    return Verdict("ffcv", True, f"reads and decodes with {facts.cores} threads, the shared CPU kernel resamples")


# ---- looking ----


def look(folder: Path) -> Facts:
    """The facts of this machine; a thing that fails to load is a fact too."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory; give the one whose disk is to be measured")
    total, available = memory()
    found: dict[str, Any] = {}
    for one in (_look_at_torch, _look_at_compiler, _look_at_dali, _look_at_ffcv, _look_at_kernel):
        found |= one()
    gpus, driver = _gpus()
    disk = measure_disk(folder) if os.access(folder, os.W_OK) else None
    return Facts(
        cores(), total, available, _shm(), gpus, driver, **found, lost_caches=use_writable_caches(), disk=disk
    )  # fmt: skip


def _shm() -> int:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return 0


def _gpus() -> tuple[tuple[str, ...], str]:
    """What the driver's own tool says, and the driver's version; nothing without an NVIDIA driver."""
    try:
        shown = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        kernel = Path("/proc/driver/nvidia/version")
        return (), kernel.read_text(encoding="utf-8").splitlines()[0] if kernel.exists() else ""
    lines = tuple(line.strip() for line in shown.splitlines() if line.strip())
    return lines, lines[0].rpartition(",")[2].strip() if lines else ""


def _look_at_torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:
        return {"torch_error": _short(error)}
    found: dict[str, Any] = {"torch": torch.__version__, "torch_cuda": torch.version.cuda or ""}
    if not torch.cuda.is_available():
        return found
    found |= {"cuda_usable": True, "torch_architectures": tuple(torch.cuda.get_arch_list())}
    try:
        found["gpu_capability"] = torch.cuda.get_device_capability()
        return {**found, "gpu_memory_free_bytes": torch.cuda.mem_get_info()[0]}
    except RuntimeError as error:  # a card in use by somebody else, or broken
        return {**found, "torch_error": _short(error)}


def _look_at_compiler() -> dict[str, Any]:
    """What Triton compiles its launchers with, found as it finds it."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return {"compiler_error": "there is no C compiler"}
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return {} if headers.exists() else {"compiler_error": f"{headers} is missing"}


def _look_at_dali() -> dict[str, Any]:
    wheels = tuple(f"{wheel} {found}" for wheel in DALI_WHEELS if (found := _version(wheel)))
    return {
        "dali": wheels,
        "dali_error": _import_error(partial(importlib.import_module, "nvidia.dali")) if wheels else "",
    }


def _look_at_ffcv() -> dict[str, Any]:
    found = _version("ffcv")
    return {"ffcv": found, "ffcv_error": _import_error(_load_ffcv) if found else ""}


def _load_ffcv() -> None:
    from hrfr_fast.engines.ffcv import load_ffcv

    load_ffcv()


def _look_at_kernel() -> dict[str, Any]:
    """Run the CPU kernel on one pixel: it compiles, and numba says which threads it found."""
    try:
        import numba

        from hrfr_fast.resampling.cpu import resample
        from hrfr_fast.sampling.augmentation import no_augmentation

        pixel = np.full((1, 1, 1, 3), 7, np.uint8)
        out = np.zeros_like(pixel)
        resample(pixel.reshape(-1), np.zeros(1, np.int64), 1, no_augmentation(1), out)
        if (out != pixel).any():
            return {"kernel_error": "the resampling kernel gives wrong pixels"}
        return {"threads": str(numba.threading_layer())}
    except Exception as error:
        return {"kernel_error": _short(error)}


def measure_disk(folder: Path, size: int = PROBE_BYTES) -> Disk:
    """Write and read a file of ``size`` bytes in ``folder``; it is removed again. Raises UsageError on a full disk."""
    free = shutil.disk_usage(folder).free
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            file.write(content)
            file.flush()
            fsync(file.fileno())
            written = time.perf_counter() - start
            _forget(file.fileno())
            start = time.perf_counter()
            file.seek(0)
            while file.read(4 << 20):
                pass
            read = time.perf_counter() - start
            _forget(file.fileno())
            return Disk(str(folder), free, size / written, size / read, _random_reads(file.fileno(), size))
    except OSError as error:
        raise UsageError(f"{folder}: the disk cannot be measured there: {error.strerror}") from error


def _forget(descriptor: int) -> None:
    """Ask the system to drop the file's pages, so that reading reaches the disk."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _random_reads(descriptor: int, size: int) -> float:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
    blocks = np.random.default_rng(1).permutation(size // BLOCK).tolist()
    start, done = time.perf_counter(), 0
    for block in blocks:
        os.pread(descriptor, BLOCK, block * BLOCK)
        done += 1
        if time.perf_counter() - start > RANDOM_SECONDS:
            break
    return done / (time.perf_counter() - start)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _import_error(load: Callable[[], object]) -> str:
    try:
        load()
    except Exception as error:  # a library of the system that is missing is an ImportError, a broken one may be any
        return _short(error)
    return ""


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def rows(facts: Facts) -> list[tuple[str, str]]:
    """The facts as the command shows them."""
    disk, measured = facts.disk, "not measured, the folder cannot be written to"
    if disk:
        speed = (
            f"write {disk.write_bytes_per_second / 1e6:,.0f} MB/s, read {disk.read_bytes_per_second / 1e6:,.0f} MB/s"
        )
        measured = f"{speed}, {disk.random_reads_per_second:,.0f} random 4-KiB reads/s, {gib(disk.free_bytes)} free"
    return [
        ("GPU", "; ".join(facts.gpus) or "none"),
        ("driver", facts.driver or "none"),
        (
            "torch",
            f"{facts.torch or facts.torch_error} ({'CUDA ' + facts.torch_cuda if facts.torch_cuda else 'CPU build'})",
        ),
        ("DALI", ", ".join(facts.dali) or "missing"),
        ("FFCV", facts.ffcv or "missing"),
        ("cores", f"{facts.cores}, numba threads: {facts.threads or facts.kernel_error}"),
        ("memory", f"{gib(facts.memory_bytes)}, {gib(facts.memory_available_bytes)} available"),
        ("/dev/shm", gib(facts.shm_bytes)),
        ("disk", measured),
    ]
