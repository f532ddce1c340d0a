"""Already decoded pixels through cv2.resize and cv2.flip, one thread for each core."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import FLIP, Peer, Task, finish, shuffled
from benchmarks.peers.pixels import all_pixels

if TYPE_CHECKING:
    import torch


class Loader(Peer):
    name = "cv2.resize"
    work = "one fixed grid; no shift, no brightness"
    modules = ("cv2",)

    def prefetched(self, task: Task) -> int:
        return 0

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import cv2
        import torch

        cv2.setNumThreads(0)  # the pool below has the cores
        pixels, labels = all_pixels(task)
        side = (task.side, task.side)
        method = cv2.INTER_CUBIC if pixels.shape[1] < task.side else cv2.INTER_AREA

        def resize(numbers: NDArray[np.int64], flips: NDArray[np.bool_], out: NDArray[np.uint8]) -> None:
            for row, number in enumerate(numbers.tolist()):
                picture = pixels[number]
                # Flipped while it is small: a quarter of a millisecond a batch instead of four.
                cv2.resize(cv2.flip(picture, 1) if flips[row] else picture, side, out[row], interpolation=method)

        rng = np.random.default_rng(0)
        with ThreadPoolExecutor(task.workers) as pool:
            for numbers in shuffled(len(pixels), task.batch_size):
                out = np.empty((len(numbers), *side, 3), np.uint8)
                flips = rng.random(len(numbers)) < FLIP
                parts = [slice(w, None, task.workers) for w in range(task.workers)]
                list(pool.map(lambda p: resize(numbers[p], flips[p], out[p]), parts))  # noqa: B023
                yield finish(out, task), torch.from_numpy(labels[numbers])
