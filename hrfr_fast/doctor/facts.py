"""Facts of this machine: its cores, memory, GPU and disk, and which libraries are installed and work."""

import importlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.doctor.disk import Disk, measure_disk
from hrfr_fast.runtime.caches import use_writable_caches
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.gpu_software import DALI_WHEELS
from hrfr_fast.runtime.ranks import current_ranks
from hrfr_fast.runtime.system import cores, gib, memory


@dataclass(frozen=True)
class Facts:
    """Facts of a machine. Versions are empty where a library is missing; ``*_error`` says why it does not work."""

    cores: int
    memory_bytes: int
    memory_available_bytes: int
    shm_bytes: int
    gpus: tuple[str, ...] = ()
    """Name, memory and driver version of each GPU, as nvidia-smi prints them."""
    driver: str = ""
    torch: str = ""
    torch_cuda: str = ""
    """CUDA version that torch was built for; empty for a CPU build."""
    cuda_usable: bool = False
    gpu_capability: tuple[int, int] = (0, 0)
    """Compute capability of the GPU that torch sees."""
    torch_architectures: tuple[str, ...] = ()
    """Architectures that torch was built for."""
    gpu_memory_free_bytes: int = 0
    torch_error: str = ""
    compiler_error: str = ""
    """What Triton lacks for compiling the GPU's kernels."""
    dali: tuple[str, ...] = ()
    """Wheel and version of each installed wheel; two wheels overwrite each other."""
    dali_error: str = ""
    ffcv: str = ""
    ffcv_error: str = ""
    threads: str = ""
    """numba's threading layer: tbb, omp or workqueue."""
    jpeg: str = ""
    """What decodes JPEG on the host, as a clause of a sentence."""
    kernel_error: str = ""
    lost_caches: tuple[str, ...] = ()
    """Environment variables of caches whose usual directory cannot be written to: what they hold is lost at exit."""
    disk: Disk | None = None
    """None where the folder cannot be written to, where none was given, and on all ranks but rank 0."""


def collect_facts(folder: Path | None) -> Facts:
    """The facts of this machine; a library that fails to load is a fact, too. ``folder``: None leaves out its disk."""
    if folder and not folder.is_dir():
        raise UsageError(f"{folder}: no such directory; give the one whose disk is to be measured")
    total, available = memory()
    found: dict[str, Any] = {}
    for collect in (_torch_facts, _compiler_facts, _dali_facts, _ffcv_facts, _kernel_facts):
        found |= collect()
    gpus, driver = _gpus()
    disk = measure_disk(folder) if folder and os.access(folder, os.W_OK) and current_ranks().is_main else None
    return Facts(
        cores(), total, available, _shm(), gpus, driver, **found, lost_caches=use_writable_caches(), disk=disk
    )  # fmt: skip


def _shm() -> int:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return 0


def _gpus() -> tuple[tuple[str, ...], str]:
    """The GPUs that nvidia-smi lists, and the driver's version; both empty without an NVIDIA driver."""
    try:
        shown = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        module = Path("/proc/driver/nvidia/version")
        return (), module.read_text(encoding="utf-8").splitlines()[0] if module.exists() else ""
    lines = tuple(line.strip() for line in shown.splitlines() if line.strip())
    return lines, lines[0].rpartition(",")[2].strip() if lines else ""


def _torch_facts() -> dict[str, Any]:
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
    except RuntimeError as error:  # another process uses the GPU exclusively, or it is broken
        return {**found, "torch_error": _short(error)}


def _compiler_facts() -> dict[str, Any]:
    """Whether Triton can compile its launchers: it looks for a C compiler and Python's headers in the same way."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return {"compiler_error": "there is no C compiler"}
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return {} if headers.exists() else {"compiler_error": f"{headers} is missing"}


def _dali_facts() -> dict[str, Any]:
    wheels = tuple(f"{wheel} {found}" for wheel in DALI_WHEELS if (found := _version(wheel)))
    return {
        "dali": wheels,
        "dali_error": _import_error(partial(importlib.import_module, "nvidia.dali")) if wheels else "",
    }


def _ffcv_facts() -> dict[str, Any]:
    found = _version("ffcv")
    return {"ffcv": found, "ffcv_error": _import_error(_load_ffcv) if found else ""}


def _load_ffcv() -> None:
    from hrfr_fast.engines.ffcv import load_ffcv

    load_ffcv()


def _kernel_facts() -> dict[str, Any]:
    """Whether the CPU's kernel compiles and copies one pixel, and which threads numba has."""
    try:
        import numba

        from hrfr_fast.resampling.cpu import resample
        from hrfr_fast.sampling.augmentation import no_augmentation

        pixel = np.full((1, 1, 1, 3), 7, np.uint8)
        out = np.zeros_like(pixel)
        resample(pixel.reshape(-1), np.zeros(1, np.int64), 1, no_augmentation(1), out)
        if (out != pixel).any():
            return {"kernel_error": "the resampling kernel gives wrong pixels"}
        return {"threads": str(numba.threading_layer()), "jpeg": _jpeg()}
    except Exception as error:
        return {"kernel_error": _short(error)}


def _jpeg() -> str:
    from hrfr_fast.engines.turbojpeg import jpeg_decoder

    return jpeg_decoder() if find_spec("simplejpeg") else "JPEG needs simplejpeg, which is not installed"


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
    """The facts as the command prints them: names and values."""
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
