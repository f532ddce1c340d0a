"""The processes that train one model together (torchrun starts them): which one this is, and their process group."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hrfr_fast.runtime.errors import HrfrError, UsageError

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup, Store


@dataclass(frozen=True)
class Ranks:
    """Place of this process among those of the run, all numbers from 0."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""
    local_count: int = 1
    restarts: int = 0
    """How often torchrun has started all of them again, after one had ended with an error."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the ranks share: progress, metrics, checkpoints, reports."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        """Whether there are others; one process needs no process group and pays nothing for the possibility."""
        return self.count > 1

    @property
    def machines(self) -> int:
        """How many machines take part, where each has as many ranks as this one."""
        return max(1, self.count // self.local_count)


ALONE = Ranks()
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Set by torchrun alone; the four others by whoever starts ranks."""

_ended: "ProcessGroup | None" = None
"""The last group that was left. DistributedDataParallel refers to it, and where it would be the last to do so it ends
gloo's threads while it holds Python's global lock, which one of them may wait for to free a tensor: both for ever."""


def current_ranks() -> Ranks:
    """As torchrun says in the environment; ``ALONE`` for a process that it has not started.

    Raises UsageError where the variables contradict each other.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", RESTARTS)
    try:
        ranks = Ranks(*(int(os.environ.get(name, "0") if name == RESTARTS else os.environ[name]) for name in names))
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"WORLD_SIZE is set, but {error} of {', '.join(names[:4])} is no number; use torchrun"
        ) from None
    if not (0 <= ranks.rank < ranks.count and 0 <= ranks.local_rank < ranks.local_count <= ranks.count):
        raise UsageError(f"the environment says {ranks}, which cannot be; use torchrun")
    return ranks


@contextmanager
def process_group(ranks: Ranks, device: "torch.device", *, timeout_s: float = 3600) -> "Iterator[Store | None]":
    """torch.distributed's default group over all ranks, and the store it was made with; None where there is one rank.

    Tensors on a CPU go through gloo, those on GPUs through nccl.

    Args:
        device: of this rank; with nccl it must be its own GPU.
        timeout_s: a collective operation that lasts longer ends the process with an error.

    Raises:
        HrfrError: the ranks do not find each other.
    """
    if not ranks.distributed:
        yield None
        return
    from torch import distributed

    on_cuda = device.type == "cuda"
    bound: dict[str, Any] = {"device_id": device} if on_cuda else {}
    try:
        store, rank, count = next(distributed.rendezvous("env://"))
        # torchrun may keep one store over its restarts, in which the addresses of ended ranks still stand
        store = distributed.PrefixStore(f"hrfr-fast/{ranks.restarts}", store)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
            store=store, rank=rank, world_size=count, timeout=timedelta(seconds=timeout_s), **bound,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise HrfrError(
            f"rank {ranks.rank} of {ranks.count} does not find the others: {first}. Is the network between them open?"
            " GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME on GPUs) name the interface to use, as in `ip address`"
        ) from None
    try:
        yield store
    finally:
        global _ended
        _ended = distributed.group.WORLD
        distributed.destroy_process_group()


def from_main(ranks: Ranks, value: Any) -> Any:
    """Rank 0's ``value`` on every rank, as JSON knows it; the others wait for it. One rank keeps its own."""
    if not ranks.distributed:
        return value
    import torch
    from torch import distributed

    content = json.dumps(value).encode() if ranks.is_main else b""
    length = torch.tensor(len(content))
    distributed.broadcast(length, 0)
    text = torch.frombuffer(bytearray(content), dtype=torch.uint8) if ranks.is_main else None
    received = torch.empty(int(length), dtype=torch.uint8) if text is None else text
    distributed.broadcast(received, 0)
    return json.loads(bytes(received.tolist()))
