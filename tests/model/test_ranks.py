"""Layers and heads over several ranks against one process that has the whole batch and all classes."""

from functools import cache

import pytest
import rank_cases
import torch
from rank_program import run_over_ranks
from torch import nn

from hrfr_fast.model.peers import Peers
from hrfr_fast.model.sync_batchnorm import convert_sync_batchnorm

SIZES = (2, 3)


@pytest.fixture(scope="module")
def over_ranks(tmp_path_factory):
    return run_over_ranks("model.rank_cases", SIZES, tmp_path_factory.mktemp("ranks"))


@cache
def normalised_alone(case):
    return rank_cases.normalised(*rank_cases.NORMS[case], Peers())


@pytest.mark.parametrize("case", rank_cases.NORMS)
@pytest.mark.parametrize("size", SIZES)
def test_synchronised_batchnorm_is_one_process_on_the_whole_batch(over_ranks, size, case):
    expected = normalised_alone(case)
    ranks = [found[f"norm: {case}"] for found in over_ranks[size]]
    tolerance = 0.06 if "bfloat16" in case else 1e-5
    for name, value in expected.items():
        of_part = name.startswith(("outputs", "by images"))
        found = torch.cat([rank[name] for rank in ranks]) if of_part else ranks[-1][name]
        assert found.shape == value.shape and found.dtype == value.dtype
        error = (found.double() - value.double()).norm() / value.double().norm().clamp(min=1e-3)
        assert error < tolerance, (name, error)
    assert ranks[0].keys() == expected.keys()


def test_a_copy_of_a_synchronised_model(over_ranks):
    assert all(found["copies"] == {"equal": True, "own": True} for ranks in over_ranks.values() for found in ranks)


def test_one_process_keeps_torchs_batchnorm_to_the_bit():
    model, images = rank_cases.network(), torch.randn(6, 3, 8, 8)
    expected = model(images)
    converted = convert_sync_batchnorm(rank_cases.network())
    assert torch.equal(converted(images), expected)
    assert isinstance(converted[1], nn.BatchNorm2d) and converted.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(converted.buffers(), model.buffers(), strict=True))
