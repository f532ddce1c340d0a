"""Stock DALI: readers.file, decode, resize, crop_mirror_normalize, through its iterator for PyTorch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import FLIP, Peer, Task, listing

if TYPE_CHECKING:
    import torch


def processed(encoded: Any, task: Task) -> Any:
    """The part of the graph after the reader: JPEG bytes to images."""
    from nvidia.dali import fn, types

    gpu = task.device != "cpu"
    images = fn.decoders.image(encoded, device="mixed" if gpu else "cpu", output_type=types.RGB)
    images = fn.resize(images, size=[task.side] * 2, interp_type=types.INTERP_CUBIC, antialias=True)
    return mirrored(images, task)


def mirrored(images: Any, task: Task) -> Any:
    """Random flip and normalisation in one operator; HWC, which is channels-last."""
    from nvidia.dali import fn, types

    kinds = {"uint8": types.UINT8, "float32": types.FLOAT, "float16": types.FLOAT16}
    mean = 0.0 if task.dtype == "uint8" else 127.5
    return fn.crop_mirror_normalize(
        images, mirror=fn.random.coin_flip(probability=FLIP), mean=[mean] * 3, std=[mean or 1.0] * 3,
        dtype=kinds[task.dtype], output_layout="HWC",
    )  # fmt: skip


def pipeline_options(task: Task) -> dict[str, Any]:
    return {
        "batch_size": task.batch_size, "num_threads": task.workers, "seed": 1,
        "device_id": None if task.device == "cpu" else 0, "prefetch_queue_depth": 2,
    }  # fmt: skip


def iterate(pipeline: Any, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Endlessly through DALI's own iterator."""
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    iterator = DALIGenericIterator(
        [pipeline], ["image", "label"], reader_name="reader", auto_reset=True, last_batch_policy=LastBatchPolicy.DROP
    )
    while True:
        for (batch,) in iterator:
            yield batch["image"].permute(0, 3, 1, 2), batch["label"].view(-1).long()


class Loader(Peer):
    name = "stock DALI"
    modules = ("nvidia.dali.fn", "nvidia.dali.plugin.pytorch")

    def unsuited(self, task: Task) -> str | None:
        if task.encoding == "raw":
            return "readers.file reads encoded files"
        if task.dtype == "bfloat16":
            return "crop_mirror_normalize has no bfloat16; use --dtype float16 or float32"
        return None

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        from nvidia.dali import fn, pipeline_def

        paths, labels = listing(task)

        @pipeline_def
        def graph() -> Any:
            encoded, label = fn.readers.file(
                files=paths, labels=labels.tolist(), shuffle_after_epoch=True, name="reader"
            )
            return processed(encoded, task), label

        return iterate(graph(**pipeline_options(task)), task)
