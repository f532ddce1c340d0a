"""SPDL: its thread pipeline around functions that release the GIL, here OpenCV's.

SPDL's own decoder needs FFmpeg's libraries on the machine; its guide recommends any such function.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Task, finish, missing

if TYPE_CHECKING:
    import torch


def shuffled(count: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Record numbers of one batch after another, a new order every epoch, endlessly."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


class Peer:
    name = "SPDL"
    work = "no shift, no brightness"
    extra = "bench"

    def unavailable(self, task: Task) -> str | None:
        return missing("torch", "cv2", "spdl.pipeline")

    def prepare(self, task: Task) -> None:
        """It reads the files as they are."""

    def ahead(self, task: Task) -> int:
        return task.workers + 4

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import cv2
        import torch
        from spdl.pipeline import PipelineBuilder

        from benchmarks.peers.torch_opencv import Pictures

        cv2.setNumThreads(0)  # one thread a batch; the pipeline runs as many as there are cores
        pictures = Pictures(task)
        pipeline = (
            PipelineBuilder()
            .add_source(shuffled(len(pictures.labels), task.batch_size))
            .pipe(pictures.batch, concurrency=task.workers)
            .add_sink(2)
            .build(num_threads=task.workers)
        )
        with pipeline.auto_stop():
            for pixels, labels in pipeline:
                yield finish(pixels, task), torch.from_numpy(labels)
