"""What every engine takes and gives.

An engine turns the order and the augmentation into batches on the device. It draws no random number of its
own and keeps no state but what makes it fast: ``batches(start, stop)`` from any start gives the batches that an
uninterrupted run would have given there.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import DamageFound

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
