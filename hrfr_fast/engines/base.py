"""Common interface of all engines, and the checksums that they verify.

An engine executes the batch specifications of a stream on a device. It draws no random number of its own and keeps no
state but what makes it fast: ``batches(start, stop)`` gives, from any start, the batches that an uninterrupted run
would have given there.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import DamageFound

if TYPE_CHECKING:  # the doctor reads this room's rules where torch may be missing
    import torch


class Batch(NamedTuple):
    """One batch of the stream."""

    images: "torch.Tensor"
    """[B, 3, S, S], channels-last in memory. uint8: pixel values; a float type: (value - 127.5) / 127.5."""
    labels: "torch.Tensor"
    """int64 [B], offset by split."""
    start: int
    """Samples consumed before this batch."""


class Engine(ABC):
    """Base of all engines. Use as a context manager, or call ``close()``; closing early leaks nothing."""

    name: str

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches at samples start, start + batch_size, ... while below ``stop``."""

    @abstractmethod
    def close(self) -> None:
        """Give up memory, threads and files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FirstUseChecksums:
    """Verification of each record's checksum when it is first used, before its pixels go anywhere.

    Args:
        splits: what records come from.
        enabled: False leaves out the checksums, and only checks that the files have not become shorter.
    """

    def __init__(self, splits: tuple[Split, ...], enabled: bool = True) -> None:
        self._verified = {split.name: np.zeros(split.samples, np.bool_) for split in splits} if enabled else None

    def check(self, split: Split, records: NDArray[np.int64]) -> None:
        """Raise DamageFound when one of ``records`` is used for the first time and does not match its checksum, or
        when the file has become shorter."""
        split.refuse_shrunk()
        if self._verified is None:
            return
        verified = self._verified[split.name]
        unverified = records[~verified[records]]
        if len(unverified):
            _read_ahead(split, unverified)
            refuse_damaged(split, unverified)
            verified[unverified] = True


def _read_ahead(split: Split, records: NDArray[np.int64]) -> None:
    """Have the pages of ``records`` in memory. Other threads run meanwhile: zlib lets them only beside records of more
    than 5 KB, and where the disk stalls one of them says so."""
    from hrfr_fast.resampling.cpu import touch  # numba: 0.5 s to import

    touch(split.data, split.offsets[records], split.lengths[records])


def refuse_damaged(split: Split, records: NDArray[np.int64]) -> None:
    """Raise DamageFound, naming shard and record, when a record's bytes do not match its checksum."""
    damaged = split.verify(records)
    if len(damaged):
        raise DamageFound(
            f"{split.where(int(damaged[0]))} does not match its checksum"
            + (f" (and {len(damaged) - 1} more in this batch)" if len(damaged) > 1 else "")
            + f"; {split.advice}"
        )
