"""Choice of the device and of the number format to compute in. The CPU is never a silent fallback."""

import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.freed_memory import keep_freed_memory
from hrfr_fast.runtime.gpu_software import architecture_fix, torch_fix
from hrfr_fast.runtime.ranks import Ranks, current_ranks
from hrfr_fast.runtime.system import threads_per_rank

ModuleT = TypeVar("ModuleT", bound=nn.Module)

CONVOLUTION_PLANS = 10
"""How many of cuDNN's algorithms are timed for each convolution, in the order that it expects them to be fast; 0: all.
Of all, some take seconds on large maps: at 144 px timing them took 65 s with 256 images, and more than 170 s with
1,024, on an H200."""


@dataclass(frozen=True)
class Compute:
    """Device, autocast type (None: float32 throughout) and whether gradients need loss scaling."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    scaled: bool

    def place(self, module: ModuleT) -> ModuleT:
        """``module`` on the device, its convolutions in channels-last."""
        return module.to(device=self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager[object]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    @property
    def precision(self) -> str:
        """The number format as the settings call it: bf16, fp16 or fp32."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self.autocast_dtype, "fp32")  # type: ignore[arg-type]

    @property
    def image_dtype(self) -> torch.dtype:
        """Type of the images that engines make: the autocast type, so that the first convolution casts nothing."""
        return self.autocast_dtype or torch.float32

    def free_memory(self) -> int:
        """Free bytes of GPU memory; 0 on a CPU."""
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 0

    def __str__(self) -> str:
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"{where}, {str(self.image_dtype).removeprefix('torch.')}"


def choose_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve ``auto | cpu | cuda`` and ``auto | bf16 | fp16 | fp32``; on a CPU the process keeps freed memory.

    Of several ranks on a machine each has the GPU of its own number.

    Raises:
        HrfrError: a driver is there but CUDA is unusable, with the fix.
        UsageError: ``cuda`` on a machine without one, or with fewer than ranks; ``fp16`` on a CPU.
    """
    _share_cores()
    if device == "auto":
        device = "cuda" if _cuda_usable() else "cpu"
    elif device == "cuda" and not _cuda_usable():
        raise UsageError("--device cuda: there is no NVIDIA GPU here; use --device cpu")
    on_cuda = device == "cuda"
    if on_cuda:
        # Shapes are static: let cuDNN time its algorithms once, unless the choice has to be the same every time.
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        torch.backends.cudnn.benchmark_limit = CONVOLUTION_PLANS
    else:
        keep_freed_memory()
    if precision == "auto":
        precision = fastest_precision(on_cuda)
    if precision == "fp16" and not on_cuda:
        raise UsageError("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if on_cuda:
        torch.backends.cudnn.allow_tf32 = precision != "fp32"  # its default rounds fp32 to 11 bits
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
    return Compute(_own_gpu(current_ranks()) if on_cuda else torch.device(device), dtype, scaled=precision == "fp16")


def _own_gpu(ranks: Ranks) -> torch.device:
    """The GPU of this rank, which becomes the current one; without others torch's current one, unnumbered."""
    if not ranks.distributed:
        return torch.device("cuda")
    count = torch.cuda.device_count()
    if ranks.local_count > count:  # on all of them, so that none waits for one that has ended
        raise UsageError(
            f"{ranks.local_count} ranks on a machine with {count} GPU{'s' * (count != 1)}: each needs one of its own;"
            f" start torchrun with --nproc-per-node {count}, or train with --device cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def _share_cores() -> None:
    """Give torch and numba this rank's share of the cores; a process without others keeps their own choice.

    Two ranks that each computed with all cores would wait for each other in every parallel loop; with torchrun's
    default of one thread most cores would be idle.
    """
    if not current_ranks().distributed:
        return
    threads = threads_per_rank()
    torch.set_num_threads(threads)
    if "numba" not in sys.modules:  # which reads it when it is imported, and refuses another number later
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
        return
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def fastest_precision(on_cuda: bool) -> str:
    """bf16 where the hardware computes it, else fp16 on a GPU and fp32 on a CPU.

    A CPU without bf16 instructions emulates them: measured 5 to 7 times slower than fp32 with AVX2 alone, while one
    with AMX is up to 10 times faster in bf16.
    """
    if on_cuda:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def _cuda_usable() -> bool:
    driver = _driver()
    if torch.cuda.is_available():
        capability, built_for = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
        missing = architecture_fix(torch.__version__, capability, built_for, driver)
        if missing:
            raise HrfrError(missing)
        return True
    if driver:
        raise HrfrError(torch_fix(torch.__version__, torch.version.cuda or "", driver))
    return False


def _driver() -> str:
    """The kernel's line on its NVIDIA driver; "nvidia-smi" where there is only that tool, as under WSL; else ""."""
    version = Path("/proc/driver/nvidia/version")
    if version.exists():
        return version.read_text(encoding="utf-8").partition("\n")[0]
    return "nvidia-smi" if shutil.which("nvidia-smi") else ""


def kernels_run_on(device: torch.device) -> bool:
    """Whether Triton is installed and runs kernels on ``device``: CUDA, or a CPU under its interpreter."""
    if find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
