"""The machine: device, driver, versions, cores, memory, disks, and which packages are not installed."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tools.gpu_stages.report import stage_report
from tools.gpu_stages.runner import missing

MODULES = (
    "torch", "triton", "numpy", "cv2", "numba", "typer", "rich", "pytest", "safetensors", "simplejpeg", "bcolz", "PIL",
    "tomli_w", "tensorboard", "matplotlib", "scipy", "sklearn", "pycpd", "psutil", "nvidia.dali", "ffcv",
)  # fmt: skip
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader")


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    report.add("packages that are not installed", missing=missing(MODULES))
    report.add(
        "machine", python=platform.python_version(), cores=os.cpu_count(), gpus=driver(),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        free_gib={path: shutil.disk_usage(path).free / 2**30 for path in (str(report.work), "/dev/shm")},
    )  # fmt: skip
    import torch

    report.add("torch", version=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        memory, units = device.total_memory / 2**30, device.multi_processor_count
        report.add("device", name=device.name, memory_gib=memory, multiprocessors=units)
    report.check("a GPU is there, or none is needed", torch.cuda.is_available() or report.dry)
    return report.exit_code


def driver() -> str:
    """What nvidia-smi says of the devices, or why it does not."""
    try:
        return subprocess.run(QUERY, capture_output=True, encoding="utf-8", timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
