"""What the packer asks of a source of pictures, whatever its format."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.chunks import Chunk, decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.picture_files import Rejected, read_file


@dataclass
class Candidates(ABC):
    """Pictures to pack into one shard, in order. ``size`` and ``encoding`` are settled before packing.

    Labels are provisional: an identity's number for a split, the candidate's own number for pairs.
    """

    name: str  # of the shard
    root: Path
    size: int  # width and height in pixels; 0 until it is settled
    count: int
    fingerprint: str  # of names, sizes, modification times
    content: str  # of names and sizes
    encoding: str = "raw"
    resize: bool = False
    bytes_on_disk: int = 0

    paired = False
    in_files = True  # a picture a file, which worker processes can read and decode

    @property
    def raw_bytes(self) -> int:
        """Bytes of the pixels of all candidates."""
        return self.count * self.size**2 * 3

    @property
    def options(self) -> dict[str, Any]:
        """Settings by name that decide the pixels beside the files; part of the key of an unchanged shard."""
        return {}

    @property
    def conversion(self) -> dict[str, Any]:
        """How values became pixels, for the manifest; nothing where pictures are decoded as usual."""
        return {}

    @property
    def folder(self) -> str:
        """The folder that paths are relative to, as a user would call it."""
        return self.root.name

    @abstractmethod
    def paths(self, first: int, last: int) -> list[str]:
        """Paths relative to ``root`` of the candidates first..last-1."""

    @abstractmethod
    def listing_lines(self) -> Iterator[str]:
        """One line a file, the path before the first tab, by which the next pack finds what changed."""

    def check(self) -> None:  # noqa: B027 (most sources have nothing to check)
        """Raise UsageError for a source that cannot be packed at all, before hours are spent on others."""

    def chunk(self, first: int, last: int, target: Target) -> Chunk:
        """Decode the candidates first..last-1 in this process."""
        return decode_chunk(str(self.root), self.paths(first, last), target, self.paired)

    def labels(self, first: int, last: int) -> NDArray[np.int64]:
        """Provisional labels of the candidates first..last-1."""
        return np.arange(first, last)

    def readable_again(self, rejected: Sequence[Mapping[str, Any]]) -> bool:
        """Whether any file of ``rejected`` (quarantine lines marked "retry") can be read now."""
        for line in rejected:
            try:
                read_file(str(self.root / str(line["file"]).removeprefix(f"{self.folder}/")))
                return True
            except Rejected:
                continue
        return False

    def sample(self, n: int = 64) -> list[str]:
        """Up to ``n`` paths, evenly spread."""
        chosen = np.unique(np.linspace(0, self.count - 1, min(n, self.count)).astype(int)).tolist()
        return [self.paths(i, i + 1)[0] for i in chosen]


class PairCandidates(Candidates):
    """Pictures of a pair set: 2i and 2i + 1 are pair i."""

    paired = True
    kind = "test"  # or "development"
    same: NDArray[np.bool_]
    """bool [P], True for one person."""
    identities: NDArray[np.int32] | None = None
    """int32 [2P], equal for one person, where that is known."""
    malformed: Sequence[dict[str, Any]] = ()
    """Quarantine lines about entries of a list that are no pairs."""

    def places(self, data: Path) -> list[str | None] | None:
        """``<split>/<identity>`` of each picture in a split of the tree ``data``; None where there are no files."""
        return None

    def folders(self) -> list[Path]:
        """The folder that each picture lies in; none where there are no files."""
        return []

    def refuse_other_order(self, found: int, exchanged: int) -> None:
        """Raise UsageError where red and blue are exchanged.

        Args:
            found: how many pictures are in the splits as they are read.
            exchanged: how many are there only with red and blue exchanged.
        """


def digest_of_text(text: str) -> str:
    """BLAKE2b of ``text``, which may hold undecodable file names; 64 hexadecimal digits."""
    return hashlib.blake2b(os.fsencode(text), digest_size=32).hexdigest()
