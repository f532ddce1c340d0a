"""torch DataLoader + OpenCV at its fastest: a worker for each core, a whole batch in a call, uint8 up to the device.

The batch is made in place (``__getitems__`` and no collation), so workers send one array, not 256 tensors.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import FLIP, DataLoaderPeer, Decoded, Task, finish, listing, resized_by_opencv

if TYPE_CHECKING:
    import torch


class Pictures:
    """Decode, resize and flip with OpenCV."""

    def __init__(self, task: Task) -> None:
        self.side = task.side
        self.paths: list[str] | None = None
        if task.encoding == "jpeg":
            self.paths, self.labels = listing(task)
        else:
            self.pixels = Decoded(task)
            self.labels = self.pixels.labels

    def into(self, number: int, out: NDArray[np.uint8]) -> None:
        """Picture ``number`` into uint8 [side, side, 3] RGB."""
        import cv2

        picture: Any
        if self.paths is None:
            picture = self.pixels[number]
        else:
            picture = cv2.cvtColor(cv2.imread(self.paths[number], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        picture = resized_by_opencv(picture, self.side)
        if random.random() < FLIP:
            cv2.flip(picture, 1, dst=out)
        else:
            out[:] = picture

    def batch(self, numbers: "list[int] | NDArray[np.int64]") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        out = np.empty((len(numbers), self.side, self.side, 3), np.uint8)
        for row, number in enumerate(numbers):
            self.into(int(number), out[row])
        return out, self.labels[np.asarray(numbers)]


class Faces:
    """A dataset that gives a whole batch at once."""

    def __init__(self, task: Task) -> None:
        self.pictures = Pictures(task)

    def __len__(self) -> int:
        return len(self.pictures.labels)

    def __getitems__(self, numbers: list[int]) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        pixels, labels = self.pictures.batch(numbers)
        return torch.from_numpy(pixels), torch.from_numpy(labels)


def _single_threaded(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)


def _uncollated(batch: Any) -> Any:
    return batch


class Loader(DataLoaderPeer):
    name = "torch+OpenCV"
    modules = ("cv2",)

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        from torch.utils.data import DataLoader

        loader: Any = DataLoader(
            Faces(task), task.batch_size, shuffle=True, drop_last=True, collate_fn=_uncollated,  # type: ignore[arg-type]
            worker_init_fn=_single_threaded, **self.worker_options(task),
        )  # fmt: skip
        while True:
            for pixels, labels in loader:
                yield finish(pixels, task), labels
