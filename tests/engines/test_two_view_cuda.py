"""Two views of a face drawn by the GPU's kernels: the batches of the CPU's engine, wherever a batch begins.

On a machine without CUDA the kernels run in Triton's interpreter, on few and small pictures.
"""

import pytest
import torch

from hrfr_fast.engines.resident import ResidentCPU
from hrfr_fast.engines.resident_cuda import build_resident_cuda
from hrfr_fast.format.reader import open_packed
from hrfr_fast.sampling.two_view_stream import SecondView, TwoViewStream
from hrfr_fast.settings import AugmentSettings

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.engines.two_view_cuda import DeviceSampledViews  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stream_of(packed, batch=8, pairs=2, size=32, **more):
    splits = open_packed(packed).splits
    augment, second = AugmentSettings(shift=0.05), SecondView(28, 44, ("linear", "box"))
    return TwoViewStream((splits["lowres"], splits["highres"]), 3, augment, second, size, batch, pairs, **more)


def compare(stream, starts):
    """Batches of the kernels beside those of the CPU; returns whether each split passed from one pass to the next."""
    with build_resident_cuda(stream, DEVICE, torch.uint8) as engine, ResidentCPU(stream, torch.uint8) as reference:
        assert isinstance(engine, DeviceSampledViews)
        for start in starts:
            made = next(iter(engine.batches(start, start + stream.batch_size)))
            wanted = next(iter(reference.batches(start, start + stream.batch_size)))
            assert (made.start, made.labels.tolist()) == (wanted.start, wanted.labels.tolist())
            error = (made.images.cpu().int() - wanted.images.int()).abs()
            assert error.max() <= 2 and error.float().mean() < 0.3, error.amax((1, 2, 3))
            assert made.images.is_contiguous(memory_format=torch.channels_last)


def test_batches_are_those_of_the_cpu_over_the_ends_of_both_splits(tiny_packed):
    stream = stream_of(tiny_packed)
    low, high = (split.samples for split in stream.splits)
    ends = [low // stream.lowres, 3 * high // stream.pairs]  # the batches in which passes over the splits end
    compare(stream, [8 * number for number in ends])


def test_ranks_and_micro_batches_have_their_rows(tiny_packed):
    compare(stream_of(tiny_packed, batch=16, pairs=4, ranks=2, rank=1, micro_batches=2), [16 * 3])


def test_batches_in_the_middle_are_refused(tiny_packed):
    with build_resident_cuda(stream_of(tiny_packed), DEVICE, torch.uint8) as engine, pytest.raises(ValueError):
        next(iter(engine.batches(3, 11)))
