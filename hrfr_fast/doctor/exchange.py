"""Measurement of what the ranks of a job exchange: sums over all of them, and messages between two."""

import socket
import time
from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING

from hrfr_fast.doctor.links import AllReduce, Exchange, Link
from hrfr_fast.runtime.rank_failures import one_job
from hrfr_fast.runtime.ranks import Ranks

if TYPE_CHECKING:
    import torch

SUMS = (4 << 10, 1 << 20, 25 << 20, 100 << 20)  # bytes; DDP exchanges gradients in buckets of 25 MiB
REPEATED = 5
MESSAGE = 8 << 20  # bytes between two ranks
MOST_PAIRED = 16  # ranks of which every pair is measured; more would take minutes


def measure_exchange(ranks: Ranks) -> Exchange:
    """The exchange between all ranks, as training uses it: nccl on GPUs, gloo on CPUs; every rank has to call this.

    Raises what ``choose_compute`` and ``one_job`` raise.
    """
    from hrfr_fast.runtime.device import choose_compute

    device = choose_compute().device
    with one_job(ranks, device, lambda: "The exchange between ranks was not timed."):
        return exchange_in_group(ranks, device)


def exchange_in_group(
    ranks: Ranks, device: "torch.device", sizes: tuple[int, ...] = SUMS, message: int = MESSAGE
) -> Exchange:
    """The exchange over the process group that there is.

    The time of a sum is that of the slowest rank. Of several repetitions the shortest counts, so that what else the
    machine does shows least.

    Args:
        sizes: bytes of the sums.
        message: bytes of the long message between two ranks.
    """
    from torch import distributed

    hosts = [""] * ranks.count
    distributed.all_gather_object(hosts, socket.gethostname())
    sums = [AllReduce(size, _sum_seconds(ranks, device, size)) for size in sizes]
    links = [_link(ranks, device, first, second, message) for first, second in _pairs(ranks.count)]
    return Exchange(tuple(hosts), device.type, tuple(sums), tuple(links))


def _pairs(count: int) -> list[tuple[int, int]]:
    if count <= MOST_PAIRED:
        return list(combinations(range(count), 2))
    return [(rank, (rank + 1) % count) for rank in range(count)]


def _sum_seconds(ranks: Ranks, device: "torch.device", size: int) -> float:
    import torch
    from torch import distributed

    values = torch.zeros(size // 4, device=device)
    seconds = _shortest(lambda: distributed.all_reduce(values), device)
    of_all = [0.0] * ranks.count
    distributed.all_gather_object(of_all, seconds)
    return max(of_all)


def _link(ranks: Ranks, device: "torch.device", first: int, second: int, message: int) -> Link:
    """The link of two ranks, measured by both while the others wait; a message goes there and back."""
    import torch
    from torch import distributed

    found: list[float] = []
    if ranks.rank in (first, second):
        for size in (8, message):
            values = torch.zeros(size, dtype=torch.uint8, device=device)
            there_and_back = _ping_pong(values, ranks.rank == first, second if ranks.rank == first else first)
            found.append(_shortest(there_and_back, device) / 2)
    told = [found]
    distributed.broadcast_object_list(told, src=first)
    latency, seconds = told[0]
    return Link(first, second, latency, message / seconds)


def _ping_pong(values: "torch.Tensor", begins: bool, other: int) -> Callable[[], object]:
    from torch import distributed

    def first() -> object:
        distributed.send(values, other)
        return distributed.recv(values, other)

    def second() -> object:
        distributed.recv(values, other)
        return distributed.send(values, other)

    return first if begins else second


def _shortest(exchange: Callable[[], object], device: "torch.device") -> float:
    """Seconds of the shortest of REPEATED exchanges, after one that opens connections."""
    import torch

    seconds = []
    for _ in range(REPEATED + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        exchange()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])
