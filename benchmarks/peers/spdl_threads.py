"""SPDL: its thread pipeline around functions that release the GIL, here OpenCV's.

SPDL's own decoder needs FFmpeg's libraries on the machine; its guide recommends any such function.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.peers.base import Peer, Task, finish, shuffled

if TYPE_CHECKING:
    import torch


class Loader(Peer):
    name = "SPDL"
    modules = ("cv2", "spdl.pipeline")

    def prefetched(self, task: Task) -> int:
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
