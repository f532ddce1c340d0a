"""How a command ends that cannot do what it was asked: one message and an exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.rank_failures import may_report, who_reports
from hrfr_fast.runtime.ranks import current_ranks

SHARED = ("train", "evaluate", "compare", "embed", "doctor")
"""Commands that the ranks of torchrun work on together."""
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
    console.print("[bold red]error:[/] ", end="", markup=True)
    console.print(who_reports() + message, markup=False, highlight=False)
    sys.exit(code)


def refuse_ranks(command: str | None) -> None:
    """Raise UsageError where torchrun has started several processes of a command that is the work of one."""
    if command and command not in SHARED and current_ranks().distributed:
        raise UsageError(
            f"hrfr-fast {command} is the work of one process: start it without torchrun, which is for"
            f" {', '.join(SHARED)}"
        )


@contextmanager
def silent_but_rank_0() -> Iterator[None]:
    """A context in which all ranks but rank 0 print nothing: usage errors, results and warnings are the same on all."""
    ranks = current_ranks()
    if ranks.distributed:  # before torch is imported: its warnings of a connection that ended are a page of addresses
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if ranks.is_main:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
