"""Journal of the finished chunks of one shard, from which an interrupted pack continues.

Beside ``<name>.beton.partial`` lie ``<name>.rows`` (one row a record), ``<name>.rejected`` (JSON lines) and
``<name>.journal``. A line of the journal is written once everything it counts is on the disk; what the other files hold
beyond the last whole line is cut off. Continuing is exact because the layout of a shard depends on its rows alone. A
line also holds checksums of itself and of the other two files: damaged work is not continued.
"""

import json
import os
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.writer import ROW
from hrfr_fast.runtime.files import fsync, fsync_directory
from hrfr_fast.runtime.untrusted import parsed_json

KINDS = ("journal", "rows", "rejected")


class Journal:
    """Journal of shard ``name`` in ``work``, opened or begun.

    ``key``: all that decides the shard's bytes; a journal of another key is discarded.
    """

    def __init__(self, work: Path, name: str, key: dict[str, Any]) -> None:
        self._paths = {kind: work / f"{name}.{kind}" for kind in KINDS}
        state = self._last_state(key)
        self.continued = state is not None
        self.candidates, records, rejected_bytes, *checksums = state or (0, 0, 0, 0, 0)
        self._checksums = dict(zip(("rows", "rejected"), checksums, strict=True))
        self._files = {kind: open(path, "ab") for kind, path in self._paths.items()}  # noqa: SIM115
        self._files["rows"].truncate(records * ROW.itemsize)
        self._files["rejected"].truncate(rejected_bytes)
        self._records, self._rejected_bytes = records, rejected_bytes
        self._changed = set(self._files) if state is None else set[str]()
        if state is None:
            self._files["journal"].truncate(0)
            self._line(key)
            fsync_directory(work)

    def _last_state(self, key: dict[str, Any]) -> tuple[int, ...] | None:
        """The last whole line: numbers of candidates, records and bytes of rejections, CRC-32 of rows and rejections.

        None where there is nothing to continue or something is damaged.
        """
        try:
            lines = self._paths["journal"].read_bytes().split(b"\n")[:-1]
            if not lines or parsed_json(lines[0]) != key:
                return None
            *state, checksum = parsed_json(lines[-1]) if len(lines) > 1 else _with_checksum([0] * 5)
            _, records, rejected_bytes, *expected = state
            lengths = (records * ROW.itemsize, rejected_bytes)
            contents = [
                self._paths[kind].read_bytes()[:n] for kind, n in zip(("rows", "rejected"), lengths, strict=True)
            ]
            if [*state, checksum] != _with_checksum(state) or [zlib.crc32(content) for content in contents] != expected:
                return None
        except (OSError, ValueError, TypeError):
            return None
        return tuple(state)

    def rows(self) -> NDArray[np.void]:
        """The rows of all records in the journal."""
        return np.fromfile(self._paths["rows"], ROW, self._records)

    def rejected(self) -> list[dict[str, Any]]:
        """Quarantine lines of all rejected candidates in the journal."""
        with open(self._paths["rejected"], "rb") as file:
            return [json.loads(line) for line in file.read(self._rejected_bytes).splitlines()]

    def add(self, candidates: int, rows: NDArray[np.void], rejected: list[dict[str, Any]]) -> None:
        """Add a chunk that ends before candidate ``candidates``. Durable after :meth:`commit`."""
        text = "".join(json.dumps(line) + "\n" for line in rejected).encode()
        for kind, content in (("rows", rows.tobytes()), ("rejected", text)):
            if content:
                self._files[kind].write(content)
                self._checksums[kind] = zlib.crc32(content, self._checksums[kind])
                self._changed.add(kind)
        self.candidates = candidates
        self._records += len(rows)
        self._rejected_bytes += len(text)

    def commit(self) -> None:
        """Put all that was added on the disk; the shard's own data must be there already."""
        for kind in ("rows", "rejected"):
            if kind in self._changed:  # each fsync waits for the disk
                self._files[kind].flush()
                fsync(self._files[kind].fileno())
        self._changed.clear()
        state = [self.candidates, self._records, self._rejected_bytes, *self._checksums.values()]
        self._line(_with_checksum(state))

    def _line(self, value: Any) -> None:
        self._files["journal"].write(json.dumps(value).encode() + b"\n")
        self._files["journal"].flush()
        fsync(self._files["journal"].fileno())

    def close(self) -> None:
        """Close the files; they stay."""
        with ExitStack() as all_of_them:
            for file in self._files.values():
                all_of_them.callback(file.close)

    def remove(self) -> None:
        """Close and delete the files: the shard is finished."""
        self.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)


def remove_journal(work: Path, name: str) -> None:
    """Delete the files of the journal of ``name``, which nobody has open."""
    for kind in KINDS:
        (work / f"{name}.{kind}").unlink(missing_ok=True)


def candidates_done(work: Path, name: str) -> int:
    """How many candidates the journal of ``name`` counts now, for a display; 0 where it cannot be read."""
    try:
        with open(work / f"{name}.journal", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            return int(parsed_json(file.read().split(b"\n")[-2])[0])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _with_checksum(state: list[int]) -> list[int]:
    return [*state, zlib.crc32(json.dumps(state).encode())]
