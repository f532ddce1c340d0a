"""Equal bits from equal runs on a GPU: torch's deterministic algorithms, and nothing chosen by timing it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hrfr_fast.runtime.errors import UsageError

WORKSPACE, FIXED = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""cuBLAS adds in another order where it has another workspace: NVIDIA's documentation, "Results reproducibility"."""


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """A context in which torch takes algorithms on a GPU that give equal bits every time; without ``wanted``, nothing.

    To be entered before CUDA is used for the first time. A CPU computes that way as it is, and is left alone.

    Raises:
        UsageError: an operation inside has no such algorithm; names it.
    """
    import torch

    if not wanted or not torch.cuda.is_available():
        yield
        return
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(WORKSPACE)
    os.environ[WORKSPACE] = FIXED
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = str(error).partition(".")[0]
        raise UsageError(f"--deterministic: {what}; leave it out, or choose another network or head") from error
    finally:
        torch.use_deterministic_algorithms(before)
        if workspace is None:
            del os.environ[WORKSPACE]
        else:
            os.environ[WORKSPACE] = workspace
