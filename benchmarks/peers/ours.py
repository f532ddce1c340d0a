"""Our engines, with the whole default augmentation: shift, flip and brightness of every picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import Peer, Task, missing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Target:
    """Where batches go, as ``choose_engine`` asks for it."""

    device: "torch.device"
    image_dtype: "torch.dtype"

    def free_memory(self) -> int:
        """Free bytes of GPU memory; 0 on a CPU."""
        import torch

        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 0


class Engine(Peer):
    """One engine of ``--engine``, through the same function as training."""

    work = "shift, flip and brightness of every picture"

    def __init__(self, name: str) -> None:
        self.engine, self.name = name, f"hrfr-fast {name}"

    def unavailable(self, task: Task) -> str | None:
        from hrfr_fast.settings import choices

        if self.engine not in choices("engine"):
            return f"this version has no engine {self.engine}"
        needs = {"dali": ["nvidia.dali.fn", "nvidia.dali.plugin.pytorch"], "ffcv": ["ffcv.loader"]}
        return missing("torch", "hrfr_fast.training.trainer", *needs.get(self.engine, []))

    def prepare(self, task: Task) -> None:
        """Compile the kernels into numba's cache: every engine uses the resident one's."""
        batches: Any = Engine("resident").batches(task)
        next(batches)
        batches.close()

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import torch

        from hrfr_fast.engines.choice import choose_engine
        from hrfr_fast.format.reader import open_packed
        from hrfr_fast.settings import TrainSettings
        from hrfr_fast.training.stream import build_stream

        settings = TrainSettings(regime=task.regime, data=str(task.shards), engine=self.engine, device=task.device)
        stream = build_stream(open_packed(task.shards), settings, task.batch_size)
        target: Any = Target(torch.device(task.device), getattr(torch, task.dtype))
        engine = choose_engine(settings, stream, target, lambda _: None)
        try:
            for batch in engine.batches(0, 10**12):
                yield batch.images, batch.labels
        finally:
            engine.close()
