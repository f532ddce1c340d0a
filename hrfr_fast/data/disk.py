"""Room on the disk: looked at before packing, and a full disk told in words."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hrfr_fast.data import beton, manifest
from hrfr_fast.data.sources import Candidates
from hrfr_fast.errors import HrfrError


def check_space(out: Path, work: Path, todo: Sequence[Candidates]) -> None:
    """Raises HrfrError where ``todo`` does not fit the disk of ``out``, what lies in ``work`` already taken off."""
    need = sum(_bytes_needed(candidates) for candidates in todo)
    have = shutil.disk_usage(out).free + sum(path.stat().st_blocks * 512 for path in work.iterdir())
    if need > have:
        raise HrfrError(
            f"{out}: packing takes about {need / 1e9:.2f} GB and {have / 1e9:.2f} GB are free; make room or choose"
            " another --out (what is packed already is untouched)"
        )


def _bytes_needed(candidates: Candidates) -> int:
    raw = candidates.count * candidates.size**2 * 3
    payload = raw if candidates.encoding == "raw" else min(raw, candidates.bytes_on_disk or raw)
    tables = candidates.count * (beton.METADATA.itemsize + beton.ALLOCATION.itemsize + 20)
    return payload + tables + 2 * beton.PAGE_SIZE


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn the system's errors about writing to ``out`` into HrfrError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HrfrError(
                f"{out}: the disk is full. What was packed before is untouched and what is finished is kept in"
                f" {out / manifest.WORK}: make room and run the same command again to continue"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HrfrError(f"{error.filename or out}: cannot be written: {error.strerror}") from error
        raise
