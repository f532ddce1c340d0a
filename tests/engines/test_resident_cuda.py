"""The resident engine of CUDA against the one of the CPU: the same labels, pixels within the tolerance.

On a machine without CUDA the same kernels run in Triton's interpreter, on few and small pictures.
"""

import numpy as np
import pytest
import torch
from engine_cases import KERNEL_DEVICES, STILL

from hrfr_fast.engines import resident_cuda
from hrfr_fast.engines.choice import decoded_bytes
from hrfr_fast.engines.resident import ResidentCPU
from hrfr_fast.engines.resident_cuda import DeviceSampled, HostSampled, build_resident_cuda
from hrfr_fast.format.reader import open_packed
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.sampling.sampler import Sampler
from hrfr_fast.sampling.stream import SingleViewStream
from hrfr_fast.settings import AugmentSettings

CUDA = torch.device("cuda")
SIZE, BATCH = 32, 6


@pytest.fixture(params=KERNEL_DEVICES)
def device(request):
    return torch.device(request.param)


def stream_of(packed, *, ranks=1, rank=0, size=SIZE, batch=BATCH, **augment):
    splits = open_packed(packed).splits
    chosen = (splits["lowres"], splits["highres"])
    sampler = Sampler(3, chosen[0].samples, chosen[1].samples, chosen[0].samples // 5)
    return SingleViewStream(chosen, sampler, AugmentSettings(**augment), size, batch, rank, ranks)


def compare(made, reference):
    assert (made.start, made.images.shape) == (reference.start, reference.images.shape)
    assert made.labels.tolist() == reference.labels.tolist()
    error = (made.images.cpu().float() - reference.images.float()).abs() * 127.5
    assert error.max() < 1.5 and error.mean() < 0.3
    assert made.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernels", [True, False], ids=["triton", "products"])
def test_batches_of_two_resolutions_are_those_of_the_cpu(tiny_packed, monkeypatch, kernels, device):
    if kernels:
        pytest.importorskip("triton", reason="Triton exists for Linux only")
    else:
        monkeypatch.setattr(resident_cuda, "kernels_run_on", lambda device: False)
    stream = stream_of(tiny_packed)
    length = stream.sampler.epoch_length
    start = length - BATCH - 2  # resumed somewhere, and over the end of the epoch
    with build_resident_cuda(stream, device, torch.float32) as engine, ResidentCPU(stream, torch.uint8) as reference:
        assert isinstance(engine, DeviceSampled if kernels else HostSampled)
        seen = set()
        pairs = zip(engine.batches(start, start + 2 * BATCH), reference.batches(start, start + 2 * BATCH), strict=True)
        for made, wanted in pairs:
            compare(made, wanted._replace(images=(wanted.images.float() - 127.5) / 127.5))
            seen |= set((wanted.labels >= stream.splits[0].identities).tolist())
        assert seen == {False, True}, "both splits were drawn from"


def test_ranks_share_the_batch(tiny_packed, device):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    whole = next(iter(ResidentCPU(stream_of(tiny_packed), torch.uint8).batches(12, 18)))
    for rank in (0, 1):
        with build_resident_cuda(stream_of(tiny_packed, ranks=2, rank=rank), device, torch.uint8) as engine:
            part = next(iter(engine.batches(12, 18)))
        assert part.labels.tolist() == whole.labels.chunk(2)[rank].tolist()
        assert (part.images.cpu().int() - whole.images.chunk(2)[rank].int()).abs().max() <= 1


def test_an_epoch_shorter_than_a_batch(tiny_packed, device):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    splits = open_packed(tiny_packed).splits
    short = SingleViewStream((splits["lowres"],), Sampler(1, 3), STILL, SIZE, BATCH)
    with build_resident_cuda(short, device, torch.uint8) as engine:
        labels = torch.cat([batch.labels.cpu() for batch in engine.batches(0, 2 * BATCH)])
    records = short.sampler.samples(0, 2 * BATCH).record
    np.testing.assert_array_equal(labels.numpy(), splits["lowres"].labels[records])


def test_the_order_is_made_once_an_epoch(tiny_packed, monkeypatch, device):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    made = []
    original = resident_cuda.epoch_records
    monkeypatch.setattr(
        resident_cuda,
        "epoch_records",
        lambda sampler, epoch, device: made.append(epoch) or original(sampler, epoch, device),
    )
    stream = stream_of(tiny_packed)
    with build_resident_cuda(stream, device, torch.uint8) as engine:
        for start in range(0, 3 * stream.sampler.epoch_length, BATCH):
            engine.prepare(start)
        assert made[:2] == [0, 1] and made == list(range(len(made))), "each once, before it is needed"
        engine.prepare(0)  # as a run that starts again would
        assert made[-1] == 0


def test_kernels_that_cannot_be_compiled_are_done_without(tiny_packed, monkeypatch, device):
    """A machine without a C compiler or Python's header files has Triton, and cannot use it."""
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    from hrfr_fast.resampling.launcher import Resampler

    tried = []

    def no_compiler(*_):
        tried.append(1)
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nand a long story")

    monkeypatch.setattr(Resampler, "__call__", no_compiler)
    said: list[str] = []
    stream = stream_of(tiny_packed)
    with build_resident_cuda(stream, device, torch.uint8, say=said.append) as engine:
        assert isinstance(engine, HostSampled)
        for made, wanted in zip(
            engine.batches(0, 3 * BATCH), ResidentCPU(stream, torch.uint8).batches(0, 3 * BATCH), strict=True
        ):
            assert made.labels.tolist() == wanted.labels.tolist()
            assert (made.images.cpu().int() - wanted.images.int()).abs().max() <= 1
    assert len(tried) == len(said) == 1
    assert "(Failed to find C compiler. Please specify via CC environment variable.)" in said[0] and "gcc" in said[0]


def test_an_error_of_a_kernel_that_was_compiled_is_raised(tiny_packed, monkeypatch, device):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    from hrfr_fast.resampling import launcher

    with build_resident_cuda(stream_of(tiny_packed, batch=2), device, torch.uint8) as engine:
        monkeypatch.setattr(launcher.Resampler, "__call__", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(engine.batches(0, 8))


def test_pixels_that_do_not_fit_are_told_in_words(tiny_packed, monkeypatch, device):
    def no_memory(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nand a long story")

    monkeypatch.setattr(torch, "empty", no_memory)
    with pytest.raises(HrfrError, match="beton: .*do not fit.*9.00 GiB.*--engine dali"):
        build_resident_cuda(stream_of(tiny_packed), device, torch.uint8)


def test_memory_is_stated(tiny_packed):
    stream = stream_of(tiny_packed)
    expected = stream.splits[0].samples * 36 * 36 * 3 + stream.splits[1].samples * 144 * 144 * 3
    assert decoded_bytes(stream.splits) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("size", [32, 144])
def test_a_run_gives_the_same_bits_twice(tiny_packed, size):
    stream = stream_of(tiny_packed, size=size, batch=64, blur=0.5, degrade=0.5, erase=0.5, saturation=0.5)
    with build_resident_cuda(stream, CUDA, torch.bfloat16) as engine:
        once = [(b.images.clone(), b.labels.clone()) for b in engine.batches(0, 256)]
        again = [(b.images.clone(), b.labels.clone()) for b in engine.batches(0, 256)]
    for one, other in zip(once, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.gpu
def test_a_captured_fill_replays_any_batch(tiny_packed):
    stream = stream_of(tiny_packed, batch=64)
    images = torch.zeros((64, SIZE, SIZE, 3), dtype=torch.bfloat16, device=CUDA)
    labels, counter = (
        torch.zeros(64, dtype=torch.int64, device=CUDA),
        torch.zeros(1, dtype=torch.int64, device=CUDA),
    )
    with build_resident_cuda(stream, CUDA, torch.bfloat16) as engine:
        wanted = [(b.start, b.images.clone(), b.labels.clone()) for b in engine.batches(0, 1024)]
        engine.prepare(0)
        engine.fill(images, labels, counter)  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            engine.fill(images, labels, counter)
        for start, pictures, classes in wanted:
            engine.prepare(start)
            counter.fill_(start)
            images.zero_()
            graph.replay()
            assert torch.equal(images.permute(0, 3, 1, 2), pictures) and torch.equal(labels, classes)


@pytest.mark.gpu
def test_the_host_never_waits(tiny_packed):
    stream = stream_of(tiny_packed, batch=64, blur=0.5, degrade=0.5, erase=0.5)
    with build_resident_cuda(stream, CUDA, torch.bfloat16) as engine:
        for _ in engine.batches(0, 128):  # compiles
            pass
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in engine.batches(0, 3 * stream.sampler.epoch_length):  # new orders are made on the way, too
                batch.images.add_(1)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_the_consumer_may_be_slow(tiny_packed):
    """A batch is not overwritten while a long kernel of the consumer still reads it."""
    stream = stream_of(tiny_packed, batch=256)
    with build_resident_cuda(stream, CUDA, torch.float32) as engine:
        sums = [(b.start, b.images.double().sum()) for b in engine.batches(0, 16 * 256)]
        slow = []
        for batch in engine.batches(0, 16 * 256):
            torch.cuda._sleep(20_000_000)
            slow.append((batch.start, batch.images.double().sum()))
            del batch
    assert [(a, s.item()) for a, s in sums] == [(a, s.item()) for a, s in slow]
