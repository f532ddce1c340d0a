"""The resident engine on CUDA: all pixels in device memory as uint8, batches made there, the host only launches.

Sampling, augmentation, resampling, colour and normalisation are one kernel a split (``triton_kernels``), which reads a
place in the stream from a counter on the device: a captured graph replays it with another counter. Batches are made
on a side stream, one ahead, while the consumer's stream trains on the one before.
"""

import math
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

import numpy as np

from hrfr_fast.engines.base import Batch, refuse_damaged
from hrfr_fast.engines.pace import Pace
from hrfr_fast.engines.pixels import fetch
from hrfr_fast.format.reader import Split
from hrfr_fast.resampling.matmul import resample_torch
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.gpu_software import COMPILER_FIX
from hrfr_fast.runtime.system import gib
from hrfr_fast.sampling.sampler import Sampler
from hrfr_fast.sampling.stream import BatchStream, SingleViewStream, single_view_stream

if TYPE_CHECKING:
    import torch

    from hrfr_fast.resampling.launcher import Resampler

UPLOAD = 8192  # pictures copied at a time: 32 MiB at 36 px
CHUNK = 256  # pictures resampled at a time without Triton: bounds the intermediates to 64 MiB at 144 px


def kernels_run_on(device: "torch.device") -> bool:
    """Whether Triton is here and runs kernels on ``device``: CUDA, or a CPU under its interpreter."""
    if find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


class ResidentCUDA:
    """Batches made on ``device`` (a CPU device works too, slowly: the tests use it).

    Where Triton is missing, or cannot compile its kernels, augmentation is drawn on the host and applied as matrix
    products.

    Args:
        stream: what to feed.
        device: where pixels live and batches are made.
        dtype: of the images, see Batch.
        verify: compare every record with its checksum while loading (DamageFound on a mismatch).
        say: told where the kernels cannot be compiled.

    Raises:
        HrfrError: the pixels do not fit into the device's memory.
    """

    name = "resident"

    def __init__(
        self, stream: BatchStream, device: "torch.device", dtype: "torch.dtype", *, verify: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        import torch

        self.stream, self.device, self.dtype, self.say = stream, device, dtype, say
        self.pixels = [self._load(split, verify) for split in stream.splits]
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        # The kernels draw order and augmentation themselves, of one view a face; all else is drawn on the host.
        self.kernels = kernels_run_on(device) and isinstance(stream, SingleViewStream)
        self._kernels_proven = False
        self._resamplers: list[Resampler] = []
        if self.kernels:
            self._prepare_kernels(single_view_stream(stream, self.name).sampler)

    def _load(self, split: Split, verify: bool) -> "torch.Tensor":
        import torch

        shape = (split.samples, split.size, split.size, 3)
        try:
            pixels = torch.empty(shape, dtype=torch.uint8, device=self.device)
        except torch.cuda.OutOfMemoryError as error:
            raise HrfrError(
                f"{split.path}: {gib(math.prod(shape))} of pixels do not fit into the GPU's memory"
                f" ({str(error).splitlines()[0]}); use --engine dali, which keeps them on the host"
            ) from None
        for start in range(0, split.samples, UPLOAD):
            records = np.arange(start, min(start + UPLOAD, split.samples))
            if verify:
                refuse_damaged(split, records)
            pixels[start : start + len(records)].copy_(torch.from_numpy(fetch(split, records)))
        return pixels

    def _prepare_kernels(self, sampler: Sampler) -> None:
        import torch

        from hrfr_fast.resampling.launcher import EpochOrders, Resampler, ResidentSplit

        labels, offset, begin = [], 0, 0
        self._sampler = sampler
        for split, pixels in zip(self.stream.splits, self.pixels, strict=True):
            source = ResidentSplit(pixels, begin)
            self._resamplers.append(Resampler(source, self.stream.size, self.stream.augment, sampler.seed))
            labels.append(split.labels + offset)
            offset, begin = offset + split.identities, begin + split.samples
        # Rows for all epochs that one batch can touch, and for the one after, made before it is needed.
        self._slots = (self.stream.batch_size - 1) // sampler.epoch_length + 3
        records = torch.empty((self._slots, sampler.epoch_length), dtype=torch.int32, device=self.device)
        self._table = EpochOrders(records, torch.from_numpy(np.concatenate(labels)).to(self.device))
        self._held: dict[int, int] = {}  # row of the table -> its epoch
        self._counter = torch.zeros(1, dtype=torch.int64, device=self.device)

    # ---- the form for graphs ------------------------------------------------------------------------------------

    def prepare(self, start: int) -> None:
        """See that the order of the batch at sample ``start`` is on the device, on the current stream.

        Compares integers, and once an epoch launches the making of the next epoch's order. Call it before ``fill``,
        and before each replay of a graph that holds one.
        """
        from hrfr_fast.sampling.sampler_torch import epoch_records

        sampler = self._sampler
        first, last = start // sampler.epoch_length, (start + self.stream.batch_size - 1) // sampler.epoch_length
        for epoch in range(first, last + 2):
            row = epoch % self._slots
            if self._held.get(row) != epoch:
                self._table.records[row].copy_(epoch_records(sampler, epoch, self.device))
                self._held[row] = epoch

    def fill(self, images: "torch.Tensor", labels: "torch.Tensor", counter: "torch.Tensor") -> None:
        """Write this rank's part of a batch; launches on the current stream, never waits, can be captured in a graph.

        Needs Triton (``self.kernels``).

        Args:
            images: [B, size, size, 3] contiguous, on the device; uint8, or a float type.
            labels: int64 [B].
            counter: int64 [1] on the device: samples consumed before this batch. ``prepare`` was told the same.
        """
        skip = self.stream.rank * (self.stream.batch_size // self.stream.ranks)
        for resampler in self._resamplers:
            resampler(images, labels, self._table, counter, skip)

    # ---- the protocol -------------------------------------------------------------------------------------------

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        import torch

        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self.device))  # which made what the side stream reads
        starts, pace = range(start, stop, self.stream.batch_size), Pace(self.device)
        ready = self._make(starts[0]) if starts else None
        for number in range(len(starts)):
            batch = ready
            assert batch is not None
            if self._side is not None:
                # The consumer's stream waits for this batch, and the allocator is told that it uses the memory:
                # without record_stream the side stream could overwrite it while the step still reads.
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(self._side)
                batch.images.record_stream(current)
                batch.labels.record_stream(current)
            ready = self._make(starts[number + 1]) if number + 1 < len(starts) else None
            yield batch
            del batch
            pace.step()

    def _make(self, start: int) -> Batch:
        import torch

        if self._side is None:
            return self._render(start)
        with torch.cuda.device(self.device), torch.cuda.stream(self._side):
            return self._render(start)

    def _render(self, start: int) -> Batch:
        import torch

        size, count = self.stream.size, self.stream.batch_size // self.stream.ranks
        images = torch.empty((count, size, size, 3), dtype=self.dtype, device=self.device)
        labels = torch.empty(count, dtype=torch.int64, device=self.device)
        if not (self.kernels and self._filled(images, labels, start)):
            self._fill_from_host(images, labels, start)
        return Batch(images.permute(0, 3, 1, 2), labels, start)

    def _filled(self, images: "torch.Tensor", labels: "torch.Tensor", start: int) -> bool:
        """``fill`` for the batch at ``start``. False, and never tried again, where the kernels cannot be compiled."""
        import torch

        try:
            self.prepare(start)
            self._counter.fill_(start)
            self.fill(images, labels, self._counter)
        except Exception as error:  # Triton, the C compiler it calls and the driver each have their own
            if self._kernels_proven or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            self.kernels = False
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            self.say(
                f"engine: Triton cannot compile the kernels that make pictures ({why}); going on without them, more"
                f" slowly. Where it is the C compiler that is missing, {COMPILER_FIX}"
            )
            return False
        self._kernels_proven = True
        return True

    def _fill_from_host(self, images: "torch.Tensor", labels: "torch.Tensor", start: int) -> None:
        import torch

        work, size = self.stream.batch_spec(start), self.stream.size
        for part in work.parts:
            source = self.pixels[self.stream.splits.index(part.split)]
            for begin in range(0, len(part.rows), CHUNK):
                some = np.arange(begin, min(begin + CHUNK, len(part.rows)))
                records = torch.from_numpy(part.records[some]).to(self.device, non_blocking=True)
                rows = torch.from_numpy(part.rows[some]).to(self.device, non_blocking=True)
                levels = resample_torch(source[records], part.augmentation.take(some), size)
                whole = self.dtype == torch.uint8
                images[rows] = levels.add_(0.5).to(self.dtype) if whole else normalised(levels, self.dtype)
        labels.copy_(torch.from_numpy(work.labels), non_blocking=True)

    def close(self) -> None:
        """Free the device memory."""
        if self._side is not None:
            self._side.synchronize()
        self.pixels.clear()
        self._resamplers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def normalised(levels: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """Float levels 0..255 to [-1, 1] in ``dtype``."""
    return levels.sub_(127.5).mul_(1 / 127.5).to(dtype)
