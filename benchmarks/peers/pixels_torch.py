"""Already decoded pixels through torch's resize: a whole batch of uint8 in a call, all cores."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peers.base import FLIP, Peer, Task, shuffled
from benchmarks.peers.pixels import all_pixels

if TYPE_CHECKING:
    import torch


class Loader(Peer):
    name = "torch interpolate"
    work = "one fixed grid for the batch; no shift, no brightness"

    def prefetched(self, task: Task) -> int:
        return 0

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import torch
        from torch.nn.functional import interpolate

        pixels, labels = (torch.from_numpy(a) for a in all_pixels(task))
        rng = np.random.default_rng(0)
        for numbers in shuffled(len(pixels), task.batch_size):
            rows = torch.from_numpy(numbers)
            images = pixels[rows].permute(0, 3, 1, 2)  # channels-last, where its uint8 kernel is fastest
            flips = torch.from_numpy(np.flatnonzero(rng.random(len(numbers)) < FLIP))
            images[flips] = images[flips].flip(3)
            side = (task.side, task.side)
            yield interpolate(images, side, mode="bicubic", antialias=True), labels[rows]
