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

from hrfr_fast.packing.chunks import Chunk, Reader, decode_chunk
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
    in_workers = True  # whether worker processes can read and decode the pictures
    in_files = True  # a picture a file, whose path it is called by
    identity_names: Sequence[str] = ()
    """By provisional label, of a split; none of pairs."""
    pictures_listed: NDArray[np.int64] | None = None
    """Of a split: int64, how many pictures each identity has before any is rejected."""

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
        return self.root.name or self.root.resolve().name

    @abstractmethod
    def paths(self, first: int, last: int) -> list[str]:
        """Where the candidates first..last-1 lie, relative to ``root``: paths, or names such as ``train.rec[17]``."""

    @abstractmethod
    def readers(self, first: int, last: int) -> Sequence[Reader]:
        """One reader for each of the candidates first..last-1."""

    @abstractmethod
    def listing_lines(self) -> Iterator[str]:
        """One line a file, the path before the first tab, by which the next pack finds what changed."""

    def check(self) -> None:  # noqa: B027 (most sources have nothing to check)
        """Raise UsageError for a source that cannot be packed at all, before hours are spent on others."""

    def chunk(self, first: int, last: int, target: Target) -> Chunk:
        """Decode the candidates first..last-1 in this process."""
        return decode_chunk(self.readers(first, last), target, self.paired)

    def labels(self, first: int, last: int) -> NDArray[np.int64]:
        """Provisional labels of the candidates first..last-1."""
        return np.arange(first, last)

    def readable_again(self, rejected: Sequence[Mapping[str, Any]]) -> bool:
        """Whether any picture of ``rejected`` (quarantine lines marked "retry") can be read now."""
        for line in rejected:
            try:
                self.read_again(line)
                return True
            except Rejected:
                continue
        return False

    def read_again(self, rejected: Mapping[str, Any]) -> None:
        """Read the picture of one quarantine line. Raises Rejected where that is still not possible."""
        if self.in_files:
            read_file(str(self.root / str(rejected["file"]).removeprefix(f"{self.folder}/")))
        else:
            record = int(rejected["record"])
            self.readers(record, record + 1)[0]()

    def sample(self, n: int = 64) -> Sequence[Reader]:
        """Readers of up to ``n`` pictures, evenly spread."""
        chosen = np.unique(np.linspace(0, self.count - 1, min(n, self.count)).astype(int)).tolist()
        return [self.readers(i, i + 1)[0] for i in chosen]


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
