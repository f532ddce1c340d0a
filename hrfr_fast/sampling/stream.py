"""Streams of batch specifications: the records of every batch, their labels and their augmentation."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.augmentation import Augmentation, draw_augmentation
from hrfr_fast.sampling.sampler import SampleIndices, Sampler
from hrfr_fast.settings import AugmentSettings

DRAWN_TOGETHER = 2048
"""Samples whose records and augmentation are drawn in one go: a batch of 256 takes 0.25 ms by itself, nearly all of it
the calls of NumPy."""


class BatchStream(Protocol):
    """Interface of all streams; an engine that needs more takes a ``SingleViewStream``."""

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
        """Ranges of the augmentation parameters: an engine may leave out an operation that is off here."""
        ...

    @property
    def classes(self) -> int: ...
    @property
    def epoch_length(self) -> float:
        """Samples in one pass over the first split."""
        ...

    def batch_spec(self, start: int) -> "BatchSpec":
        """This rank's share of the batch that begins at sample ``start``; one BatchPart a split."""
        ...


@dataclass(frozen=True)
class SingleViewStream:
    """A BatchStream of splits in a sampler's order, every face in one view.

    Args:
        splits: one, or two that the sampler mixes.
        sampler: the order of their records.
        augment: the augmentation.
        size: width and height of the batch's images in pixels.
        batch_size: samples a step over all ranks; a multiple of ``ranks``.
        rank, ranks: this rank and how many there are.
    """

    splits: tuple[Split, ...]
    sampler: Sampler
    augment: AugmentSettings
    size: int
    batch_size: int
    rank: int = 0
    ranks: int = 1
    _drawn: "dict[int, BatchSpec]" = field(default_factory=dict, init=False, repr=False, compare=False)
    """The batches drawn last, by their first samples."""

    @property
    def classes(self) -> int:
        return sum(split.identities for split in self.splits)

    @property
    def epoch_length(self) -> float:
        """Samples in one pass over the first split."""
        return self.sampler.epoch_length

    def batch_spec(self, start: int) -> "BatchSpec":
        """This rank's share of the batch that begins at sample ``start``."""
        found = self._drawn.get(start)
        if found is None:
            together = {spec.start: spec for spec in self._consecutive(start)}
            found = together[start]
            self._drawn.clear()
            self._drawn.update(together)
        return found

    def _consecutive(self, start: int) -> Iterator["BatchSpec"]:
        """This rank's shares of the batches from sample ``start`` on, as many as DRAWN_TOGETHER samples are."""
        share = self.batch_size // self.ranks
        starts = range(start, start + max(1, DRAWN_TOGETHER // share) * self.batch_size, self.batch_size)
        numbers = np.add.outer(np.array(starts) + self.rank * share, np.arange(share)).reshape(-1)
        samples = self.sampler.samples_at(numbers)
        augmentation = draw_augmentation(self.augment, self.sampler.seed, samples.epoch, samples.position)
        for number, batch_start in enumerate(starts):
            own = slice(number * share, (number + 1) * share)
            yield self._batch_spec(
                batch_start, SampleIndices(*(array[own] for array in samples)), augmentation.part(own)
            )

    def _batch_spec(self, start: int, samples: SampleIndices, augmentation: Augmentation) -> "BatchSpec":
        labels = np.empty(len(samples.record), np.int64)
        parts, label_offset = [], 0
        for number, split in enumerate(self.splits):
            rows = np.flatnonzero(samples.split == number)
            records = samples.record[rows]
            labels[rows] = split.labels[records] + label_offset
            label_offset += split.identities
            if len(rows):
                whole = len(rows) == len(labels)
                parts.append(BatchPart(split, rows, records, augmentation if whole else augmentation.take(rows)))
        return BatchSpec(labels, tuple(parts), start)


def single_view_stream(stream: BatchStream, engine: str) -> SingleViewStream:
    """``stream`` for an engine that needs the sampler itself. Raises UsageError for another kind of stream."""
    if not isinstance(stream, SingleViewStream):
        raise UsageError(f"the {engine} engine cannot show two views of a face in a batch; use --engine resident")
    return stream


class BatchPart(NamedTuple):
    """The samples of a batch that come from one split."""

    split: Split
    rows: NDArray[np.int64]
    """Their rows in the batch."""
    records: NDArray[np.int64]
    augmentation: Augmentation


class BatchSpec(NamedTuple):
    """Everything that decides a batch: which records, their rows, labels and augmentation."""

    labels: NDArray[np.int64]
    parts: tuple[BatchPart, ...]
    start: int
