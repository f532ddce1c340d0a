"""LitData: its optimised chunks of the same JPEG files, through its StreamingDataLoader, decoded with OpenCV."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import DataLoaderPeer, Task, finish, listing
from benchmarks.peers.web_dataset import Decode, stacked

if TYPE_CHECKING:
    import torch

CHUNK = "16MB"


def _sample(item: tuple[str, int]) -> dict[str, Any]:
    path, label = item
    with open(path, "rb") as file:
        return {"image": file.read(), "label": label}


def _decoded(sample: dict[str, Any], decode: Decode) -> tuple[Any, int]:
    return decode((sample["image"], sample["label"]))


class Loader(DataLoaderPeer):
    name = "LitData"
    modules = ("cv2", "litdata")

    def unsuited(self, task: Task) -> str | None:
        if task.encoding == "raw":
            return "its chunks hold encoded files, as its guide advises for pictures"
        return None

    def prepare(self, task: Task) -> None:
        from litdata import optimize

        folder = task.own_format("litdata")
        if (folder / "done").exists():
            return
        paths, labels = listing(task)
        inputs = list(zip(paths, labels.tolist(), strict=True))
        optimize(_sample, inputs, str(folder), chunk_bytes=CHUNK, num_workers=1, mode="overwrite", verbose=False)
        (folder / "done").touch()

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import cv2
        from litdata import StreamingDataLoader, StreamingDataset

        cv2.setNumThreads(0)
        dataset = StreamingDataset(
            str(task.own_format("litdata")), shuffle=True, drop_last=True,
            transform=partial(_decoded, decode=Decode(task.side)),
        )  # fmt: skip
        loader = StreamingDataLoader(
            dataset, batch_size=task.batch_size, collate_fn=stacked, drop_last=True,
            **{name: value for name, value in self.worker_options(task).items() if name != "multiprocessing_context"},
        )  # fmt: skip
        while True:
            for pixels, labels in loader:
                yield finish(pixels, task), labels
