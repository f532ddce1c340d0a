"""The search for the largest batch, on torch's device without memory: what fits is decided by the network."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.training.batch_size import largest_batch

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

    def run(most, error=None, accumulate=1):
        network = Network(most, error or torch.cuda.OutOfMemoryError("CUDA out of memory"))
        found = largest_batch(network, Head(), 4, META, accumulate, resident=1 << 30)
        assert network.scale.grad is None
        return found

    return run


@pytest.mark.parametrize(
    "most,accumulate,expected", [(5000, 1, 1024), (300, 1, 256), (2, 1, 2), (300, 4, 1024), (3, 4, 8)]
)
def test_the_largest_power_of_two_that_fits(search, most, accumulate, expected):
    assert search(most, accumulate=accumulate) == expected


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
