"""The stream of samples: which records make up a batch, and how each is augmented."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.augmentation import Augmentation, draw_augmentation
from hrfr_fast.sampling.sampler import Sampler
from hrfr_fast.settings import AugmentSettings

if TYPE_CHECKING:
    pass


class BatchStream(Protocol):
    """What an engine may ask of any stream. One that needs more takes a ``SingleViewStream``."""

    @property
    def splits(self) -> tuple[Split, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def ranks(self) -> int: ...
    @property
    def augment(self) -> AugmentSettings:
        """What the augmentations may hold: an engine may leave out an operation that is off here."""
        ...

    @property
    def classes(self) -> int: ...
    @property
    def epoch_length(self) -> float:
        """Samples in one pass over the first split."""
        ...

    def batch_spec(self, start: int) -> "BatchSpec":
        """This rank's part of the batch that begins at sample ``start``; one part a split."""
        ...


@dataclass(frozen=True)
class SingleViewStream:
    """What is to be fed: the splits, the order over them, the augmentation, and the slice for this rank.

    ``batch_size`` is the number of samples a step consumes over all ranks; it is a multiple of ``ranks``.
    """

    splits: tuple[Split, ...]
    sampler: Sampler
    augment: AugmentSettings
    size: int
    batch_size: int
    rank: int = 0
    ranks: int = 1

    @property
    def classes(self) -> int:
        return sum(split.identities for split in self.splits)

    @property
    def epoch_length(self) -> float:
        """Samples in one pass over the first split."""
        return self.sampler.epoch_length

    def batch_spec(self, start: int) -> "BatchSpec":
        """This rank's part of the batch that begins at sample ``start``."""
        share = self.batch_size // self.ranks
        draws = self.sampler.samples(start + self.rank * share, share)
        augmentation = draw_augmentation(self.augment, self.sampler.seed, draws.epoch, draws.position)
        labels = np.empty(share, np.int64)
        parts, offset = [], 0
        for number, split in enumerate(self.splits):
            rows = np.flatnonzero(draws.source == number)
            records = draws.record[rows]
            labels[rows] = split.labels[records] + offset
            offset += split.identities
            if len(rows):
                parts.append(
                    BatchPart(split, rows, records, augmentation if len(rows) == share else augmentation.take(rows))
                )
        return BatchSpec(labels, tuple(parts), start)


def single_view_stream(feed: BatchStream, engine: str) -> SingleViewStream:
    """``feed`` for an engine that makes the order itself. Raises UsageError for another kind of stream."""
    if not isinstance(feed, SingleViewStream):
        raise UsageError(f"the {engine} engine cannot show two views of a face in a batch; use --engine resident")
    return feed


class BatchPart(NamedTuple):
    """The pictures of a batch that come from one split."""

    split: Split
    rows: NDArray[np.int64]
    """Their rows in the batch."""
    records: NDArray[np.int64]
    augmentation: Augmentation


class BatchSpec(NamedTuple):
    """A batch before its pixels."""

    labels: NDArray[np.int64]
    parts: tuple[BatchPart, ...]
    start: int
