"""How a command ends that cannot do what it was asked: one message and an exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from hrfr_fast.runtime.rank_failures import may_report
from hrfr_fast.runtime.ranks import current_ranks

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
    """End with ``message`` and exit status ``code``; of several ranks the one prints that is to report."""
    from hrfr_fast.runtime.progress import console

    if not may_report():
        sys.exit(code)
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False, highlight=False)
    sys.exit(code)


@contextmanager
def silent_but_rank_0() -> Iterator[None]:
    """A context in which all ranks but rank 0 print nothing: usage errors, results and warnings are the same on all."""
    if current_ranks().is_main:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
