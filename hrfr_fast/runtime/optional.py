"""Optional libraries: imported where they are used, with the way to get them where they are missing."""

from importlib import import_module
from types import ModuleType

from hrfr_fast.runtime.errors import UsageError


def require_bcolz(what: str) -> ModuleType:
    """The bcolz module. Raises UsageError saying that ``what`` needs it and how to get it."""
    try:
        return import_module("bcolz")
    except ImportError as error:
        raise UsageError(
            f"{what} takes `pip install bcolz-zipline` (it comes ready-made for Python 3.11 and 3.12 and is built from"
            " source on 3.13, which needs a C compiler and Python's headers)"
        ) from error
