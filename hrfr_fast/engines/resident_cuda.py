"""The resident engine on CUDA: all pixels in device memory as uint8, batches made there, the host only launches.

Two ways to make a batch. ``DeviceSampled``: sampling, augmentation, resampling, colour and normalisation are one kernel
a split (``triton_kernels``), which reads its place in the stream from a counter on the device: a captured graph replays
it with another counter. ``HostSampled``: the host draws batch specifications, which matrix products execute.
With ``--resident-shard`` the device holds a rank's blocks alone, and ``BlocksSampled`` makes each in one of these ways.

Batches are made on a side stream, one ahead, while the consumer's stream trains on the one before.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrfr_fast.engines.base import Batch, Engine, refuse_damaged
from hrfr_fast.engines.pace import Pace
from hrfr_fast.engines.pixels import fetch
from hrfr_fast.format.reader import Split
from hrfr_fast.resampling.matmul import resample_torch
from hrfr_fast.runtime.device import kernels_run_on
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.gpu_software import COMPILER_FIX
from hrfr_fast.runtime.system import gib
from hrfr_fast.sampling.augmentation import DRAWN_FILTERS, FILTERS
from hrfr_fast.sampling.block_stream import BlockStream
from hrfr_fast.sampling.degradation import FEWEST_PIXELS, NativeView
from hrfr_fast.sampling.sampler_torch import epoch_records
from hrfr_fast.sampling.stream import BatchStream, SingleViewStream
from hrfr_fast.sampling.two_view_stream import SecondView, TwoViewStream

UPLOAD_CHUNK = 8192  # records copied at a time: 32 MiB at 36 px
RESAMPLE_CHUNK = 256  # images resampled at a time by matrix products: bounds the intermediates to 64 MiB at 144 px


def build_resident_cuda(
    stream: BatchStream, device: torch.device, dtype: torch.dtype, *, verify: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> "ResidentCUDA":  # fmt: skip
    """The resident engine on ``device`` (a CPU device works too, slowly: the tests use it).

    Where Triton compiles the GPU's kernels, they draw what a batch holds; elsewhere the host does.

    Args:
        stream: the batch specifications.
        device: where pixels are kept and batches are made.
        dtype: of the images, see Batch.
        verify: compare every record with its checksum while loading (DamageFound on a mismatch).
        say: told where the kernels cannot be compiled.

    Raises:
        HrfrError: the pixels do not fit into the device's memory.
    """
    if isinstance(stream, BlockStream):
        return BlocksSampled(stream, device, dtype, verify, say)
    return _engine_of(stream, device, dtype, [load_pixels(split, device, verify) for split in stream.splits], say)


def _engine_of(
    stream: BatchStream, device: torch.device, dtype: torch.dtype, pixels: list[Tensor], say: Callable[[str], None]
) -> "ResidentCUDA":
    """The engine of a stream whose records' ``pixels`` are on the device, each split's in the order of its records."""
    if isinstance(stream, SingleViewStream | TwoViewStream) and _kernels_know(stream) and kernels_run_on(device):
        try:
            return _with_kernels(stream, device, dtype, pixels)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # Triton, the C compiler that it calls and the driver each raise their own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            say(
                f"engine: Triton cannot compile the kernels that make batches ({reason}); going on without them, more"
                f" slowly. Where it is the C compiler that is missing, {COMPILER_FIX}"
            )
    return HostSampled(stream, device, dtype, pixels)


def _kernels_know(stream: SingleViewStream | TwoViewStream) -> bool:
    """Whether the GPU's kernels degrade as the stream asks: to native low resolution, or by a filter they know."""
    if not isinstance(stream, TwoViewStream):
        return True
    second = stream.second_view
    if isinstance(second, NativeView):
        return stream.splits[1].size >= FEWEST_PIXELS
    return isinstance(second, SecondView) and set(second.filters) <= set(FILTERS[:DRAWN_FILTERS])


def _with_kernels(
    stream: SingleViewStream | TwoViewStream, device: torch.device, dtype: torch.dtype, pixels: list[Tensor]
) -> "ResidentCUDA":
    """The engine that draws on the device, its kernels compiled. Raises whatever Triton and the driver raise."""
    from hrfr_fast.engines.two_view_cuda import DeviceSampledViews

    engine: DeviceSampled | DeviceSampledViews
    if isinstance(stream, TwoViewStream):
        engine = DeviceSampledViews(stream, device, dtype, pixels)
    else:
        engine = DeviceSampled(stream, device, dtype, pixels)
    engine.compile()
    return engine


def load_pixels(split: Split, device: torch.device, verify: bool, chosen: NDArray[np.int64] | None = None) -> Tensor:
    """The pixels of a split, or of its ``chosen`` records, on the device, uint8 [n, size, size, 3].

    Raises HrfrError where they do not fit.
    """
    chosen = np.arange(split.samples) if chosen is None else chosen
    shape = (len(chosen), split.size, split.size, 3)
    try:
        pixels = torch.empty(shape, dtype=torch.uint8, device=device)
    except torch.cuda.OutOfMemoryError as error:
        raise HrfrError(
            f"{split.path}: {gib(math.prod(shape))} of pixels do not fit into the GPU's memory"
            f" ({str(error).splitlines()[0]}); use --engine dali, which keeps them on the host, or with several GPUs"
            " --resident-shard, which gives each a share of them"
        ) from None
    for start in range(0, len(chosen), UPLOAD_CHUNK):
        records = chosen[start : start + UPLOAD_CHUNK]
        if verify:
            refuse_damaged(split, records)
        pixels[start : start + len(records)].copy_(torch.from_numpy(fetch(split, records)))
    return pixels


class ResidentCUDA(Engine):
    """What both ways share: the pixels of every split, and batches made one ahead on a side stream."""

    name = "resident"

    def __init__(self, stream: BatchStream, device: torch.device, dtype: torch.dtype, pixels: list[Tensor]) -> None:
        self.stream, self.device, self.dtype, self.pixels = stream, device, dtype, pixels
        self._side_stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @abstractmethod
    def _write(self, images: Tensor, labels: Tensor, start: int) -> None:
        """Write this rank's part of the batch at sample ``start``; launches on the current stream."""

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        if self._side_stream is not None:  # the consumer's stream made what the side stream reads
            self._side_stream.wait_stream(torch.cuda.current_stream(self.device))
        starts, pace = range(start, stop, self.stream.batch_size), Pace(self.device)
        ready = self._make(starts[0]) if starts else None
        for number in range(len(starts)):
            batch = ready
            assert batch is not None
            if self._side_stream is not None:
                # The consumer's stream waits for this batch, and the allocator is told that it uses the memory:
                # without record_stream the side stream could overwrite it while the step still reads.
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(self._side_stream)
                batch.images.record_stream(current)
                batch.labels.record_stream(current)
            ready = self._make(starts[number + 1]) if number + 1 < len(starts) else None
            yield batch
            del batch
            pace.step()

    def _make(self, start: int) -> Batch:
        if self._side_stream is None:
            return self._make_here(start)
        with torch.cuda.device(self.device), torch.cuda.stream(self._side_stream):
            return self._make_here(start)

    def _make_here(self, start: int) -> Batch:
        images, labels = self._empty(self.stream.batch_size // self.stream.ranks)
        self._write(images, labels, start)
        return Batch(images.permute(0, 3, 1, 2), labels, start)

    def _empty(self, count: int) -> tuple[Tensor, Tensor]:
        images = torch.empty((count, self.stream.size, self.stream.size, 3), dtype=self.dtype, device=self.device)
        return images, torch.empty(count, dtype=torch.int64, device=self.device)

    def close(self) -> None:
        """Free the device memory."""
        if self._side_stream is not None:
            self._side_stream.synchronize()
        self.pixels.clear()


class DeviceSampled(ResidentCUDA):
    """Batches whose records and augmentation are drawn on the device, inside the kernel that makes them."""

    stream: SingleViewStream

    def __init__(
        self, stream: SingleViewStream, device: torch.device, dtype: torch.dtype, pixels: list[Tensor]
    ) -> None:
        from hrfr_fast.resampling.launcher import EpochOrders, Resampler, ResidentSplit  # they need Triton

        super().__init__(stream, device, dtype, pixels)
        sampler = stream.sampler
        labels, label_offset, begin = [], 0, 0
        self._resamplers: list[Resampler] = []
        for split, split_pixels in zip(stream.splits, pixels, strict=True):
            source = ResidentSplit(split_pixels, begin)
            self._resamplers.append(Resampler(source, stream.size, stream.augment, sampler.seed))
            labels.append(split.labels + label_offset)
            label_offset, begin = label_offset + split.identities, begin + split.samples
        # Rows for all epochs that one batch can touch, and for the one after, made before it is needed.
        self._slots = (stream.batch_size - 1) // sampler.epoch_length + 3
        records = torch.zeros((self._slots, sampler.epoch_length), dtype=torch.int32, device=device)
        self._orders = EpochOrders(records, torch.from_numpy(np.concatenate(labels)).to(device))
        self._epoch_in_slot: dict[int, int] = {}
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)

    def compile(self) -> None:
        """Run the kernels on one image, which compiles them. Raises whatever Triton and the driver raise."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            self.fill(*self._empty(1), self._counter)

    def prepare(self, start: int) -> None:
        """See that the order of the batch at sample ``start`` is on the device, on the current stream.

        Compares integers, and once an epoch launches the making of the next epoch's order. Call it before ``fill``,
        and before each replay of a graph that holds one.
        """
        length = self.stream.sampler.epoch_length
        first_epoch, last_epoch = start // length, (start + self.stream.batch_size - 1) // length
        for epoch in range(first_epoch, last_epoch + 2):
            slot = epoch % self._slots
            if self._epoch_in_slot.get(slot) != epoch:
                self._orders.records[slot].copy_(epoch_records(self.stream.sampler, epoch, self.device))
                self._epoch_in_slot[slot] = epoch

    def fill(self, images: Tensor, labels: Tensor, counter: Tensor) -> None:
        """Write this rank's part of a batch; launches on the current stream, never waits, can be captured in a graph.

        Args:
            images: [B, size, size, 3] contiguous, on the device; uint8, or a float type.
            labels: int64 [B].
            counter: int64 [1] on the device: samples consumed before this batch. ``prepare`` was told the same.
        """
        skip = self.stream.rank * (self.stream.batch_size // self.stream.ranks)
        for resampler in self._resamplers:
            resampler(images, labels, self._orders, counter, skip)

    def _write(self, images: Tensor, labels: Tensor, start: int) -> None:
        self.prepare(start)
        self._counter.fill_(start)
        self.fill(images, labels, self._counter)

    def close(self) -> None:
        super().close()
        self._resamplers.clear()


class HostSampled(ResidentCUDA):
    """Batches whose specifications are drawn on the host, and executed on the device by matrix products."""

    def _write(self, images: Tensor, labels: Tensor, start: int) -> None:
        batch_spec, size = self.stream.batch_spec(start), self.stream.size
        for part in batch_spec.parts:
            source = self.pixels[self.stream.splits.index(part.split)]
            for begin in range(0, len(part.rows), RESAMPLE_CHUNK):
                chunk = np.arange(begin, min(begin + RESAMPLE_CHUNK, len(part.rows)))
                records = torch.from_numpy(part.records[chunk]).to(self.device, non_blocking=True)
                rows = torch.from_numpy(part.rows[chunk]).to(self.device, non_blocking=True)
                values = resample_torch(source[records], part.augmentation.take(chunk), size)
                if self.dtype == torch.uint8:
                    images[rows] = values.add_(0.5).to(torch.uint8)
                else:
                    images[rows] = values.sub_(127.5).mul_(1 / 127.5).to(self.dtype)
        labels.copy_(torch.from_numpy(batch_spec.labels), non_blocking=True)


class BlocksSampled(ResidentCUDA):
    """Batches of a rank's own blocks, each made by an engine of its own into its rows."""

    stream: BlockStream

    def __init__(
        self, stream: BlockStream, device: torch.device, dtype: torch.dtype, verify: bool, say: Callable[[str], None]
    ) -> None:
        super().__init__(stream, device, dtype, [])
        self._engines = []
        for block in stream.own:
            own = zip(stream.splits, block.records, strict=True)
            pixels = [load_pixels(split, device, verify, records) for split, records in own]
            self._engines.append(_engine_of(block.stream, device, dtype, pixels, say))

    def _write(self, images: Tensor, labels: Tensor, start: int) -> None:
        share = self.stream.batch_size // self.stream.blocks
        for number, engine in enumerate(self._engines):
            rows = slice(number * share, (number + 1) * share)
            engine._write(images[rows], labels[rows], self.stream.block_start(start))

    def close(self) -> None:
        super().close()
        for engine in self._engines:
            engine.close()
