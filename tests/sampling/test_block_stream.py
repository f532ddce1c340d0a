"""The order of --resident-shard: what a block holds, that ranks change nothing, that each needs its blocks alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from engine_cases import EVERYTHING, KERNEL_DEVICES, build

from hrfr_fast.engines import resident_cuda
from hrfr_fast.engines.resident_cuda import BlocksSampled
from hrfr_fast.format.reader import open_packed
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.block_stream import BlockStream, block_members, block_seed
from hrfr_fast.settings import AugmentSettings, TrainSettings
from hrfr_fast.training.stream import build_stream

BLOCKS, BATCH = 4, 24


@pytest.fixture(scope="module")
def splits(tiny_packed):
    found = open_packed(tiny_packed).splits
    return found["lowres"], found["highres"]


def stream_of(splits, rank=0, ranks=1, **changed):
    given = {"seed": 3, "second_share": 0.3, "augment": EVERYTHING, "size": 32, "batch_size": BATCH, "blocks": BLOCKS}
    return BlockStream(splits, **given | changed, rank=rank, ranks=ranks)


@pytest.mark.parametrize("records,blocks", [(144, 4), (145, 4), (147, 4), (7, 7), (10, 1), (200_001, 3)])
def test_blocks_hold_each_record_once_and_one_of_every_group(records, blocks):
    members = [block_members(5, 0, records, blocks, block) for block in range(blocks)]
    assert np.sort(np.concatenate(members)).tolist() == list(range(records))
    for block in members:
        assert (np.diff(block // blocks) == 1).all() or records % blocks, "one of each group of neighbours"
        assert len(block) in (records // blocks, records // blocks + 1) and (np.diff(block) > 0).all()


def test_the_order_is_what_it_was():
    """Runs that are to be resumed rest on these numbers."""
    held = [block_members(7, 0, 12, 3, block).tolist() for block in range(3)]
    assert held == [[1, 3, 6, 10], [2, 4, 8, 11], [0, 5, 7, 9]]
    assert block_members(7, 1, 12, 3, 1).tolist() == [1, 4, 8, 11], "the splits are cut independently"
    assert block_seed(7, 1) == 8364567585330720786


def parts_of(spec):
    """(split, row, record, augmentation as bytes) of every sample, by row."""
    samples = []
    for part in spec.parts:
        values = [np.asarray(array) for array in part.augmentation]
        samples += [
            (int(row), part.split.name, int(record), b"".join(array[place].tobytes() for array in values))
            for place, (row, record) in enumerate(zip(part.rows, part.records, strict=True))
        ]
    return [sample[1:] for sample in sorted(samples)]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_change_nothing(splits, ranks):
    for start in (0, 7 * BATCH, 400 * BATCH):
        whole = stream_of(splits).batch_spec(start)
        shares = [stream_of(splits, rank, ranks).batch_spec(start) for rank in range(ranks)]
        assert np.concatenate([share.labels for share in shares]).tolist() == whole.labels.tolist()
        assert [sample for share in shares for sample in parts_of(share)] == parts_of(whole)


def test_a_rank_needs_its_own_blocks_and_draws_their_faces_equally_often(splits):
    stream = stream_of(splits, rank=1, ranks=2)
    own = [np.concatenate([block.records[split] for block in stream.own]) for split in range(2)]
    drawn = Counter()
    labels = [split.labels for split in splits]
    passes = 3
    for number in range(round(passes * stream.epoch_length / BATCH)):
        spec = stream.batch_spec(number * BATCH)
        for part in spec.parts:
            which = splits.index(part.split)
            assert np.isin(part.records, own[which]).all()
            offset = which * splits[0].identities
            assert (spec.labels[part.rows] == labels[which][part.records] + offset).all()
            drawn.update((which, int(record)) for record in part.records)
    counts = [drawn[0, int(record)] for record in own[0]]
    assert sum(counts) and {passes - 1, passes, passes + 1} >= set(counts), "within one of the passes"


def test_blocks_have_orders_and_augmentation_of_their_own(splits):
    spec = stream_of(splits, augment=AugmentSettings()).batch_spec(0)
    first = parts_of(spec)
    share = BATCH // BLOCKS
    augmentation = [sample[2] for sample in first]
    assert len(set(augmentation)) == BATCH, "no two rows are augmented alike"
    orders = {tuple(np.argsort([sample[1] for sample in first[k : k + share]])) for k in range(0, BATCH, share)}
    assert len(orders) > 1


WRONG = {
    "ranks": ({"ranks": 3}, "4: its blocks cannot be shared out evenly among 3 ranks"),
    "batch": ({"batch_size": 22}, "a batch of 22"),
    "faces": ({"blocks": 1000, "batch_size": 2000}, "lowres has only"),
}


@pytest.mark.parametrize("changed,said", WRONG.values(), ids=WRONG)
def test_numbers_that_do_not_fit_are_refused(splits, changed, said):
    with pytest.raises(UsageError, match=said):
        stream_of(splits, **changed)


def test_regimes_with_two_views_are_refused_and_no_blocks_leave_the_order_as_it_was(tiny_packed):
    packed = open_packed(tiny_packed)
    with pytest.raises(UsageError, match="pairs views"):
        build_stream(packed, TrainSettings(regime="crossres144", resident_shard=2), 16)
    plain = build_stream(packed, TrainSettings(regime="highlow144"), 16)
    assert not isinstance(plain, BlockStream)
    assert isinstance(build_stream(packed, TrainSettings(regime="highlow144", resident_shard=2), 16), BlockStream)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("kernels", [True, False], ids=["triton", "products"])
def test_the_device_holds_its_blocks_and_makes_the_batches_of_the_cpu(splits, kernels, device, monkeypatch):
    if kernels:
        pytest.importorskip("triton", reason="Triton exists for Linux only")
    stream = stream_of(splits, rank=1, ranks=2, augment=AugmentSettings(), batch_size=8)
    with build("resident", stream) as reference:
        wanted = list(reference.batches(16, 32))
    monkeypatch.setattr(resident_cuda, "kernels_run_on", lambda _: kernels)
    with resident_cuda.build_resident_cuda(stream, torch.device(device), torch.uint8) as engine:
        assert isinstance(engine, BlocksSampled)
        held = sum(len(pixels) for inner in engine._engines for pixels in inner.pixels)
        assert held == sum(len(records) for block in stream.own for records in block.records)
        for batch, expected in zip(engine.batches(16, 32), wanted, strict=True):
            assert batch.labels.tolist() == expected.labels.tolist()
            assert (batch.images.cpu().int() - expected.images.int()).abs().max() <= 1
    assert all(not inner.pixels for inner in engine._engines)
