"""The resident engine on CUDA for batches with two views of a face: drawn and made on the device, as single views are.

A batch has three groups of images: lowres faces, and the sharp and the degraded views of highres faces. Each is made by
a resampler that writes into its rows of the batch.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from hrfr_fast.engines.resident_cuda import ResidentCUDA
from hrfr_fast.resampling.launcher import EpochOrders, Resampler, ResidentSplit, Rows, View
from hrfr_fast.resampling.native_launcher import NativeResampler
from hrfr_fast.runtime.philox import SHUFFLE_HIGHRES, SHUFFLE_LOWRES
from hrfr_fast.sampling.degradation import NativeView
from hrfr_fast.sampling.sampler_torch import permutations
from hrfr_fast.sampling.two_view_stream import DEGRADED, SHARP, SecondView, TwoViewStream


class _Group(NamedTuple):
    """Images of a batch that are made alike."""

    split: int
    resampler: Resampler
    rows: Rows


class _Order:
    """The order of one split's records, which the kernels read: pass e lies in row ``e % slots``.

    Args:
        samples: records of the split.
        each: of them a batch, over all ranks.
        purpose: of the permutations.
        labels: int64 [samples], of the batch.
    """

    def __init__(self, seed: int, samples: int, each: int, purpose: int, labels: Tensor) -> None:
        self.seed, self.samples, self.each, self.purpose = seed, samples, each, purpose
        self.slots = (each - 1) // samples + 3  # all passes that a batch can touch, and the one after
        records = torch.zeros((self.slots, samples), dtype=torch.int32, device=labels.device)
        self.orders, self._pass_in_slot = EpochOrders(records, labels), dict[int, int]()
        self.counter = torch.zeros(1, dtype=torch.int64, device=labels.device)

    def prepare(self, batch: int) -> None:
        """See that what batch number ``batch`` reads is on the device, on the current stream."""
        start = batch * self.each
        self.counter.fill_(start)
        for number in range(start // self.samples, (start + self.each - 1) // self.samples + 2):
            slot = number % self.slots
            if self._pass_in_slot.get(slot) != number:
                device, passes = self.counter.device, range(number, number + 1)
                order = permutations(self.seed, passes, self.samples, self.purpose, device)[0]
                self.orders.records[slot].copy_(order)
                self._pass_in_slot[slot] = number


def _degrading(stream: TwoViewStream, source: ResidentSplit) -> Resampler:
    """What makes the second view of highres faces."""
    second, every, size, seed = stream.second_view, stream.every_view, stream.size, stream.seed
    if isinstance(second, NativeView):
        return NativeResampler(source, size, every, second.settings, seed, DEGRADED)
    assert isinstance(second, SecondView), "build_resident_cuda asks for it"
    return Resampler(source, size, second.on_top_of(every), seed, view=View(DEGRADED, second.filters))


class DeviceSampledViews(ResidentCUDA):
    """Batches of a ``TwoViewStream`` whose records and augmentation are drawn inside the kernels."""

    stream: TwoViewStream

    def __init__(self, stream: TwoViewStream, device: torch.device, dtype: torch.dtype, pixels: list[Tensor]) -> None:
        super().__init__(stream, device, dtype, pixels)
        low, high = (torch.from_numpy(split.labels).to(device) for split in stream.splits)
        self._orders = (
            _Order(stream.seed, len(low), stream.lowres, SHUFFLE_LOWRES, low),
            _Order(stream.seed, len(high), stream.pairs, SHUFFLE_HIGHRES, high + stream.splits[0].identities),
        )
        every, size = stream.every_view, stream.size
        sources = [ResidentSplit(one, 0) for one in pixels]
        sharp = Resampler(sources[1], size, every, stream.seed, view=View(SHARP))
        degraded = _degrading(stream, sources[1])
        # Rows of a micro-batch: its lowres faces, then sharp, degraded, sharp, ...
        chunks = stream.ranks * stream.micro_batches
        lowres, pairs, pitch = stream.lowres // chunks, stream.pairs // chunks, stream.batch_size // chunks
        self._groups = [
            _Group(0, Resampler(sources[0], size, every, stream.seed), Rows(lowres, pitch, 0, 1)),
            _Group(1, sharp, Rows(pairs, pitch, lowres, 2)),
            _Group(1, degraded, Rows(pairs, pitch, lowres + 1, 2)),
        ]

    def compile(self) -> None:
        """Make the first batch, which compiles the kernels. Raises whatever Triton and the driver raise."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            self._write(*self._empty(self.stream.batch_size // self.stream.ranks), 0)

    def _write(self, images: Tensor, labels: Tensor, start: int) -> None:
        batch, inside = divmod(start, self.stream.batch_size)
        if inside:
            raise ValueError(f"sample {start} is inside a batch of {self.stream.batch_size}")
        for order in self._orders:
            order.prepare(batch)
        for split, resampler, rows in self._groups:
            order = self._orders[split]
            own = order.each // self.stream.ranks
            resampler(images, labels, order.orders, order.counter, self.stream.rank * own, rows, own)

    def close(self) -> None:
        super().close()
        self._groups.clear()
