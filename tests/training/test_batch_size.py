"""The search for the largest batch, on torch's device without memory: what fits is decided by the network."""

import importlib
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training import averaging, two_views
from hrfr_fast.training.batch_size import found_in_words, largest_batch, most_samples
from hrfr_fast.training.build import _largest_batch

build_module = importlib.import_module("hrfr_fast.training.build")
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


def inputs_of(settings, regime, compute, ranks, teacher=None):
    """What a run without data is made from, as far as its batch is asked for."""
    return SimpleNamespace(
        settings=settings, regime=regime_named(regime), splits=(), compute=compute, ranks=ranks, teacher=teacher
    )


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
    inputs = inputs_of(settings, "lowres32", choose_compute("cpu", "fp32"), Ranks(0, ranks, 0, ranks))
    assert _largest_batch(inputs, nn.Identity(), nn.Identity()) == expected


def test_networks_beside_the_trained_one_count(search):
    """What they need while the trained network's activations are held decides too; they take no gradient."""
    full = torch.cuda.OutOfMemoryError("CUDA out of memory")
    teacher = Network(70, full)
    found = largest_batch(Network(5000, full), Head(), 4, META, 1, resident=0, beside=[Network(300, full), teacher])
    assert found == 64 and teacher.scale.grad is None


def test_a_run_tries_its_batch_beside_all_that_it_holds(monkeypatch):
    """The average of the weights, the moving copy and the teacher are on the device while it is tried."""
    held, teacher = [], nn.Linear(1, 1, device="meta")
    monkeypatch.setattr(two_views, "build_teacher", lambda parent, compute, kernels: teacher)
    copies = []
    original = averaging.WeightAverage.__init__

    def remember(average, *arguments):
        original(average, *arguments)
        copies.append(weakref.ref(average))

    def tried(*arguments):
        held.extend([arguments[-1], sum(copy() is not None for copy in copies)])
        return 64

    monkeypatch.setattr(averaging.WeightAverage, "__init__", remember)
    monkeypatch.setattr(build_module, "largest_batch", tried)
    monkeypatch.setattr(build_module, "resident_pixels", lambda *_: 0)
    settings = TrainSettings(contrast=0.2, ema=0.99, contrast_queue=8, embedding_size=4)
    network = nn.Linear(2, 4, device="meta")
    inputs = inputs_of(settings, "remedy-distillation", META, Ranks(0, 1, 0, 1), teacher=object())
    assert _largest_batch(inputs, network, nn.Identity()) == 64
    (copy, frozen), averages = held
    assert frozen is teacher and copy is not network and copy.weight.shape == network.weight.shape
    assert averages == 2, "one of the weights, one that is the moving copy"


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
