"""Stock FFCV copying raw pixels into batches, without resampling: the upper bound for reading, not the same work."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.peers.base import Peer, Task

if TYPE_CHECKING:
    import torch


class Loader(Peer):
    name = "FFCV raw copy"
    work = "copies the stored pixels: no resize, no flip"
    modules = ("ffcv.loader", "ffcv.fields.rgb_image")

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import torch
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption

        from hrfr_fast.format.reader import open_packed
        from hrfr_fast.runtime.errors import UsageError

        split = open_packed(task.shards).splits[task.splits[0]]
        if len(split.parts) > 1:
            raise UsageError(f"{split.name} lies in several files, and an FFCV Loader opens one")
        loader = Loader(
            str(split.path), task.batch_size, num_workers=task.workers, os_cache=True, order=OrderOption.RANDOM,
            drop_last=True, pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
        )  # fmt: skip
        while True:
            for pixels, labels in loader:
                yield torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels).view(-1)
