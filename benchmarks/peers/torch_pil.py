"""torch DataLoader + PIL, as in arcface_torch and cavaface.

Their transform is RandomHorizontalFlip, ToTensor, Normalize(0.5, 0.5) on a PIL picture, float32 in the workers
and the default collation; upscaling is PIL's bicubic resize. ToTensor and Normalize are written out here, so that
torchvision is not needed: the same arithmetic with less overhead.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.base import FLIP, DataLoaderPeer, Decoded, Task, listing

if TYPE_CHECKING:
    import torch


class Faces:
    """A map-style dataset."""

    def __init__(self, task: Task) -> None:
        self.task = task
        if task.encoding == "jpeg":
            self.paths, self.labels = listing(task)
        else:
            self.pixels = Decoded(task)
            self.labels = self.pixels.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import torch
        from PIL import Image

        side = self.task.side
        if self.task.encoding == "jpeg":
            picture = Image.open(self.paths[number]).convert("RGB")
        else:
            picture = Image.fromarray(self.pixels[number])
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        if random.random() < FLIP:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        if self.task.dtype != "uint8":
            image = image.contiguous().to(torch.float32).div_(255).sub_(0.5).div_(0.5)
        return image, int(self.labels[number])


class Loader(DataLoaderPeer):
    name = "torch+PIL"
    modules = ("PIL.Image",)

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import torch
        from torch.utils.data import DataLoader

        loader: Any = DataLoader(
            Faces(task), task.batch_size, shuffle=True, drop_last=True,  # type: ignore[arg-type]
            **self.worker_options(task),
        )  # fmt: skip
        dtype = getattr(torch, task.dtype)
        while True:
            for images, labels in loader:
                moved = images.to(task.device, dtype, non_blocking=True, memory_format=torch.channels_last)
                yield moved, labels
