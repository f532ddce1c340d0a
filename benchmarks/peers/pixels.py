"""The decoded pixels of a task in memory, from which the loaders of PIXELS start."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Task


def all_pixels(task: Task) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 [N, s, s, 3] and int64 [N] of the task's one split."""
    from hrfr_fast.format.reader import open_packed

    (name,) = task.splits
    split = open_packed(task.shards).splits[name]
    return split.read(np.arange(split.samples)), split.labels
