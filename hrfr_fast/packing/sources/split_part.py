"""A range of a split's candidates, which are packed into a file of their own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.names import part_shard
from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.sources.candidates import Candidates


class SplitPart(Candidates):
    """Candidates number * length .. of ``whole``, at most ``length`` of them, numbered from 0."""

    def __init__(self, whole: Candidates, number: int, length: int) -> None:
        self.first = number * length
        count = min(length, whole.count - self.first)
        super().__init__(
            part_shard(whole.name, number), whole.root, whole.size, count, whole.fingerprint, whole.content,
            whole.encoding, whole.resize, whole.bytes_on_disk * count // whole.count,
        )  # fmt: skip
        self.split = whole.name
        self.in_workers, self.in_files = whole.in_workers, whole.in_files
        self._whole: Candidates | _Excerpt = whole

    def excerpt(self) -> "SplitPart":
        """The same part, which holds its own readers, labels and paths alone: it can be sent to another machine."""
        part: SplitPart = object.__new__(SplitPart)
        part.__dict__ = {**self.__dict__, "_whole": _Excerpt(self)}
        part.first = 0
        return part

    def in_the_split(self, rejected: Mapping[str, Any]) -> dict[str, Any]:
        """A quarantine line of this part as a line of the whole split."""
        record = {"record": rejected["record"] + self.first} if "record" in rejected else {}
        return {**rejected, "split": self.split, **record}

    def paths(self, first: int, last: int) -> list[str]:
        return self._whole.paths(self.first + first, self.first + last)

    def readers(self, first: int, last: int) -> Sequence[Reader]:
        return self._whole.readers(self.first + first, self.first + last)

    def labels(self, first: int, last: int) -> NDArray[np.int64]:
        return self._whole.labels(self.first + first, self.first + last)

    def listing_lines(self) -> Iterator[str]:
        raise NotImplementedError("the listing is kept of the whole split")


class _Excerpt:
    """Readers, labels and paths of one part."""

    def __init__(self, part: SplitPart) -> None:
        self._readers = part.readers(0, part.count)
        self._labels = part.labels(0, part.count).astype(np.int32)
        self._paths = part.paths(0, part.count)

    def paths(self, first: int, last: int) -> list[str]:
        return self._paths[first:last]

    def readers(self, first: int, last: int) -> Sequence[Reader]:
        return [self._readers[number] for number in range(first, last)]

    def labels(self, first: int, last: int) -> NDArray[np.int64]:
        return self._labels[first:last].astype(np.int64)


def parts_of_split(whole: Candidates, length: int) -> list[SplitPart]:
    """The parts of ``whole``, of ``length`` candidates each, the last one of what is left."""
    return [SplitPart(whole, number, length) for number in range(-(-whole.count // length))]
