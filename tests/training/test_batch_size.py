"""The search for the largest batch, on torch's device without memory: what fits is decided by the network."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.batch_size import found_in_words, largest_batch, most_samples
from hrfr_fast.training.build import _largest_batch

META = Compute(torch.device("meta"), None, scaled=False)


class Network(nn.Module):
    """[B, 3, 4, 4] to [B, 48], for at most ``most`` pictures."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error = most, error
        self.scale = nn.Parameter(torch.ones((), device="meta"))

    def forward(self, images):
        if len(images) > self.most:
            raise self.error
        return images.flatten(1) * self.scale


class Head(nn.Module):
    def forward(self, embeddings, labels):
        return embeddings.mean()


@pytest.fixture
def search(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 << 30, 16 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def run(most, error=None, accumulate=1, at_most=1024):
        network = Network(most, error or torch.cuda.OutOfMemoryError("CUDA out of memory"))
        found = largest_batch(network, Head(), 4, META, accumulate, resident=1 << 30, most=at_most)
        assert network.scale.grad is None
        return found

    return run


@pytest.mark.parametrize(
    "most,accumulate,expected", [(5000, 1, 1024), (300, 1, 256), (2, 1, 2), (300, 4, 1024), (3, 4, 8)]
)
def test_the_largest_power_of_two_that_fits(search, most, accumulate, expected):
    assert search(most, accumulate=accumulate) == expected


@pytest.mark.parametrize(
    "size,samples,expected",
    [(32, 1_000_000, 4096), (32, 409_599, 2048), (32, 200_000, 1024), (32, 7_000, 1024), (144, 1_000_000, 1024)],
)
def test_more_than_1024_are_tried_of_small_pictures_where_an_epoch_has_enough_steps(search, size, samples, expected):
    most = most_samples(size, samples)
    assert most == expected and search(5000, at_most=most) == expected
    assert search(300, at_most=most) == 256
    assert ("changes the recipe" in found_in_words(expected)) == (expected > 1024)


@pytest.mark.parametrize(
    "ranks,blocks,accumulate,expected",
    [(1, 0, 3, 128), (1, 6, 1, 126), (2, 6, 1, 126), (3, 0, 2, 126), (2, 8, 3, 120), (2, 200, 1, 128)],
)
def test_ranks_and_blocks_of_faces_can_share_it(ranks, blocks, accumulate, expected):
    """On a CPU, where 128 is the most; a batch that cannot be shared is left to the stream to refuse."""
    settings = TrainSettings(resident_shard=blocks or None, accumulate=accumulate)
    given = settings, regime_named("lowres32"), (), choose_compute("cpu", "fp32"), Ranks(0, ranks, 0, ranks)
    assert _largest_batch(*given, nn.Identity(), nn.Identity()) == expected


@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_libraries_without_room_say_so_in_words_of_their_own(search, words):
    assert search(40, RuntimeError(words)) == 32


def test_not_even_two_pictures(search):
    with pytest.raises(HrfrError, match="not even 2 pictures .* 8.0 GiB .* 1.0 GiB of pixels.*--engine dali"):
        search(1)


def test_a_search_that_fails_says_how_to_do_without(search):
    with pytest.raises(HrfrError, match="misaligned address; give one with --batch-size"):
        search(40, RuntimeError("CUDA error: misaligned address\nand a long story"))
