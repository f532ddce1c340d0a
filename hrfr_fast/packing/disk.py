"""Free space on the disk, checked before packing, and messages about a full one."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from hrfr_fast.format import beton, manifest
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.files import writing


def check_space(out: Path, work: Path, todo: Sequence[Candidates], shard_samples: int = 0) -> None:
    """Raise HrfrError where ``todo`` does not fit on the disk of ``out``; what lies in ``work`` is written already.

    ``shard_samples``: most candidates of a split in one file; 0: one file.
    """
    need = sum(_bytes_needed(candidates, shard_samples) for candidates in todo)
    have = shutil.disk_usage(out).free + sum(path.stat().st_blocks * 512 for path in work.iterdir())
    if need > have:
        raise HrfrError(
            f"{out}: packing takes about {need / 1e9:.2f} GB and {have / 1e9:.2f} GB are free; make room or choose"
            " another --out (what is packed already is untouched)"
        )


def _bytes_needed(candidates: Candidates, shard_samples: int) -> int:
    raw = candidates.raw_bytes
    payload = raw if candidates.encoding == "raw" else min(raw, candidates.bytes_on_disk or raw)
    tables = candidates.count * (beton.METADATA.itemsize + beton.ALLOCATION.itemsize + 20)
    files = 1 if candidates.paired or not shard_samples else -(-candidates.count // shard_samples)
    return payload + tables + files * 2 * beton.PAGE_SIZE


def disk_errors(out: Path) -> AbstractContextManager[None]:
    """Context in which an error of the disk of ``out`` is reported with advice on how to go on."""
    return writing(
        out,
        lambda: (
            f"What was packed before is untouched and what is finished is kept in {out / manifest.WORK}: run the same"
            " command again to continue"
        ),
    )
