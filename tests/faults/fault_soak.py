"""What a process holds after many batches and many epochs: it must hold no more than after a few."""

import ctypes
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_cases import Inputs, settings_of

from hrfr_fast.engines.base import Batch
from hrfr_fast.format.reader import open_packed
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.ranks import ALONE
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.training.build import build
from hrfr_fast.training.stream import build_stream
from hrfr_fast.training.trainer import Trainer

GROWTH = 24 << 20
"""Bytes of memory that may come and go: malloc's own, and what a garbage collector has not yet seen."""


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    memory: int
    """Bytes in RAM that belong to it alone: pages of mapped shards are the page cache's."""
    threads: int
    files: int
    shared_memory: int
    """Bytes in /dev/shm that processes of this user have."""

    @classmethod
    def now(cls) -> "Held":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        resident, shared = (int(n) for n in Path("/proc/self/statm").read_text(encoding="utf-8").split()[1:3])
        own = [path for path in Path("/dev/shm").iterdir() if path.is_file() and path.owner() == Path.home().owner()]
        return cls(
            (resident - shared) * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/task")),
            len(os.listdir("/proc/self/fd")), sum(path.stat().st_size for path in own),
        )  # fmt: skip

    def grown_from(self, before: "Held") -> dict[str, int]:
        return {name: getattr(self, name) - getattr(before, name) for name in before.__dataclass_fields__}


def soak_engine(inputs: Inputs, engine: str, batches: int) -> dict[str, Any]:
    """Growth from a tenth of ``batches`` to all of them, of the data path alone, and its memory after each tenth."""
    from hrfr_fast.engines.choice import choose_engine

    settings = settings_of(inputs, inputs.packed.with_name("none")).replaced(engine=engine)
    stream = build_stream(open_packed(inputs.packed), settings, 16, ALONE)
    seen = []
    with choose_engine(settings, stream, choose_compute("cpu", "fp32"), print) as made:
        for number, _ in enumerate(made.batches(0, batches * 16), 1):
            if number % (batches // 10) == 0:
                seen.append(Held.now())
    assert number == batches
    growth = seen[-1].grown_from(seen[0])
    return {"batches": batches, "growth": growth, "memory": [held.memory for held in seen]}


class Counting(Trainer):
    """A trainer that looks at what the process holds after some epochs, and after the last."""

    seen: list[Held]

    def step(self, batch: Batch) -> None:
        super().step(batch)
        if self.state.step in (self.setup.total_steps // 5, self.setup.total_steps - 1):
            self.seen.append(Held.now())


def soak_training(inputs: Inputs, epochs: int) -> dict[str, Any]:
    """Growth from a fifth of the ``epochs`` of a training to all of them: it verifies, saves and logs on the way."""
    run = inputs.packed.with_name("soaked")
    settings = settings_of(inputs, run).updated({"steps": None, "epochs": epochs, "eval_every": 5.0}, "soak")
    with Counting(build(settings.replaced(save_minutes=0.05)), False) as trainer:
        trainer.seen = []
        trainer.start()
        trainer.loop(StopFlag())
        first, last = trainer.seen
    steps = trainer.state.step
    return {"epochs": epochs, "steps": steps, "growth": last.grown_from(first), "memory": last.memory}
