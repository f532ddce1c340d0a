"""Replacement of the old output by the new one, as a whole or not at all.

Finished shards lie in ``OUT/.packing`` beside the old output. Writing ``OUT/.packing/manifest.json`` commits; after it
the files are renamed over the old ones and the manifest last of all. After a kill in between, readers refuse the
directory (:func:`manifest.read`), and the next pack completes the renames before it does anything else. Before the
commit the old output is whole, after the renames the new one is.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hrfr_fast.format import manifest
from hrfr_fast.format.saved_listing import files_of
from hrfr_fast.format.shard_files import is_plain
from hrfr_fast.runtime.files import fsync_directory
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.untrusted import parsed_json


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Create ``out/.packing`` and hold ``out`` for this process. Raises UsageError while another command has it."""
    with directory_lock(out):
        work = out / manifest.WORK
        work.mkdir(exist_ok=True)
        try:
            yield work
        finally:
            with suppress(OSError):  # what is unfinished stays, and is continued
                work.rmdir()


def commit(out: Path, content: dict[str, Any]) -> None:
    """Make the finished work in ``out/.packing`` the output."""
    work = out / manifest.WORK
    fsync_directory(work)
    manifest.write(work, content)
    complete(out)


def complete(out: Path) -> bool:
    """Carry out a commit that is on the disk, wherever it was interrupted. Returns whether there was one."""
    work = out / manifest.WORK
    try:
        content = manifest.without_checksum(parsed_json((work / manifest.NAME).read_bytes()))
        wanted = files_of(content)
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError):  # What was moved already is compared with its digests.
        (work / manifest.NAME).unlink()
        return False
    try:
        previous = files_of(parsed_json((out / manifest.NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        previous = set()
    for name in sorted(wanted):
        if is_plain(name) and (work / name).exists():
            os.replace(work / name, out / name)
    for name in previous - wanted:
        if is_plain(name):
            (out / name).unlink(missing_ok=True)
    fsync_directory(out)
    os.replace(work / manifest.NAME, out / manifest.NAME)
    fsync_directory(out)
    return True


def clear(work: Path) -> None:
    """Delete the work directory."""
    shutil.rmtree(work, ignore_errors=True)
