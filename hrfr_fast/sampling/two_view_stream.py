"""The stream of crossres regimes: in every batch some highres faces stand twice, sharp and degraded.

Every batch has the same composition, so shapes are static: ``pairs`` highres faces, and lowres faces for the rest.
Both kinds come from orders of their own, numbered by batch, so that a run resumes anywhere. A batch of several chunks
(ranks times micro-batches) has the composition in each of them: lowres in front, the adjacent views at the end.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import AUGMENT, SHUFFLE_HIGHRES, philox, uniform
from hrfr_fast.sampling.augmentation import FILTERS, Augmentation, draw_augmentation
from hrfr_fast.sampling.sampler import Sampler, permutation
from hrfr_fast.sampling.stream import BatchPart, BatchSpec
from hrfr_fast.settings import AugmentSettings

SHARP, DEGRADED = 1, 2  # views; 0 is that of unpaired faces, which share epochs and positions with these
KERNEL_BLOCK = 6  # of random numbers, after those of draw_augmentation


@dataclass(frozen=True)
class SecondView:
    """How the second view is degraded: shrunk to min..max pixels with one of ``kernels``. Raises UsageError."""

    smallest: int
    largest: int
    kernels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest:
            raise UsageError(
                f"degrade_min is {self.smallest} and degrade_max {self.largest}; 1 <= min <= max is needed"
            )
        if not self.kernels or not set(self.kernels) <= set(FILTERS):
            raise UsageError(f"kernels are {', '.join(self.kernels)!r}; they must be some of {', '.join(FILTERS)}")

    def on_top_of(self, augment: AugmentSettings) -> AugmentSettings:
        """``augment`` with this degradation for certain."""
        return replace(augment, degrade=1.0, degrade_min=self.smallest, degrade_max=self.largest)

    def draw(
        self, augment: AugmentSettings, seed: int, cycle: NDArray[np.int64], index: NDArray[np.int64]
    ) -> Augmentation:
        """The augmentation of the degraded view of the draws (cycle, index), two int64 arrays [K]."""
        augmentation = draw_augmentation(self.on_top_of(augment), seed, cycle, index, view=DEGRADED)
        drawn = uniform(philox(seed, cycle, index, purpose=AUGMENT, view=DEGRADED, block=KERNEL_BLOCK))[:, 0]
        numbers = np.array([FILTERS.index(name) for name in self.kernels], np.int32)
        augmentation.filter[:] = numbers[(drawn * len(numbers)).astype(np.int64)]
        return augmentation


@dataclass(frozen=True)
class TwoViewStream:
    """A BatchStream with two views of each highres face in every batch.

    Args:
        splits: lowres, highres.
        seed: decides order and augmentation.
        every_view: augmentation of every view.
        second_view: what the degraded one gets on top.
        size: side of the batch's pictures.
        batch_size: samples a step over all ranks and micro-batches.
        pairs: highres faces a batch, twice each.
        rank, ranks: this rank and how many there are.
        micro_batches: a rank's batch consists of, each of the same composition.

    Raises:
        UsageError: a batch that is too small, or not divisible by ranks and micro-batches.
    """

    splits: tuple[Split, Split]
    seed: int
    every_view: AugmentSettings
    second_view: SecondView
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
                f"a batch of {self.batch_size} with {self.pairs} pairs of views cannot be cut into {chunks} equal "
                f"parts; choose --batch-size and --highres-share so that both are multiples"
            )
        if self.pairs < 1 or self.lowres < 1:
            raise UsageError(
                f"a batch of {self.batch_size} cannot hold {self.pairs} pairs of views beside lowres faces; "
                f"choose a larger --batch-size or another --highres-share"
            )

    @property
    def lowres(self) -> int:
        """Lowres faces a batch."""
        return self.batch_size - 2 * self.pairs

    @property
    def augment(self) -> AugmentSettings:
        """All that augmentations may hold, for engines that prepare only what is asked for. Not of every view."""
        return self.second_view.on_top_of(self.every_view)

    @property
    def classes(self) -> int:
        return sum(split.identities for split in self.splits)

    @property
    def epoch_length(self) -> float:
        """Samples in one pass over lowres."""
        return self.splits[0].samples * self.batch_size / self.lowres

    def batch_spec(self, start: int) -> BatchSpec:
        """This rank's part of the batch that begins at sample ``start``, a multiple of the batch size."""
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
        draws = Sampler(self.seed, self.splits[0].samples).samples(start, count)
        augmentation = draw_augmentation(self.every_view, self.seed, draws.epoch, draws.position)
        return BatchPart(self.splits[0], rows, draws.record, augmentation)

    def _highres_part(self, rows: NDArray[np.int64], start: int, count: int) -> BatchPart:
        """Draws start .. start + count - 1 from highres, each as two adjacent rows."""
        split = self.splits[1]
        cycle, index = np.divmod(np.arange(start, start + count, dtype=np.int64), split.samples)
        records = np.empty(count, np.int64)
        for one in np.unique(cycle):
            inside = cycle == one
            records[inside] = permutation(self.seed, int(one), split.samples, SHUFFLE_HIGHRES)[index[inside]]
        sharp = draw_augmentation(self.every_view, self.seed, cycle, index, view=SHARP)
        degraded = self.second_view.draw(self.every_view, self.seed, cycle, index)
        both = (np.stack(pair, axis=1).reshape(-1, *pair[0].shape[1:]) for pair in zip(sharp, degraded, strict=True))
        return BatchPart(split, rows, np.repeat(records, 2), Augmentation(*both))


def pairs_for_share(share: float | None, batch_size: int, first: int, second: int, micro_batches: int = 1) -> int:
    """Highres faces a batch, two views each, so that views make up ``share`` of it; at least 1 a micro-batch.

    None means as they come: a face of the second source is drawn as often as one of the first.
    """
    exact = batch_size * second / (first + 2 * second) if share is None else share * batch_size / 2
    return micro_batches * max(1, round(exact / micro_batches))
