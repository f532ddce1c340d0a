"""Stock DALI on an MXNet RecordIO file, as arcface_torch offers with ``config.dali``; where the tree holds one."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Task
from benchmarks.peers.stock_dali import iterate, pipeline_options, processed

if TYPE_CHECKING:
    import torch


class Loader(Peer):
    name = "stock DALI mxnet"
    modules = ("nvidia.dali.fn", "nvidia.dali.plugin.pytorch")

    def unsuited(self, task: Task) -> str | None:
        if task.encoding == "raw" or task.splits != ("lowres",):
            return "a .rec holds the encoded faces of one split"
        if not (Path(task.data) / "train.rec").is_file() or not (Path(task.data) / "train.idx").is_file():
            return "there is no train.rec and train.idx in the tree"
        return None

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        from nvidia.dali import fn, pipeline_def

        @pipeline_def
        def graph() -> Any:
            encoded, label = fn.readers.mxnet(
                path=[str(Path(task.data) / "train.rec")], index_path=[str(Path(task.data) / "train.idx")],
                random_shuffle=True, initial_fill=1024, name="reader",
            )  # fmt: skip
            return processed(encoded, task), label

        return iterate(graph(**pipeline_options(task)), task)
