"""The paired stream: every batch of one composition, both views of one face, resumable and sliceable anywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_cases import DEVICES, STILL, build

from hrfr_fast.engines import resident_cuda
from hrfr_fast.engines.resident import ResidentCPU
from hrfr_fast.format.reader import open_packed
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.augmentation import FILTERS, no_augmentation
from hrfr_fast.sampling.sampler import Sampler
from hrfr_fast.sampling.stream import SingleViewStream, single_view_stream
from hrfr_fast.sampling.two_view_stream import SecondView, TwoViewStream, pairs_for_share
from hrfr_fast.settings import AugmentSettings

VIEW = SecondView(28, 44, ("linear", "box"))


@pytest.fixture
def stream(tiny_packed):
    splits = open_packed(tiny_packed).splits
    return TwoViewStream((splits["lowres"], splits["highres"]), 3, AugmentSettings(), VIEW, 48, 24, 4)


def drawn(stream, batches):
    """Records of each split, in the order of the stream, over the first batches."""
    batch_specs = [stream.batch_spec(number * stream.batch_size) for number in range(batches)]
    return [np.concatenate([batch_spec.parts[part].records for batch_spec in batch_specs]) for part in (0, 1)]


def test_a_batch_holds_lowres_in_front_and_pairs_of_views_at_the_end(stream):
    batch_spec = stream.batch_spec(5 * 24)
    low, high = batch_spec.parts
    assert low.rows.tolist() == list(range(16)) and high.rows.tolist() == list(range(16, 24))
    assert np.array_equal(high.records[0::2], high.records[1::2])
    offset = stream.splits[0].identities
    assert np.array_equal(batch_spec.labels[16:], stream.splits[1].labels[high.records] + offset)
    assert np.array_equal(batch_spec.labels[:16], stream.splits[0].labels[low.records])
    sharp, degraded = high.augmentation.take(np.arange(0, 8, 2)), high.augmentation.take(np.arange(1, 8, 2))
    assert not sharp.degrade.any() and not low.augmentation.degrade.any()
    assert (sharp.box != degraded.box).any(axis=1).all(), "each view is augmented for itself"


def test_the_degraded_view_draws_all_sizes_and_only_the_filters_asked_for(stream):
    augmentations = [stream.batch_spec(number * 24).parts[1].augmentation for number in range(150)]
    sizes = np.concatenate([augmentation.degrade[1::2] for augmentation in augmentations])
    filters = np.concatenate([augmentation.filter[1::2] for augmentation in augmentations])
    assert set(sizes) == set(range(28, 45))
    assert {FILTERS[number] for number in filters} == {"linear", "box"}
    assert abs((filters == FILTERS.index("box")).mean() - 0.5) < 0.1


def test_an_engine_can_see_the_ranges_of_the_augmentation(stream, tiny_packed):
    """A pipeline that leaves out what is off must not leave out the degradation; one that needs the order says no."""
    assert stream.augment.degrade == 1 and stream.every_view.degrade == 0
    with pytest.raises(UsageError, match="the ffcv engine cannot show two views"):
        single_view_stream(stream, "ffcv")
    plain = SingleViewStream(stream.splits, Sampler(0, 10), AugmentSettings(), 48, 8)
    assert single_view_stream(plain, "ffcv") is plain


def test_every_face_comes_once_a_pass(stream):
    low, high = drawn(stream, 18)
    samples = stream.splits[0].samples
    assert np.array_equal(np.sort(low[:samples]), np.arange(samples))
    once = high[0::2]
    faces = stream.splits[1].samples
    assert np.array_equal(np.sort(once[:faces]), np.arange(faces))
    assert stream.epoch_length == samples * 24 / 16


def test_ranks_and_micro_batches_share_the_batch_and_keep_its_composition(stream):
    whole = stream.batch_spec(48)
    shares = [replace(stream, rank=rank, ranks=2, micro_batches=2).batch_spec(48) for rank in (0, 1)]
    for number in (0, 1):
        joined = np.concatenate([share.parts[number].records for share in shares])
        assert np.array_equal(joined, whole.parts[number].records)
        boxes = np.concatenate([share.parts[number].augmentation.box for share in shares])
        assert np.array_equal(boxes, whole.parts[number].augmentation.box)
    offset = stream.splits[0].identities
    for share in shares:
        for micro in share.labels.reshape(2, 6):
            assert (micro[:4] < offset).all() and (micro[4:] >= offset).all() and micro[4] == micro[5]


def test_an_engine_executes_it_unchanged(stream):
    """With nothing random the sharp view is the face itself, and the degraded one that of the augmentation."""
    still = replace(stream, every_view=STILL, second_view=SecondView(36, 36, ("cubic",)), size=144)
    batch = next(ResidentCPU(still, torch.uint8).batches(24, 48))
    images = batch.images.permute(0, 2, 3, 1).numpy()
    high = still.batch_spec(24).parts[1]
    assert np.array_equal(images[16::2], stream.splits[1].read(high.records[0::2]))
    from hrfr_fast.engines.pixels import resample_records

    expected = np.empty((4, 144, 144, 3), np.uint8)
    resample_records(stream.splits[1], high.records[1::2], no_augmentation(4, degrade=36), expected)
    assert np.array_equal(images[17::2], expected)


@pytest.mark.parametrize("device", DEVICES)
def test_the_resident_engine_for_gpus_draws_it_on_the_host(stream, monkeypatch, device):
    """Where its kernels cannot be compiled; ``test_two_view_cuda.py`` has them."""
    monkeypatch.setattr(resident_cuda, "kernels_run_on", lambda device: False)
    with resident_cuda.build_resident_cuda(stream, torch.device(device), torch.uint8) as engine:
        found = next(engine.batches(24, 48))
    expected = next(ResidentCPU(stream, torch.uint8).batches(24, 48))
    assert isinstance(engine, resident_cuda.HostSampled) and torch.equal(found.labels.cpu(), expected.labels)
    assert (found.images.cpu().int() - expected.images.int()).abs().max() <= 1


@pytest.mark.parametrize("device", DEVICES)
def test_dali_executes_it_as_it_is(stream, device):
    with build("dali", stream, device=device) as engine:
        found = list(engine.batches(24, 72))
    for batch, expected in zip(found, ResidentCPU(stream, torch.uint8).batches(24, 72), strict=True):
        assert torch.equal(batch.labels.cpu(), expected.labels)
        difference = (batch.images.cpu().int() - expected.images.int()).abs()
        assert difference.max() <= 2 and difference.float().mean() < 0.3


def test_ffcv_refuses_it(stream):
    with pytest.raises(UsageError, match="ffcv engine cannot show two views"):
        build("ffcv", stream)


def test_the_share_decides_how_many():
    assert pairs_for_share(0.25, 64, 1000, 10) == 8
    assert pairs_for_share(None, 1024, 1_000_000, 10_000) == 10
    assert pairs_for_share(0.001, 64, 1000, 10, micro_batches=4) == 4


@pytest.mark.parametrize(
    "change,message",
    [
        ({"pairs": 12}, "cannot hold 12 pairs"),
        ({"pairs": 3, "micro_batches": 2}, "cannot be cut into 2 equal parts"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(stream, change, message):
    with pytest.raises(UsageError, match=message):
        replace(stream, **change)


@pytest.mark.parametrize(
    "given,message",
    [((0, 4, ("box",)), "1 <= min <= max"), ((9, 8, ("box",)), "1 <= min"), ((8, 9, ("sinc",)), "some of cubic")],
)
def test_second_views_are_checked(given, message):
    with pytest.raises(UsageError, match=message):
        SecondView(*given)
