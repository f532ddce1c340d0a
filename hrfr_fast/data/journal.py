"""What lets a killed pack go on where it was: an append-only account of the finished chunks of one shard.

Beside ``<name>.beton.partial`` lie ``<name>.rows`` (one row a record), ``<name>.refused`` (JSON lines) and
``<name>.journal``. A line of the journal is written once everything it speaks of is on disk; what the other files hold
beyond the last whole line is cut off. Continuing is exact because the layout of a shard depends on its rows alone.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.data.writer import ROW
from hrfr_fast.files import fsync_directory


class Journal:
    """Opens or begins the account of shard ``name`` in ``work``; ``key`` says what is being packed, and how.

    An account of something else (another key) is discarded.
    """

    def __init__(self, work: Path, name: str, key: dict[str, Any]) -> None:
        self._paths = {kind: work / f"{name}.{kind}" for kind in ("journal", "rows", "refused")}
        state = self._last_state(key)
        self.continued = state is not None
        self.candidates, records, refused_bytes = state or (0, 0, 0)
        self._files = {kind: open(path, "ab") for kind, path in self._paths.items()}  # noqa: SIM115
        self._files["rows"].truncate(records * ROW.itemsize)
        self._files["refused"].truncate(refused_bytes)
        self._records, self._refused_bytes = records, refused_bytes
        if state is None:
            self._files["journal"].truncate(0)
            self._line(key)
            fsync_directory(work)

    def _last_state(self, key: dict[str, Any]) -> tuple[int, int, int] | None:
        """(candidates, records, bytes of refusals) of the last whole line, None if there is nothing to continue."""
        try:
            lines = self._paths["journal"].read_bytes().split(b"\n")[:-1]
            if not lines or json.loads(lines[0]) != key:
                return None
            candidates, records, refused = json.loads(lines[-1]) if len(lines) > 1 else (0, 0, 0)
            rows, refusals = (self._paths[kind].stat().st_size for kind in ("rows", "refused"))
        except (OSError, ValueError):
            return None
        return None if rows < records * ROW.itemsize or refusals < refused else (candidates, records, refused)

    def rows(self) -> NDArray[np.void]:
        """The rows of all records accounted for."""
        return np.fromfile(self._paths["rows"], ROW, self._records)

    def refusals(self) -> list[dict[str, Any]]:
        """All refusals accounted for."""
        with open(self._paths["refused"], "rb") as file:
            return [json.loads(line) for line in file.read(self._refused_bytes).splitlines()]

    def add(self, candidates: int, rows: NDArray[np.void], refused: list[dict[str, Any]]) -> None:
        """Account for a chunk that ends before candidate ``candidates``. Durable after :meth:`commit`."""
        self._files["rows"].write(rows.tobytes())
        text = "".join(json.dumps(line) + "\n" for line in refused).encode()
        self._files["refused"].write(text)
        self.candidates = candidates
        self._records += len(rows)
        self._refused_bytes += len(text)

    def commit(self) -> None:
        """Make it durable; the shard's own data must be on disk already."""
        for kind in ("rows", "refused"):
            self._files[kind].flush()
            os.fsync(self._files[kind].fileno())
        self._line([self.candidates, self._records, self._refused_bytes])

    def _line(self, value: Any) -> None:
        self._files["journal"].write(json.dumps(value).encode() + b"\n")
        self._files["journal"].flush()
        os.fsync(self._files["journal"].fileno())

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self._files.values():
            file.close()

    def remove(self) -> None:
        """Close and delete: the shard is finished."""
        self.close()
        for path in self._paths.values():
            path.unlink(missing_ok=True)
