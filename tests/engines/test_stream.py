"""A batch is the same wherever reading starts, and however many are drawn together."""

from dataclasses import replace

import numpy as np
import pytest
from engine_cases import stream_over

from hrfr_fast.sampling import stream as stream_module
from hrfr_fast.sampling.stream import BatchSpec
from hrfr_fast.settings import AugmentSettings

BATCH, BATCHES = 8, 300  # 2,400 samples, more than are drawn together, in 75 epochs


def equal(first: BatchSpec, second: BatchSpec) -> bool:
    """Whether two specifications ask for the same batch."""
    arrays = [
        [spec.labels, *(array for part in spec.parts for array in (part.rows, part.records, *part.augmentation))]
        for spec in (first, second)
    ]
    same = all(np.array_equal(one, other) for one, other in zip(*arrays, strict=True))
    return same and first.start == second.start and [part.split for part in first.parts] == [
        part.split for part in second.parts
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [{}, {"rank": 1, "ranks": 2}])
def test_a_batch_does_not_depend_on_those_drawn_with_it(shards, monkeypatch, rank):
    splits = [shards["lowres", "raw"], shards["highres", "raw"]]
    together, alone = (stream_over(splits, 36, AugmentSettings(), BATCH, **rank) for _ in range(2))
    drawn = [together.batch_spec(number * BATCH) for number in range(BATCHES)]
    assert equal(together.batch_spec(7 * BATCH), drawn[7])  # back again
    assert equal(replace(together).batch_spec(299 * BATCH), drawn[299])
    monkeypatch.setattr(stream_module, "DRAWN_TOGETHER", 1)
    assert all(equal(alone.batch_spec(spec.start), spec) for spec in drawn)
    assert not equal(drawn[7], drawn[8])
