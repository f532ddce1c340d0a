"""The stream of ``--resident-shard B``: the faces are cut into B blocks, and every batch takes equally many from each.

A rank then needs the pixels of its own blocks alone. The price is in the order, which is no longer one shuffle of all
faces:

- Which faces a block holds is decided once, by the seed and B. Of every B neighbouring records (mostly pictures of one
  person) each block gets one, so that the blocks differ in size by one record at most and know nearly all people.
- Row i of a batch of N comes from block i // (N / B). Each block is a stream of its own: reshuffled in each of its own
  passes, with a seed of its own for order and augmentation.
- A face comes again only after all others of its block. As blocks differ by one record, their passes drift apart by
  one draw a pass.
- A batch is a stratified sample of the faces; two faces of different blocks meet in a batch as before, but without
  ``--sync-bn`` never in one rank's BatchNorm statistics.

The order is a function of (seed, B, sample number) and does not know the number of ranks: rank r of R works on blocks
r B / R to (r + 1) B / R - 1, so a run resumes on any number of ranks that divides B.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import BLOCKS, philox
from hrfr_fast.sampling.sampler import Sampler, draws_for_share
from hrfr_fast.sampling.stream import BatchPart, BatchSpec, SingleViewStream
from hrfr_fast.settings import AugmentSettings

GROUPS = 65536  # groups of neighbouring records whose keys are made at a time
MEMBERS, SEEDS = 0, 1  # views of the random numbers


def block_members(seed: int, split: int, records: int, blocks: int, block: int) -> NDArray[np.int64]:
    """The records of a split that block ``block`` of ``blocks`` holds, ascending.

    In each group of ``blocks`` neighbouring records the order of random keys gives the first to block 0, and so on; in
    the last group, which may be shorter, blocks whose place is beyond its end get none.

    Args:
        seed: 0 <= seed < 2**64.
        split: number of the split.
        records: in the split, below 2**32.
    """
    found = []
    for start in range(0, -(-records // blocks), GROUPS):
        group = np.arange(start, min(start + GROUPS, -(-records // blocks)))[:, None]
        words = philox(seed, split, group * blocks + np.arange(blocks), purpose=BLOCKS, view=MEMBERS)
        keys = words[..., 0] << np.uint64(32) | words[..., 1]
        found.append(group[:, 0] * blocks + np.argsort(keys, axis=1, kind="stable")[:, block])
    members = np.concatenate(found)
    return members[members < records]


def block_seed(seed: int, block: int) -> int:
    """The seed of a block's order and augmentation, in [0, 2**64)."""
    words = philox(seed, 0, block, purpose=BLOCKS, view=SEEDS)
    return int(words[0]) << 32 | int(words[1])


@dataclass(frozen=True)
class Block:
    """One block: the ``records`` that it holds of each split, and the stream of them, which numbers them from 0."""

    number: int
    records: tuple[NDArray[np.int64], ...]
    stream: SingleViewStream


@dataclass(frozen=True)
class BlockStream:
    """A BatchStream whose batches are made of ``blocks`` equal parts, each of another block of the faces.

    Args:
        splits: one, or two that are mixed.
        seed: of blocks, order and augmentation.
        second_share: share of the second split, see ``draws_for_share``.
        augment: the augmentation.
        size: width and height of the batch's images in pixels.
        batch_size: samples a step over all ranks; a multiple of ``blocks``.
        blocks: a multiple of ``ranks``.
        rank, ranks: this rank and how many there are.

    Raises:
        UsageError: numbers that do not divide each other; more blocks than a split has faces.
    """

    splits: tuple[Split, ...]
    seed: int
    second_share: float | None
    augment: AugmentSettings
    size: int
    batch_size: int
    blocks: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.blocks % self.ranks:
            raise UsageError(
                f"--resident-shard {self.blocks}: its blocks cannot be shared out evenly among {self.ranks} ranks. A"
                " run goes on with any number of ranks that divides the blocks; a new run may have another number of"
                " blocks, a multiple of its ranks"
            )
        if self.batch_size % self.blocks:
            raise UsageError(
                f"--resident-shard {self.blocks}: a batch of {self.batch_size} cannot hold equally many faces of each"
                f" block; choose --batch-size as a multiple of {self.blocks}"
            )
        for split in self.splits:
            if split.samples < self.blocks:
                raise UsageError(
                    f"--resident-shard {self.blocks}: {split.name} has only {split.samples} faces; take fewer blocks"
                )

    @property
    def classes(self) -> int:
        return sum(split.identities for split in self.splits)

    @property
    def epoch_length(self) -> float:
        """Samples in one pass over the first split, on average over the blocks."""
        first, second = self.splits[0].samples, sum(split.samples for split in self.splits[1:])
        return first + (draws_for_share(self.second_share, first, second) if second else 0)

    @cached_property
    def own(self) -> tuple[Block, ...]:
        """The blocks of this rank."""
        each = self.blocks // self.ranks
        return tuple(self._block(number) for number in range(self.rank * each, (self.rank + 1) * each))

    def _block(self, number: int) -> Block:
        records = tuple(
            block_members(self.seed, place, split.samples, self.blocks, number)
            for place, split in enumerate(self.splits)
        )
        splits = tuple(split.part(chosen) for split, chosen in zip(self.splits, records, strict=True))
        first, second = splits[0].samples, sum(split.samples for split in splits[1:])
        draws = draws_for_share(self.second_share, first, second) if second else None
        sampler = Sampler(block_seed(self.seed, number), first, second, draws)
        share = self.batch_size // self.blocks
        return Block(number, records, SingleViewStream(splits, sampler, self.augment, self.size, share))

    def block_start(self, start: int) -> int:
        """Samples that each block has given before the batch that begins at sample ``start``."""
        batch, inside = divmod(start, self.batch_size)
        if inside:
            raise ValueError(f"sample {start} is inside a batch of {self.batch_size}")
        return batch * (self.batch_size // self.blocks)

    def batch_spec(self, start: int) -> BatchSpec:
        """This rank's share of the batch that begins at sample ``start``, a multiple of the batch size."""
        labels, parts, row = [], list[BatchPart](), 0
        for block in self.own:
            spec = block.stream.batch_spec(self.block_start(start))
            labels.append(spec.labels)
            for part in spec.parts:
                place = block.stream.splits.index(part.split)
                records = block.records[place][part.records]
                parts.append(BatchPart(self.splits[place], part.rows + row, records, part.augmentation))
            row += len(spec.labels)
        return BatchSpec(np.concatenate(labels), tuple(parts), start)
