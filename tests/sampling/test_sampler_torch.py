"""The sampler on the device against the one of NumPy: the same integers."""

import numpy as np
import pytest
import torch

from hrfr_fast.runtime.philox import SHUFFLE_HIGHRES, philox
from hrfr_fast.sampling.sampler import Sampler, permutation
from hrfr_fast.sampling.sampler_torch import epoch_records, permutations, philox_words

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7, 2**64 - 1])
def test_philox_gives_the_same_words(seed, device):
    position, epoch = np.array([0, 1, 77, 2**31, 2**32 - 1]), np.array([[0], [3], [2**32 - 1]])
    words = philox_words(
        seed, torch.from_numpy(epoch).to(device), torch.from_numpy(position).to(device), purpose=3, block=5
    )
    expected = philox(seed, epoch, position, purpose=3, block=5)
    np.testing.assert_array_equal(torch.stack(words, -1).cpu().numpy().astype(np.uint64), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_permutations_of_several_cycles_at_once(device):
    rows = permutations(5, range(3, 6), 1000, SHUFFLE_HIGHRES, torch.device(device)).cpu().numpy()
    for row, epoch in zip(rows, range(3, 6), strict=True):
        np.testing.assert_array_equal(row, permutation(5, epoch, 1000, SHUFFLE_HIGHRES))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(0, 1),
        Sampler(7, 5000),
        Sampler(2**63 + 1, 300, 40),
        Sampler(3, 300, 40, 0),
        Sampler(3, 300, 40, 7),
        Sampler(3, 300, 40, 260),
        Sampler(3, 10, 1, 25),
    ],
    ids=repr,
)
def test_an_epoch_holds_the_records_of_the_sampler(sampler, device):
    for epoch in (0, 1, 13):
        samples = sampler.samples(epoch * sampler.epoch_length, sampler.epoch_length)
        records = epoch_records(sampler, epoch, torch.device(device))
        assert records.dtype == torch.int32
        np.testing.assert_array_equal(records.cpu().numpy(), samples.record + sampler.first * samples.split)
