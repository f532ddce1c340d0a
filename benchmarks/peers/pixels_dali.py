"""Already decoded pixels through DALI: external source of one contiguous array for each batch, resize, flip."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Task, shuffled
from benchmarks.peers.pixels import all_pixels
from benchmarks.peers.stock_dali import mirrored, pipeline_options

if TYPE_CHECKING:
    import torch


class Loader(Peer):
    name = "DALI external source"
    modules = ("nvidia.dali.fn", "nvidia.dali.plugin.pytorch")

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        pixels, labels = all_pixels(task)

        def source() -> Any:
            for numbers in shuffled(len(pixels), task.batch_size):
                yield pixels[numbers], labels[numbers, None]

        @pipeline_def
        def graph() -> Any:
            images, label = fn.external_source(
                source, num_outputs=2, batch=True, no_copy=True, dtype=[types.UINT8, types.INT64], layout=["HWC", ""]
            )
            images = fn.resize(images, size=[task.side] * 2, interp_type=types.INTERP_CUBIC, antialias=True)
            return mirrored(images, task), label

        iterator = DALIGenericIterator([graph(**pipeline_options(task))], ["image", "label"])
        for (batch,) in iterator:
            yield batch["image"].permute(0, 3, 1, 2), batch["label"].view(-1)
