"""A set of known people as candidates for a split, and pairs of its pictures as candidates for a pair set."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.sources.candidates import Candidates, PairCandidates, digest_of_text
from hrfr_fast.packing.sources.identity_source import IdentitySource


class SourceCandidates(Candidates):
    """All pictures of a source, in its order, for the split ``name``."""

    def __init__(self, name: str, source: IdentitySource, size: int = 0) -> None:
        super().__init__(name, source.root, size, len(source), source.fingerprint, source.content)
        self.source = source
        self.in_files, self.bytes_on_disk = source.in_files, source.bytes_on_disk
        self.identity_names = source.identities
        self.pictures_listed = np.bincount(source.labels, minlength=len(source.identities))

    def listing_lines(self) -> Iterator[str]:
        return self.source.listing_lines()

    def labels(self, first: int, last: int) -> NDArray[np.int64]:
        return self.source.labels[first:last].astype(np.int64)

    def paths(self, first: int, last: int) -> list[str]:
        return self.source.names(range(first, last))

    def readers(self, first: int, last: int) -> Sequence[Reader]:
        return self.source.readers(range(first, last))


class SourcePairs(PairCandidates):
    """Development pairs of pictures of a source whose pictures are no files of their own."""

    in_files = False
    kind = "development"

    def __init__(
        self,
        name: str,
        source: IdentitySource,
        pictures: Sequence[int],
        same: NDArray[np.bool_],
        size: int,
        identities: NDArray[np.int32],
    ) -> None:
        """``pictures``: 2P numbers of pictures in ``source``; 2i and 2i + 1 are pair i."""
        chosen = f"{list(pictures)} {same.tolist()}"
        digests = digest_of_text(f"{source.fingerprint} {chosen}"), digest_of_text(f"{source.content} {chosen}")
        super().__init__(name, source.root, size, len(pictures), *digests)
        self.source, self.pictures, self.same, self.identities = source, pictures, same, identities

    def listing_lines(self) -> Iterator[str]:
        return self.source.listing_lines()

    def paths(self, first: int, last: int) -> list[str]:
        return self.source.names(self.pictures[first:last])

    def readers(self, first: int, last: int) -> Sequence[Reader]:
        return self.source.readers(self.pictures[first:last])
