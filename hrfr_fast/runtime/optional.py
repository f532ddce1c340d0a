"""Optional libraries: imported where they are used, with an error that says how to install a missing one."""

import os
from importlib import import_module
from types import ModuleType

from hrfr_fast.runtime.errors import UsageError

NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def require_bcolz(what: str) -> ModuleType:
    """The bcolz module. Raises UsageError saying that ``what`` needs it, and how to install it."""
    try:
        return import_module("bcolz")
    except ImportError as error:
        raise UsageError(
            f"{what} needs `pip install bcolz-zipline` (there are wheels for Python 3.11 and 3.12 and is built from"
            " source on 3.13, which needs a C compiler and Python's headers)"
        ) from error


def require_export(module: str, what: str) -> ModuleType:
    """The module ``onnx`` or ``onnxruntime``. Raises UsageError saying that ``what`` needs it, and how to install.

    Since 1.29 ONNX Runtime sends facts about the machine, names of model files and error messages to Microsoft, unless
    this variable is set before it is imported. A value of the user's own stays.
    """
    os.environ.setdefault(NO_TELEMETRY, "1")
    return _required(module, what, "export")


def require_parquet(what: str) -> ModuleType:
    """The module ``pyarrow``. Raises UsageError saying that ``what`` needs it, and how to install it."""
    return _required("pyarrow", what, "parquet")


def _required(module: str, what: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{what} needs {module}, which is not installed: pip install 'hrfr-fast[{extra}]'") from error
