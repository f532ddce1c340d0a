"""torch DataLoader + OpenCV at its best: one worker a core, a whole batch a call, uint8 until it is on the device.

The batch is made in place (``__getitems__`` and no collation), so workers send one array, not 256 tensors.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import FLIP, Decoded, Task, finish, listing, missing

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
        if len(picture) != self.side:
            # Cubic up; area down, OpenCV's only antialiased kernel.
            kernel = cv2.INTER_CUBIC if len(picture) < self.side else cv2.INTER_AREA
            picture = cv2.resize(picture, (self.side, self.side), interpolation=kernel)
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
    """The dataset: asked for a whole batch at once."""

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


def _as_it_is(batch: Any) -> Any:
    return batch


class Peer:
    name = "torch+OpenCV"
    work = "no shift, no brightness"
    extra = ""

    def unavailable(self, task: Task) -> str | None:
        return missing("torch", "cv2")

    def prepare(self, task: Task) -> None:
        """It reads the files as they are."""

    def ahead(self, task: Task) -> int:
        return 2 * task.workers

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        from torch.utils.data import DataLoader

        loader: Any = DataLoader(
            Faces(task), task.batch_size, shuffle=True, drop_last=True, num_workers=task.workers,  # type: ignore[arg-type]
            persistent_workers=True, pin_memory=task.device != "cpu", multiprocessing_context="fork",
            collate_fn=_as_it_is, worker_init_fn=_single_threaded,
        )  # fmt: skip
        while True:
            for pixels, labels in loader:
                yield finish(pixels, task), labels
