import numpy as np
import pytest

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.sampler import Sampler, draws_for_share


def test_an_epoch_is_one_pass():
    sampler = Sampler(seed=1, first=1000)
    assert sorted(sampler.samples(0, 1000).record) == list(range(1000))
    assert sorted(sampler.samples(1000, 1000).record) == list(range(1000))
    assert (sampler.samples(0, 1000).record != sampler.samples(1000, 1000).record).any()


@pytest.mark.parametrize("sampler", [Sampler(3, 100), Sampler(3, 100, 7), Sampler(3, 100, 7, 25)])
def test_any_slice_equals_the_same_slice_of_the_whole(sampler):
    whole = sampler.samples(0, 700)
    for start, count in ((0, 1), (95, 40), (399, 301)):
        part = sampler.samples(start, count)
        for part_array, whole_array in zip(part, whole, strict=True):
            assert (part_array == whole_array[start : start + count]).all()


def test_the_second_split_cycles_through_whole_reshuffled_passes():
    sampler = Sampler(seed=0, first=100, second=7, second_draws=20)
    samples = sampler.samples(0, 7 * sampler.epoch_length)
    assert (samples.split[: sampler.epoch_length] == 1).sum() == 20
    # 7 epochs x 20 samples = 20 whole passes over 7 records
    assert (np.bincount(samples.record[samples.split == 1]) == 20).all()
    first = samples.split == 0
    assert (np.bincount(samples.record[first]) == 7).all()


def test_seeds_and_epochs_do_not_collide():
    assert (Sampler(0, 500).samples(500, 500).record != Sampler(1, 500).samples(0, 500).record).any()


def test_share_becomes_draws():
    assert draws_for_share(None, 1000, 10) == 10
    assert draws_for_share(0.2, 1000, 10) == 250
    assert draws_for_share(0.0, 1000, 10) == 0
    with pytest.raises(UsageError, match=r"highres_share is 1.0"):
        draws_for_share(1.0, 1000, 10)


@pytest.mark.parametrize("bad", [{"first": 0}, {"first": 5, "second_draws": 3}, {"first": 5, "seed": -1}])
def test_impossible_samplers_are_refused(bad):
    with pytest.raises(UsageError):
        Sampler(**{"seed": 0, **bad})


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("kept", [2**64 - 1, 7 << 61, 7 << 61 | 255], ids=["no ties", "ties", "ties but for low bits"])
def test_fast_argsort_is_the_stable_argsort(size, kept):
    from hrfr_fast.sampling.sampler import _stable_argsort

    keys = np.random.default_rng(size).integers(0, 2**64, size, dtype=np.uint64)
    keys &= np.uint64(kept)  # eight different leading parts: nearly all tie
    assert _stable_argsort(keys).tolist() == np.argsort(keys, kind="stable").tolist()
