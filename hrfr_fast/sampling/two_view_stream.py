"""The stream of crossres regimes: in every batch some highres faces come twice, sharp and degraded.

Every batch has the same composition, so shapes are static: ``pairs`` highres faces in two views each, and lowres faces
for the rest. Each split has an order of its own, numbered by batch, so that a run resumes anywhere. Each of the equal
parts of a batch (one a rank and micro-batch) has that composition: lowres in front, adjacent views at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import AUGMENT, SHUFFLE_HIGHRES, philox, uniform
from hrfr_fast.sampling.augmentation import FILTER_BLOCK, FILTERS, Augmentation, draw_augmentation
from hrfr_fast.sampling.sampler import Sampler, permutation
from hrfr_fast.sampling.stream import BatchPart, BatchSpec
from hrfr_fast.settings import AugmentSettings

SHARP, DEGRADED = 1, 2  # views; 0 is that of lowres faces, which share epochs and positions with these


class DegradedView(Protocol):
    """How the second view of a face is degraded."""

    def on_top_of(self, augment: AugmentSettings) -> AugmentSettings:
        """``augment`` with ranges that hold this degradation."""
        ...

    def draw(
        self, augment: AugmentSettings, seed: int, cycle: NDArray[np.int64], index: NDArray[np.int64], view: int,
        size: int,
    ) -> Augmentation:  # fmt: skip
        """The augmentation of the views of the samples (cycle, index), int64 [K], of sources of ``size`` pixels."""
        ...

    def largest_side(self, size: int) -> int:
        """The most pixels a side of a degraded picture, of sources of ``size`` pixels."""
        ...


@dataclass(frozen=True)
class SecondView:
    """Degradation of second views to ``smallest`` .. ``largest`` pixels with one of ``filters``. Raises UsageError."""

    smallest: int
    largest: int
    filters: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest:
            raise UsageError(
                f"degrade_min is {self.smallest} and degrade_max {self.largest}; 1 <= min <= max is needed"
            )
        if not self.filters or not set(self.filters) <= set(FILTERS):
            raise UsageError(f"kernels are {', '.join(self.filters)!r}; they must be some of {', '.join(FILTERS)}")

    def on_top_of(self, augment: AugmentSettings) -> AugmentSettings:
        """``augment`` with this degradation of every image."""
        return augment.replaced(degrade=1.0, degrade_min=self.smallest, degrade_max=self.largest)

    def draw(
        self, augment: AugmentSettings, seed: int, cycle: NDArray[np.int64], index: NDArray[np.int64], view: int,
        size: int,
    ) -> Augmentation:  # fmt: skip
        """The augmentation of the views of the samples (cycle, index), int64 [K]; ``size`` of the sources is unused."""
        augmentation = draw_augmentation(self.on_top_of(augment), seed, cycle, index, view=view)
        drawn = uniform(philox(seed, cycle, index, purpose=AUGMENT, view=view, block=FILTER_BLOCK))[:, 0]
        numbers = np.array([FILTERS.index(name) for name in self.filters], np.int32)
        augmentation.filter[:] = numbers[(drawn * len(numbers)).astype(np.int64)]
        return augmentation

    def largest_side(self, size: int) -> int:
        """The most pixels a side of a degraded picture, of sources of ``size`` pixels."""
        return min(self.largest, size)


@dataclass(frozen=True)
class TwoViewStream:
    """A BatchStream with two views of each highres face in every batch.

    Args:
        splits: lowres, highres.
        seed: of order and augmentation.
        every_view: augmentation of every view.
        second_view: degradation of the second view, on top of that.
        size: width and height of the batch's images in pixels.
        batch_size: samples a step over all ranks and micro-batches.
        pairs: highres faces a batch, two views each.
        rank, ranks: this rank and how many there are.
        micro_batches: parts of a rank's batch that have the same composition.

    Raises:
        UsageError: a batch that is too small, or not divisible by ranks and micro-batches.
    """

    splits: tuple[Split, Split]
    seed: int
    every_view: AugmentSettings
    second_view: DegradedView
    size: int
    batch_size: int
    pairs: int
    rank: int = 0
    ranks: int = 1
    micro_batches: int = 1

    def __post_init__(self) -> None:
        chunks = self.ranks * self.micro_batches
        if self.batch_size % chunks or self.pairs % chunks:
            raise UsageError(
                f"a batch of {self.batch_size} with {self.pairs} pairs of views cannot be cut into {chunks} equal parts"
                f", one a rank and micro-batch; choose --batch-size and --highres-share so that both are multiples"
            )
        if self.pairs < 1 or self.lowres < 1:
            raise UsageError(
                f"a batch of {self.batch_size} cannot hold {self.pairs} pairs of views beside lowres faces; "
                f"choose a larger --batch-size or another --highres-share"
            )

    @property
    def lowres(self) -> int:
        """Number of lowres faces a batch."""
        return self.batch_size - 2 * self.pairs

    @property
    def augment(self) -> AugmentSettings:
        """Ranges of the augmentation parameters of both views together, see BatchStream."""
        return self.second_view.on_top_of(self.every_view)

    @property
    def classes(self) -> int:
        return sum(split.identities for split in self.splits)

    @property
    def epoch_length(self) -> float:
        """Samples in one pass over lowres."""
        return self.splits[0].samples * self.batch_size / self.lowres

    def batch_spec(self, start: int) -> BatchSpec:
        """This rank's share of the batch that begins at sample ``start``, a multiple of the batch size."""
        batch, inside = divmod(start, self.batch_size)
        if inside:
            raise ValueError(f"sample {start} is inside a batch of {self.batch_size}")
        low, high = self.lowres // self.ranks, self.pairs // self.ranks
        rows = np.arange(low + 2 * high).reshape(self.micro_batches, -1)
        low_rows = rows[:, : low // self.micro_batches].ravel()
        high_rows = rows[:, low // self.micro_batches :].ravel()
        parts = (
            self._lowres_part(low_rows, batch * self.lowres + self.rank * low, low),
            self._highres_part(high_rows, batch * self.pairs + self.rank * high, high),
        )
        labels = np.empty(low + 2 * high, np.int64)
        labels[low_rows] = self.splits[0].labels[parts[0].records]
        labels[high_rows] = self.splits[1].labels[parts[1].records] + self.splits[0].identities
        return BatchSpec(labels, parts, start)

    def _lowres_part(self, rows: NDArray[np.int64], start: int, count: int) -> BatchPart:
        samples = Sampler(self.seed, self.splits[0].samples).samples(start, count)
        augmentation = draw_augmentation(self.every_view, self.seed, samples.epoch, samples.position)
        return BatchPart(self.splits[0], rows, samples.record, augmentation)

    def _highres_part(self, rows: NDArray[np.int64], start: int, count: int) -> BatchPart:
        """Samples start .. start + count - 1 of highres, each as two adjacent rows."""
        split = self.splits[1]
        cycle, index = np.divmod(np.arange(start, start + count, dtype=np.int64), split.samples)
        records = np.empty(count, np.int64)
        for one_cycle in np.unique(cycle):
            inside = cycle == one_cycle
            records[inside] = permutation(self.seed, int(one_cycle), split.samples, SHUFFLE_HIGHRES)[index[inside]]
        sharp = draw_augmentation(self.every_view, self.seed, cycle, index, view=SHARP)
        degraded = self.second_view.draw(self.every_view, self.seed, cycle, index, DEGRADED, split.size)
        views: Iterator[tuple[Any, Any]] = zip(sharp, degraded, strict=True)
        adjacent = (np.stack(pair, axis=1).reshape(-1, *pair[0].shape[1:]) for pair in views)
        return BatchPart(split, rows, np.repeat(records, 2), Augmentation(*adjacent))


def pairs_for_share(share: float | None, batch_size: int, first: int, second: int, micro_batches: int = 1) -> int:
    """Highres faces a batch, two views each, so that views make up ``share`` of it; at least 1 a micro-batch.

    None means that a face of the second split is drawn as often as one of the first.
    """
    exact = batch_size * second / (first + 2 * second) if share is None else share * batch_size / 2
    return micro_batches * max(1, round(exact / micro_batches))
