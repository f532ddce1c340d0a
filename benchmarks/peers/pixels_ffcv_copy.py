"""Stock FFCV copying raw pixels into batches, no resampling at all: the bar for reading, not the same work."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.peers.base import Task, missing

if TYPE_CHECKING:
    import torch


class Peer:
    name = "FFCV raw copy"
    work = "copies the stored pixels: no resize, no flip"
    extra = "ffcv"

    def unavailable(self, task: Task) -> str | None:
        return missing("torch", "ffcv.loader", "ffcv.fields.rgb_image")

    def prepare(self, task: Task) -> None:
        """It reads our shards."""

    def ahead(self, task: Task) -> int:
        return 3

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import torch
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption

        from hrfr_fast.format.reader import open_packed

        split = open_packed(task.shards).splits[task.splits[0]]
        loader = Loader(
            str(split.path), task.batch_size, num_workers=task.workers, os_cache=True, order=OrderOption.RANDOM,
            drop_last=True, pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
        )  # fmt: skip
        while True:
            for pixels, labels in loader:
                yield torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels).view(-1)
