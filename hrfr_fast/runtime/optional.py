"""Optional libraries: imported where they are used, with an error that says how to install a missing one."""

from importlib import import_module
from types import ModuleType

from hrfr_fast.runtime.errors import UsageError


def require_bcolz(what: str) -> ModuleType:
    """The bcolz module. Raises UsageError saying that ``what`` needs it, and how to install it."""
    try:
        return import_module("bcolz")
    except ImportError as error:
        raise UsageError(
            f"{what} needs `pip install bcolz-zipline` (there are wheels for Python 3.11 and 3.12 and is built from"
            " source on 3.13, which needs a C compiler and Python's headers)"
        ) from error
