"""Compatibility of an NVIDIA driver, torch's CUDA build, DALI's wheel and a C compiler, and the commands that mend it.

Everything here is a function of version texts, so that it can be tested for machines other than this one.
"""

import re
from collections.abc import Sequence

LEAST_DRIVER = {12: 525, 13: 580}
"""CUDA's major version -> the first driver that runs builds for it, of any minor version."""
LEAST_DRIVER_CU128 = 570
"""The first driver for PyTorch's newest CUDA 12 build, which supports the newest GPUs; older drivers need CUDA 12.6."""
DALI_WHEELS = {"nvidia-dali-cuda120": 12, "nvidia-dali-cuda130": 13}
"""Wheel -> the CUDA major version it is built for. Each works with any build of torch: both bring their own CUDA."""
INDEX = "https://download.pytorch.org/whl"
COMPILER_FIX = "install a C compiler and Python's header files (Debian, Ubuntu: gcc libc6-dev python3-dev)"


def driver_number(driver: str) -> int:
    """Major number of a driver's version: 570 of "570.124.06", alone or in a line of /proc; 0 without one."""
    found = re.search(r"\b(\d{3,4})\.\d", driver)
    return int(found[1]) if found else 0


def install_torch(driver: str) -> str:
    """The command that installs a torch for this driver; "" where the driver is too old for any."""
    number, command = driver_number(driver), "pip install --force-reinstall torch"
    if not number or number >= LEAST_DRIVER[13]:
        return command
    if number < LEAST_DRIVER[12]:
        return ""
    build = "cu128" if number >= LEAST_DRIVER_CU128 else "cu126"
    return f"{command} --index-url {INDEX}/{build}"


def torch_fix(torch: str, cuda: str, driver: str) -> str:
    """Why torch cannot use the GPU, and what to do.

    Args:
        torch: its version.
        cuda: the CUDA release it was built for; "" for a CPU build.
        driver: the driver's version, as nvidia-smi or /proc/driver/nvidia/version tell.
    """
    number, command = driver_number(driver), install_torch(driver)
    head = f"An NVIDIA driver is installed but torch {torch} cannot use it"
    least = LEAST_DRIVER.get(int(cuda.partition(".")[0]), 0) if cuda else 0
    on_cpu = "; or train on the CPU on purpose with --device cpu."
    if number and number < LEAST_DRIVER[12]:
        return f"{head}: driver {number} is too old for any of its CUDA builds.\nFix: update the driver{on_cpu}"
    if not cuda:
        return f"{head}: it is a CPU build.\nFix: `{command}`{on_cpu}"
    if number and number < least:
        return (
            f"{head}: it is built for CUDA {cuda}, which needs driver {least} or newer; here is {number}.\n"
            f"Fix: install its build for CUDA 12 from PyTorch's own index, `{command}`, or update the driver{on_cpu}"
        )
    known = f", though the driver is new enough for CUDA {cuda}" if number else ""
    return (
        f"{head}{known}.\nFix: see whether `nvidia-smi` lists the GPU, whether CUDA_VISIBLE_DEVICES hides it, and"
        f" whether the container was started with --gpus all{on_cpu}"
    )


def architecture_fix(torch: str, capability: tuple[int, int], built_for: Sequence[str], driver: str) -> str:
    """Why this torch has no code for the GPU, and what to do; "" where it has.

    Args:
        torch: its version.
        capability: the GPU's compute capability, (9, 0) for an H100.
        built_for: torch.cuda.get_arch_list(): "sm_90" for code, "compute_90" for what a driver can still compile.
        driver: the driver's version.
    """
    for kind, major, minor in re.findall(r"\b(sm|compute)_(\d+)(\d)", " ".join(built_for)):
        built = (int(major), int(minor))
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return ""
    old = f"pip install --force-reinstall torch --index-url {INDEX}/cu126"  # it still supports the oldest GPUs
    command = old if capability < (7, 5) else install_torch(driver)
    return (
        f"torch {torch} has no code for this GPU: its compute capability is {capability[0]}.{capability[1]}, the build"
        f" is for {', '.join(built_for)}.\nFix: `{command}`; or train on the CPU on purpose with --device cpu."
    )


def dali_fix(wheel: str, driver: str) -> str:
    """Why DALI's ``wheel`` cannot use the GPU under ``driver``, and the command that mends it; "" where it can."""
    number = driver_number(driver)
    least = LEAST_DRIVER[DALI_WHEELS[wheel]]
    if not number or number >= least:
        return ""
    other = "nvidia-dali-cuda120"
    if wheel == other:
        return f"{wheel} needs driver {least} or newer; here is {number}: update the driver"
    return f"{wheel} needs driver {least} or newer; here is {number}: {replace_dali([wheel])}"


def replace_dali(installed: list[str]) -> str:
    """The commands that leave one wheel of DALI: that for CUDA 12, which most drivers run."""
    return f"pip uninstall -y {' '.join(installed)} && pip install nvidia-dali-cuda120"
