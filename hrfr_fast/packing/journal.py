"""What lets a killed pack go on where it was: an append-only account of the finished chunks of one shard.

Beside ``<name>.beton.partial`` lie ``<name>.rows`` (one row a record), ``<name>.refused`` (JSON lines) and
``<name>.journal``. A line of the journal is written once everything it speaks of is on disk; what the other files hold
beyond the last whole line is cut off. Continuing is exact because the layout of a shard depends on its rows alone. A
line also holds checksums of the rows and refusals before it and of itself: damaged work is not continued.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.writer import ROW
from hrfr_fast.runtime.files import fsync, fsync_directory


class Journal:
    """Opens or begins the account of shard ``name`` in ``work``; ``key`` says what is being packed, and how.

    An account of something else (another key) is discarded.
    """

    def __init__(self, work: Path, name: str, key: dict[str, Any]) -> None:
        self._paths = {kind: work / f"{name}.{kind}" for kind in ("journal", "rows", "refused")}
        state = self._last_state(key)
        self.continued = state is not None
        self.candidates, records, refused_bytes, *checksums = state or (0, 0, 0, 0, 0)
        self._checksums = dict(zip(("rows", "refused"), checksums, strict=True))
        self._files = {kind: open(path, "ab") for kind, path in self._paths.items()}  # noqa: SIM115
        self._files["rows"].truncate(records * ROW.itemsize)
        self._files["refused"].truncate(refused_bytes)
        self._records, self._refused_bytes = records, refused_bytes
        if state is None:
            self._files["journal"].truncate(0)
            self._line(key)
            fsync_directory(work)

    def _last_state(self, key: dict[str, Any]) -> tuple[int, ...] | None:
        """Candidates, records, bytes of refusals, CRC-32 of rows and of refusals by the last whole line.

        None if there is nothing to continue, or nothing that is whole.
        """
        try:
            lines = self._paths["journal"].read_bytes().split(b"\n")[:-1]
            if not lines or json.loads(lines[0]) != key:
                return None
            *state, checksum = json.loads(lines[-1]) if len(lines) > 1 else _with_checksum([0] * 5)
            _, records, refused, *expected = state
            lengths = (records * ROW.itemsize, refused)
            said = [self._paths[kind].read_bytes()[:n] for kind, n in zip(("rows", "refused"), lengths, strict=True)]
            if [*state, checksum] != _with_checksum(state) or [zlib.crc32(content) for content in said] != expected:
                return None
        except (OSError, ValueError, TypeError):
            return None
        return tuple(state)

    def rows(self) -> NDArray[np.void]:
        """The rows of all records accounted for."""
        return np.fromfile(self._paths["rows"], ROW, self._records)

    def refusals(self) -> list[dict[str, Any]]:
        """All refusals accounted for."""
        with open(self._paths["refused"], "rb") as file:
            return [json.loads(line) for line in file.read(self._refused_bytes).splitlines()]

    def add(self, candidates: int, rows: NDArray[np.void], refused: list[dict[str, Any]]) -> None:
        """Account for a chunk that ends before candidate ``candidates``. Durable after :meth:`commit`."""
        text = "".join(json.dumps(line) + "\n" for line in refused).encode()
        for kind, content in (("rows", rows.tobytes()), ("refused", text)):
            self._files[kind].write(content)
            self._checksums[kind] = zlib.crc32(content, self._checksums[kind])
        self.candidates = candidates
        self._records += len(rows)
        self._refused_bytes += len(text)

    def commit(self) -> None:
        """Make it durable; the shard's own data must be on disk already."""
        for kind in ("rows", "refused"):
            self._files[kind].flush()
            fsync(self._files[kind].fileno())
        state = [self.candidates, self._records, self._refused_bytes, *self._checksums.values()]
        self._line(_with_checksum(state))

    def _line(self, value: Any) -> None:
        self._files["journal"].write(json.dumps(value).encode() + b"\n")
        self._files["journal"].flush()
        fsync(self._files["journal"].fileno())

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self._files.values():
            file.close()

    def remove(self) -> None:
        """Close and delete: the shard is finished."""
        self.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)


def _with_checksum(state: list[int]) -> list[int]:
    return [*state, zlib.crc32(json.dumps(state).encode())]
