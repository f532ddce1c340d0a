"""Writer of a split whose labels are final: one file, or one for every so many records."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hrfr_fast.format import manifest
from hrfr_fast.format.names import part_shard
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.runtime.errors import UsageError

MOST_FILES = 1000  # of a split: each is opened, mapped and looked at by every process that reads it


def refuse_too_many_files(split: str, samples: int, shard_samples: int) -> None:
    """Raise UsageError where files of ``shard_samples`` (1 or more) of the ``samples`` of ``split`` are too many."""
    files = -(-samples // shard_samples)
    if files > MOST_FILES:
        raise UsageError(
            f"--shard-samples {shard_samples}: {split} would be {files:,} files, and {MOST_FILES:,} are the most; take"
            f" at least {-(-samples // MOST_FILES):,}"
        )


class DividedWriter:
    """Writer of ``split`` in ``directory``.

    Args:
        samples: how many records there will be.
        size: width and height of every picture in pixels.
        shard_samples: records a file; 0, or no fewer than ``samples``: one file.
    """

    def __init__(self, directory: Path, split: str, samples: int, size: int, shard_samples: int = 0) -> None:
        self.directory, self.split, self.samples, self.size = directory, split, samples, size
        self.shard_samples = shard_samples if 0 < shard_samples < samples else 0
        self._parts: list[dict[str, Any]] = []
        self._written = 0
        self._writer = self._next()

    def _next(self) -> SplitWriter:
        name = part_shard(self.split, len(self._parts)) if self.shard_samples else self.split
        left = self.samples - self._written
        return SplitWriter(self.directory / f"{name}.beton", min(left, self.shard_samples or left), self.size)

    def extend(self, blob: bytes, lengths: ArrayLike, labels: ArrayLike, modes: ArrayLike, crc32: ArrayLike) -> None:
        """As :meth:`SplitWriter.extend`; a file that is full is finished."""
        columns = [np.asarray(column) for column in (lengths, labels, modes, crc32)]
        ends = np.concatenate([[0], np.cumsum(columns[0])]).astype(np.int64)
        first, count = 0, len(columns[0])
        while first < count:
            if self._writer.samples == self._writer.capacity:
                self._finish_part()
                self._writer = self._next()
            last = min(count, first + self._writer.capacity - self._writer.samples)
            payload = memoryview(blob)[ends[first] : ends[last]]
            self._writer.extend(payload, *(column[first:last] for column in columns))
            self._written += last - first
            first = last

    def _finish_part(self) -> None:
        self._parts.append(manifest.part_entry(self._writer.path.name, self._writer.finish()))

    def close(self) -> None:
        """Close the unfinished file; what was written stays."""
        self._writer.close()

    def finish(self, identity_names: list[str]) -> dict[str, Any]:
        """Finish the last file; returns the manifest's entry of the split."""
        if not self.shard_samples:
            info = self._writer.finish()
            return manifest.split_entry(self.split, info, size=self.size, identity_names=identity_names)
        self._finish_part()
        return manifest.divided_entry(self._parts, size=self.size, identity_names=identity_names)
