"""Stock FFCV on our shards, with its own operations and nothing of ours.

Its resizing decoder uses OpenCV's area filter, which is bilinear when enlarging: less work than bicubic.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.base import Peer, Task

if TYPE_CHECKING:
    import torch

KEPT: list[Any] = []
"""Loaders, for the life of the process: numba cannot clear away the functions that FFCV compiled for them."""


class Loader(Peer):
    name = "stock FFCV"
    work = "bilinear; no shift, no brightness"
    modules = ("ffcv.loader", "ffcv.transforms", "ffcv.fields.rgb_image")

    def unsuited(self, task: Task) -> str | None:
        if len(task.splits) > 1:
            return "one Loader reads one file, and a regime of two splits has two"
        if task.dtype == "bfloat16":
            return "it has no bfloat16; use --dtype float16 or float32"
        return None

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import torch
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToDevice, ToTensor, ToTorchImage

        from hrfr_fast.format.reader import open_packed
        from hrfr_fast.runtime.errors import UsageError

        split = open_packed(task.shards).splits[task.splits[0]]
        if len(split.parts) > 1:
            raise UsageError(f"{split.name} lies in several files, and an FFCV Loader opens one")
        same_size = split.size == task.side
        image: list[Any] = [SimpleRGBImageDecoder() if same_size else CenterCropRGBImageDecoder((task.side,) * 2, 1)]
        image.append(RandomHorizontalFlip())
        if task.dtype != "uint8":
            mean = np.full(3, 127.5)
            image.append(NormalizeImage(mean, mean, np.dtype(task.dtype).type))
        image.append(ToTensor())
        label: list[Any] = [IntDecoder(), ToTensor(), Squeeze()]
        if task.device != "cpu":
            image.append(ToDevice(torch.device(task.device), non_blocking=True))
            label.append(ToDevice(torch.device(task.device), non_blocking=True))
        image.append(ToTorchImage(channels_last=True))
        loader = Loader(
            str(split.path), task.batch_size, num_workers=task.workers, os_cache=True, order=OrderOption.RANDOM,
            drop_last=True, pipelines={"image": image, "label": label}, batches_ahead=3,
        )  # fmt: skip
        KEPT.append(loader)
        while True:
            yield from loader
