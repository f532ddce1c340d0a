"""What every engine takes and gives.

An engine turns the order and the augmentation plan into batches on the device. It draws no random number of its
own and keeps no state but what makes it fast: ``batches(start, stop)`` from any start gives the batches that an
uninterrupted run would have given there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.data.augment import AugmentSettings, Plan, draw_plan
from hrfr_fast.data.order import Order
from hrfr_fast.data.shards import Split
from hrfr_fast.errors import DamageFound, UsageError

if TYPE_CHECKING:
    import torch


class Batch(NamedTuple):
    """One batch of the stream."""

    images: "torch.Tensor"
    """[B, 3, S, S], channels-last in memory. uint8: levels; a float type: (level - 127.5) / 127.5."""
    labels: "torch.Tensor"
    """int64 [B], offset by source."""
    start: int
    """Samples consumed before this batch."""


class Feed(Protocol):
    """What an engine may ask of any stream. One that needs more (the order itself, say) takes a ``Stream``."""

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
        """What the plans may hold: an engine may leave out an operation that is off here."""
        ...

    @property
    def classes(self) -> int: ...
    @property
    def epoch_length(self) -> float:
        """Samples in one pass over the first split."""
        ...

    def work(self, start: int) -> "Work":
        """This rank's part of the batch that begins at sample ``start``; one part a split."""
        ...


@dataclass(frozen=True)
class Stream:
    """What is to be fed: the splits, the order over them, the augmentation, and the slice for this rank.

    ``batch_size`` is the number of samples a step consumes over all ranks; it is a multiple of ``ranks``.
    """

    splits: tuple[Split, ...]
    order: Order
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
        return self.order.epoch_length

    def work(self, start: int) -> "Work":
        """This rank's part of the batch that begins at sample ``start``."""
        share = self.batch_size // self.ranks
        draws = self.order.at(start + self.rank * share, share)
        plan = draw_plan(self.augment, self.order.seed, draws.epoch, draws.position)
        labels = np.empty(share, np.int64)
        parts, offset = [], 0
        for number, split in enumerate(self.splits):
            rows = np.flatnonzero(draws.source == number)
            records = draws.record[rows]
            labels[rows] = split.labels[records] + offset
            offset += split.identities
            if len(rows):
                parts.append(Part(split, rows, records, plan if len(rows) == share else plan.take(rows)))
        return Work(labels, tuple(parts), start)


def plain_stream(feed: Feed, engine: str) -> Stream:
    """``feed`` for an engine that makes the order itself. Raises UsageError for another kind of stream."""
    if not isinstance(feed, Stream):
        raise UsageError(f"the {engine} engine cannot show two views of a face in a batch; use --engine resident")
    return feed


class Part(NamedTuple):
    """The pictures of a batch that come from one split."""

    split: Split
    rows: NDArray[np.int64]
    """Their rows in the batch."""
    records: NDArray[np.int64]
    plan: Plan


class Work(NamedTuple):
    """A batch before its pixels."""

    labels: NDArray[np.int64]
    parts: tuple[Part, ...]
    start: int


class Engine(Protocol):
    """The protocol. Use as a context manager, or call ``close()``; closing early leaks nothing."""

    name: str

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches at samples start, start + batch_size, ... while below ``stop``."""
        ...

    def close(self) -> None: ...


class FirstUse:
    """Compares each record with its checksum the first time it is used, before its pixels go anywhere.

    Args:
        splits: what records come from.
        enabled: False leaves the checksums out, but for whether the file is still whole.
    """

    def __init__(self, splits: tuple[Split, ...], enabled: bool = True) -> None:
        self._seen = {split.name: np.zeros(split.samples, np.bool_) for split in splits} if enabled else None

    def check(self, split: Split, records: NDArray[np.int64]) -> None:
        """Raise DamageFound when one of ``records`` is used for the first time and does not match its checksum, or
        when the file has become shorter."""
        split.refuse_shrunk()
        if self._seen is None:
            return
        seen = self._seen[split.name]
        fresh = records[~seen[records]]
        if len(fresh):
            refuse_damaged(split, fresh)
            seen[fresh] = True


def refuse_damaged(split: Split, records: NDArray[np.int64]) -> None:
    """Raise DamageFound, naming shard and record, when a record's bytes do not match its checksum."""
    damaged = split.verify(records)
    if len(damaged):
        raise DamageFound(
            f"{split.path}: record {int(damaged[0])} does not match its checksum"
            + (f" (and {len(damaged) - 1} more in this batch)" if len(damaged) > 1 else "")
            + f"; {split.advice}"
        )
