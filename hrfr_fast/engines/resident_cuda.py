"""The resident engine on CUDA: all pixels in device memory as uint8, batches made there.

A thread draws order and plan on the host (1 us a sample) and the batch is made on a side stream, one batch ahead,
while the default stream trains on the one before.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import numpy as np

from hrfr_fast.data.shards import Split
from hrfr_fast.engines.base import Batch, Feed, Work, refuse_damaged
from hrfr_fast.engines.pixels import fetch
from hrfr_fast.engines.resample_torch import resample_torch

if TYPE_CHECKING:
    import torch

UPLOAD = 8192  # pictures copied at a time: 32 MiB at 36 px
CHUNK = 256  # pictures resampled at a time: bounds the float32 intermediates to 64 MiB at 144 px


def resident_bytes(stream: Feed) -> int:
    """Device memory that the decoded pixels of ``stream`` need."""
    return sum(split.samples * split.size * split.size * 3 for split in stream.splits)


class ResidentCUDA:
    """Batches made on ``device`` (a CPU device works too, slowly: the tests use it).

    Args:
        stream: what to feed.
        device: where pixels live and batches are made.
        dtype: of the images, see Batch.
        verify: compare every record with its checksum while loading (DamageFound on a mismatch).
    """

    name = "resident"

    def __init__(self, stream: Feed, device: "torch.device", dtype: "torch.dtype", *, verify: bool = False) -> None:
        import torch

        self.stream, self.device, self.dtype = stream, device, dtype
        self.pixels = {split.name: self._load(split, verify) for split in stream.splits}
        self._host = ThreadPoolExecutor(1, thread_name_prefix="hrfr-plan")
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _load(self, split: Split, verify: bool) -> "torch.Tensor":
        import torch

        pixels = torch.empty((split.samples, split.size, split.size, 3), dtype=torch.uint8, device=self.device)
        for start in range(0, split.samples, UPLOAD):
            records = np.arange(start, min(start + UPLOAD, split.samples))
            if verify:
                refuse_damaged(split, records)
            pixels[start : start + len(records)].copy_(torch.from_numpy(fetch(split, records)))
        return pixels

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        import torch

        starts = range(start, stop, self.stream.batch_size)
        pending = [self._host.submit(self.stream.work, at) for at in starts[:2]]
        ready = self._make(pending.pop(0).result()) if pending else None
        for number in range(len(starts)):
            batch = ready
            assert batch is not None
            if number + 2 < len(starts):
                pending.append(self._host.submit(self.stream.work, starts[number + 2]))
            if self._side is not None:
                # The consumer's stream waits for this batch, and the allocator is told that it uses the memory:
                # without record_stream the side stream could overwrite it while the step still reads.
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(self._side)
                batch.images.record_stream(current)
                batch.labels.record_stream(current)
            ready = self._make(pending.pop(0).result()) if pending else None
            yield batch

    def _make(self, work: Work) -> Batch:
        import torch

        if self._side is None:
            return self._render(work)
        with torch.cuda.stream(self._side):
            return self._render(work)

    def _render(self, work: Work) -> Batch:
        import torch

        size, count = self.stream.size, len(work.labels)
        kind = torch.uint8 if self.dtype == torch.uint8 else self.dtype
        out = torch.empty((count, size, size, 3), dtype=kind, device=self.device)
        for part in work.parts:
            source = self.pixels[part.split.name]
            for start in range(0, len(part.rows), CHUNK):
                some = np.arange(start, min(start + CHUNK, len(part.rows)))
                records = torch.from_numpy(part.records[some]).to(self.device, non_blocking=True)
                rows = torch.from_numpy(part.rows[some]).to(self.device, non_blocking=True)
                levels = resample_torch(source[records], part.plan.take(some), size)
                out[rows] = levels.add_(0.5).to(kind) if kind == torch.uint8 else normalised(levels, kind)
        labels = torch.from_numpy(work.labels).to(self.device, non_blocking=True)
        return Batch(out.permute(0, 3, 1, 2), labels, work.start)

    def close(self) -> None:
        """Free the device memory and the thread."""
        self._host.shutdown(wait=True, cancel_futures=True)
        self.pixels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def normalised(levels: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """Float levels 0..255 to [-1, 1] in ``dtype``."""
    return levels.sub_(127.5).mul_(1 / 127.5).to(dtype)
