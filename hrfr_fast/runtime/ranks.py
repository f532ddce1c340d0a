"""The processes that train one model together (torchrun starts them): which one this is, and their process group."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Ranks:
    """Place of this process among those of the run, all numbers from 0."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""
    local_count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the ranks share: progress, metrics, checkpoints, reports."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        """Whether there are others; one process needs no process group and pays nothing for the possibility."""
        return self.count > 1


ALONE = Ranks()


def current_ranks() -> Ranks:
    """As torchrun says in the environment; ``ALONE`` for a process that it has not started.

    Raises UsageError where the variables contradict each other.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        ranks = Ranks(*(int(os.environ[name]) for name in names))
    except (KeyError, ValueError) as error:
        raise UsageError(f"WORLD_SIZE is set, but {error} of {', '.join(names)} is no number; use torchrun") from None
    if not (0 <= ranks.rank < ranks.count and 0 <= ranks.local_rank < ranks.local_count <= ranks.count):
        raise UsageError(f"the environment says {ranks}, which cannot be; use torchrun")
    return ranks


@contextmanager
def process_group(ranks: Ranks, device: "torch.device", *, timeout_s: float = 600) -> Iterator[None]:
    """torch.distributed's default group over all ranks: nccl on GPUs, gloo on CPUs; nothing where there is one rank.

    Args:
        device: of this rank; with nccl it must be its own GPU.
        timeout_s: a collective operation that lasts longer ends the process with an error.
    """
    if not ranks.distributed:
        yield
        return
    from torch import distributed

    backend = "nccl" if device.type == "cuda" else "gloo"
    bound = {"device_id": device} if device.type == "cuda" else {}
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **bound)  # type: ignore[arg-type]
    try:
        yield
    finally:
        distributed.destroy_process_group()
