"""Which device and which number format to compute in. The CPU is never a silent fallback."""

import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrfr_fast.errors import HrfrError, UsageError

if TYPE_CHECKING:
    import torch

FIX = (
    "An NVIDIA driver is installed but torch {version} cannot use it{why}.\n"
    "Fix: install a torch built for CUDA (`pip install --force-reinstall torch`) and check `nvidia-smi`; "
    "or train on the CPU on purpose with --device cpu."
)


@dataclass(frozen=True)
class Compute:
    """Device, autocast type (None: float32 throughout) and whether gradients need loss scaling."""

    device: "torch.device"
    autocast_dtype: "torch.dtype | None"
    scaled: bool

    def autocast(self) -> AbstractContextManager[object]:
        import torch

        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    @property
    def image_dtype(self) -> "torch.dtype":
        """What engines should hand over: the autocast type, so that the first convolution casts nothing."""
        import torch

        return self.autocast_dtype or torch.float32

    def __str__(self) -> str:
        import torch

        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"{where}, {str(self.image_dtype).removeprefix('torch.')}"


def choose_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve ``auto | cpu | cuda`` and ``auto | bf16 | fp16 | fp32``.

    Raises:
        HrfrError: a driver is there but CUDA is unusable, with the fix.
        UsageError: ``cuda`` on a machine without one; ``fp16`` on a CPU.
    """
    import torch

    if device == "auto":
        device = "cuda" if _cuda_usable() else "cpu"
    elif device == "cuda" and not _cuda_usable():
        raise UsageError("--device cuda: there is no NVIDIA GPU here; use --device cpu")
    on_cuda = device == "cuda"
    if precision == "auto":
        precision = "fp16" if on_cuda and not torch.cuda.is_bf16_supported() else "bf16"
    if precision == "fp16" and not on_cuda:
        raise UsageError("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
    return Compute(torch.device(device), dtype, scaled=precision == "fp16")


def _cuda_usable() -> bool:
    import torch

    if torch.cuda.is_available():
        return True
    if _driver_present():
        why = "" if torch.version.cuda else ": it is a CPU build"
        raise HrfrError(FIX.format(version=torch.__version__, why=why))
    return False


def _driver_present() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or bool(shutil.which("nvidia-smi"))
