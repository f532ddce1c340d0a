"""Two views of a face drawn by the GPU's kernels: the batches of the CPU's engine, wherever a batch begins.

On a machine without CUDA the kernels run in Triton's interpreter, on few and small pictures.
"""

from dataclasses import replace

import pytest
import torch
from engine_cases import KERNEL_DEVICES

from hrfr_fast.engines.resident import ResidentCPU
from hrfr_fast.engines.resident_cuda import build_resident_cuda
from hrfr_fast.format.reader import open_packed
from hrfr_fast.sampling.degradation import NativeView
from hrfr_fast.sampling.two_view_stream import SecondView, TwoViewStream
from hrfr_fast.settings import AugmentSettings, DegradationSettings

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.engines.two_view_cuda import DeviceSampledViews  # noqa: E402

DOWNSAMPLED = SecondView(28, 44, ("linear", "box"))


def stream_of(packed, batch=8, pairs=2, size=32, second=DOWNSAMPLED, **more):
    splits = open_packed(packed).splits
    augment = AugmentSettings(shift=0.05)
    return TwoViewStream((splits["lowres"], splits["highres"]), 3, augment, second, size, batch, pairs, **more)


def compare(stream, starts, device, beyond=0.0):
    """Batches of the kernels beside those of the CPU; ``beyond``: the share of values that may be more than 2 off."""
    made_by = build_resident_cuda(stream, torch.device(device), torch.uint8)
    with made_by as engine, ResidentCPU(stream, torch.uint8) as reference:
        assert isinstance(engine, DeviceSampledViews)
        for start in starts:
            made = next(iter(engine.batches(start, start + stream.batch_size)))
            wanted = next(iter(reference.batches(start, start + stream.batch_size)))
            assert (made.start, made.labels.tolist()) == (wanted.start, wanted.labels.tolist())
            error = (made.images.cpu().int() - wanted.images.int()).abs()
            assert (error > 2).float().mean() <= beyond and error.float().mean() < 0.3, error.amax((1, 2, 3))
            assert made.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_batches_are_those_of_the_cpu_over_the_ends_of_both_splits(tiny_packed, device):
    stream = stream_of(tiny_packed)
    low, high = (split.samples for split in stream.splits)
    ends = [low // stream.lowres, 3 * high // stream.pairs]  # the batches in which passes over the splits end
    compare(stream, [8 * number for number in ends], device)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_ranks_and_micro_batches_have_their_rows(tiny_packed, device):
    compare(stream_of(tiny_packed, batch=16, pairs=4, ranks=2, rank=1, micro_batches=2), [16 * 3], device)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_native_degradation_is_drawn_by_the_kernels_too(tiny_packed, device):
    """A downsampled value at a tie may be rounded either way, and with it a coefficient of its JPEG block."""
    stream = stream_of(tiny_packed, second=NativeView(DegradationSettings(side_max=0.22)))
    stream = replace(stream, every_view=AugmentSettings(saturation=0.3, erase=0.3, blur=0.3))
    compare(stream, [8 * 5], device, beyond=0.002 if device == "cpu" else 0.01)  # a block of one picture is 0.8 %


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_batches_in_the_middle_are_refused(tiny_packed, device):
    built = build_resident_cuda(stream_of(tiny_packed), torch.device(device), torch.uint8)
    with built as engine, pytest.raises(ValueError):
        next(iter(engine.batches(3, 11)))


@pytest.mark.gpu
@pytest.mark.parametrize("second", [DOWNSAMPLED, NativeView(DegradationSettings())], ids=["downsampled", "native"])
def test_bits_repeat_and_the_host_never_waits(tiny_packed, second):
    """Over the ends of passes, where new orders are made."""
    stream = stream_of(tiny_packed, batch=64, pairs=16, size=48, second=second)

    def made(engine):
        return [(batch.images.clone(), batch.labels.clone()) for batch in engine.batches(0, 12 * 64)]

    with build_resident_cuda(stream, torch.device("cuda"), torch.bfloat16) as engine:
        assert isinstance(engine, DeviceSampledViews)
        once = made(engine)  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            again = made(engine)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(once, again, strict=True):
        assert all(map(torch.equal, one, other))
