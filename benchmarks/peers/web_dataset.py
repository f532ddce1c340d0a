"""WebDataset: tar shards of the same JPEG files, read in workers, decoded with OpenCV, batched in the worker."""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.base import FLIP, DataLoaderPeer, Task, finish, listing, resized_by_opencv

if TYPE_CHECKING:
    import torch

SHARDS = 16


class Decode:
    """Decodes a sample of a tar shard to uint8 [side, side, 3] and its label."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, sample: tuple[bytes, bytes]) -> tuple[Any, int]:
        import cv2

        encoded, label = sample
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        picture = resized_by_opencv(picture, self.side)
        return (cv2.flip(picture, 1) if random.random() < FLIP else picture), int(label)


def stacked(samples: list[tuple[Any, int]]) -> "tuple[torch.Tensor, torch.Tensor]":
    """The collation: uint8 [B, side, side, 3] and int64 labels."""
    import torch

    pictures, labels = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


class Loader(DataLoaderPeer):
    name = "WebDataset"
    modules = ("cv2", "webdataset")

    def unsuited(self, task: Task) -> str | None:
        if task.encoding == "raw":
            return "its shards hold encoded files"
        return None

    def prepare(self, task: Task) -> None:
        import webdataset

        folder = task.own_format("webdataset")
        if (folder / "done").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        paths, labels = listing(task)
        order = np.random.default_rng(0).permutation(len(paths))  # tars must be shuffled when they are written
        for shard in range(SHARDS):
            with webdataset.TarWriter(str(folder / f"{shard:03d}.tar")) as tar:
                for n in order[shard::SHARDS].tolist():
                    with open(paths[n], "rb") as file:
                        tar.write({"__key__": f"{n:08d}", "jpg": file.read(), "cls": str(labels[n]).encode()})
        (folder / "done").touch()

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import cv2
        import webdataset

        cv2.setNumThreads(0)
        tars = sorted(str(p) for p in task.own_format("webdataset").glob("*.tar"))
        dataset = (
            webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False)
            .shuffle(1000)
            .to_tuple("jpg", "cls")
            .map(Decode(task.side))
            .batched(task.batch_size, collation_fn=stacked, partial=False)
            .repeat()
        )
        loader = webdataset.WebLoader(dataset, batch_size=None, **self.worker_options(task))
        for pixels, labels in loader:
            yield finish(pixels, task), labels
