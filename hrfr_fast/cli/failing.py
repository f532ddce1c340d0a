"""How a command ends that cannot do what it was asked: one message and an exit code."""

import sys

PACKAGE_OF = {
    "cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "bcolz": "bcolz-zipline",
    "nvidia": "nvidia-dali-cuda120", "tomli_w": "tomli-w",
}  # fmt: skip
"""Distributions whose name is not that of their module."""


def how_to_install(error: ModuleNotFoundError) -> str:
    """A dependency that is missing where it is used, and the command that brings it. Raises one of our own again."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "hrfr_fast"):
        raise error
    package = PACKAGE_OF.get(module, module.replace("_", "-"))
    return f"{module} is not installed, and this needs it: pip install {package}"


def fail(message: str, code: int) -> None:
    from hrfr_fast.runtime.progress import console

    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False, highlight=False)
    sys.exit(code)
