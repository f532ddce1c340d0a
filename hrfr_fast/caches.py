"""Where compiled code is kept from one run to the next."""

import os
import tempfile
from pathlib import Path


def keep_in_cache(variable: str, name: str) -> Path:
    """Let the environment's ``variable``, where it is not set, name a directory ``name`` for compiled code.

    It lies in the user's cache directory, or in the directory for temporary files where that cannot be written to: a
    home that is only read, or none, as in many containers, would end every compilation.
    """
    if not os.environ.get(variable):
        os.environ[variable] = str(_writable(name))
    return Path(os.environ[variable])


def _writable(name: str) -> Path:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrfr-fast" / name
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError):  # RuntimeError: a user whom the system does not know has no home
        return Path(tempfile.gettempdir()) / f"hrfr-fast-{os.getuid()}" / name
    return cache
