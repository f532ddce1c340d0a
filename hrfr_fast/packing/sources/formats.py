"""The formats of sets of known people: a new one is a file with an IdentitySource and a line here."""

import os
from pathlib import Path

from hrfr_fast.packing.sources.identity_folders import FolderSource
from hrfr_fast.packing.sources.identity_source import NO_OPTIONS, IdentitySource, SourceOptions
from hrfr_fast.packing.sources.list_files import ListSource
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line

FORMATS: tuple[type[IdentitySource], ...] = (ListSource, FolderSource)
"""In the order in which they are tried: the first that recognises a path is taken, so the more particular is first."""


def open_source(path: str | Path, format: str = "", options: SourceOptions = NO_OPTIONS) -> IdentitySource:
    """The set of known people in ``path``.

    Args:
        format: name of one of :data:`FORMATS`; "" for the first that recognises the path.

    Raises:
        UsageError: no such path, an unknown format, no format that fits; what is said by the format about a broken one.
        HrfrError: something cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    by_name = {kind.format: kind for kind in FORMATS}
    if format and format not in by_name:
        raise UsageError(f"--format {format}: no format is called so; there are {', '.join(by_name)}")
    if format:
        try:
            return by_name[format](path, options)
        except UsageError as error:
            if by_name[format].recognises(path):
                raise
            expected = f"--format {format} is {by_name[format].title}; there is {what_is_there(path)}"
            raise UsageError(f"{error} ({expected})") from error
    for kind in FORMATS:
        if kind.recognises(path):
            return kind(path, options)
    looked_for = ", ".join(f"{kind.title} (--format {kind.format})" for kind in FORMATS)
    raise UsageError(f"{path}: not recognised. Looked for: {looked_for}. There is {what_is_there(path)}")


def what_is_there(path: Path) -> str:
    """What a path is, for the message of a format that is not found there."""
    if not path.is_dir():
        return f"a file of {path.stat().st_size:,} bytes"
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        return f"a folder that cannot be listed ({error.strerror})"
    shown = [one_line(name + ("/" if (path / name).is_dir() else "")) for name in names[:3]]
    return f"a folder of {len(names):,} entries ({few(shown)})" if names else "an empty folder"
