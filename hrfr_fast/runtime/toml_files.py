"""Reading and writing of TOML files: settings, regimes and presets."""

import codecs
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_bytes

MOST_BYTES = 1 << 16  # our own have a few thousand; a name of dots takes the parser time with their square


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """The content of a UTF-8 file, with or without the byte order mark that editors on Windows write.

    Bytes that are not UTF-8 become surrogates, as in Python's own file names, so that a path is kept.

    Args:
        path: the file.
        what: what the file should be, for the message: "settings".

    Raises:
        UsageError: the file cannot be opened, or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UsageError(f"{path}: cannot be read as {what}: it is UTF-16 text; save it as UTF-8")
        if len(content) > MOST_BYTES:
            raise UsageError(f"{path}: cannot be read as {what}: it has more than {MOST_BYTES:,} bytes")
        return tomllib.loads(content.decode("utf-8-sig", "surrogateescape"))
    except RecursionError:
        raise UsageError(f"{path}: cannot be read as {what}: its values are nested too deeply") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read as {what}: {error.strerror}") from None
    except ValueError as error:  # numbers of thousands of digits are a ValueError of Python's own
        raise UsageError(f"{path}: cannot be read as {what}: {error}") from None


def write_toml(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` atomically, so that ``read_toml`` returns them; file names keep their bytes."""
    import tomli_w

    write_bytes(path, tomli_w.dumps(values).encode("utf-8", "surrogateescape"))
