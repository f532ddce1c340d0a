"""Work shared out over the ranks that torchrun has started: each does its pieces, and the results come back in order.

A piece is done in the same way whichever rank does it, so a result does not depend on how many there are.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from hrfr_fast.runtime.rank_failures import one_job
from hrfr_fast.runtime.ranks import Ranks, current_ranks

PieceT = TypeVar("PieceT")
ResultT = TypeVar("ResultT")

EXCHANGED = 16  # results of each rank that travel at once: at 128 embeddings of 512 numbers they are 4 MiB
PATIENCE = 24 * 3600.0  # seconds that the others wait while rank 0 scores


@contextmanager
def sharing_ranks() -> Iterator[Ranks]:
    """This process among those that share the work inside, with a process group of all, or alone.

    Tensors stay on each rank's own device; what is exchanged goes through the CPUs. Inside another such context, or
    inside a training run, the group that is there is used.

    Raises ReportedElsewhere where another rank ends with an error.
    """
    ranks = current_ranks()
    if not ranks.distributed:
        yield ranks
        return
    import torch

    if torch.distributed.is_initialized():
        yield ranks
        return
    with one_job(ranks, torch.device("cpu"), lambda: "Run the same command again.", timeout_s=PATIENCE):
        yield ranks


def own_share(ranks: Ranks, pieces: Sequence[PieceT]) -> Sequence[PieceT]:
    """The pieces that this rank does: those whose number, divided by the number of ranks, leaves the rank."""
    return pieces[ranks.rank :: ranks.count]


def in_order(ranks: Ranks, own: Iterable[ResultT], pieces: int, *, everywhere: bool = False) -> Iterator[ResultT]:
    """The results of all ranks in the order of the pieces, on rank 0; the others work while they go through nothing.

    To be gone through to its end on every rank. One rank alone gets its own results one by one, as they are made.

    Args:
        own: the results of ``own_share``, in order, made when they are asked for.
        pieces: how many there are, over all ranks.
        everywhere: all ranks get all results.
    """
    if not ranks.distributed:
        yield from own
        return
    own = iter(own)
    for first in range(0, pieces, EXCHANGED * ranks.count):
        found = _exchanged(ranks, list(islice(own, EXCHANGED)), everywhere)
        if found:
            for number in range(min(EXCHANGED * ranks.count, pieces - first)):
                yield found[number % ranks.count][number // ranks.count]


def _exchanged(ranks: Ranks, own: list[ResultT], everywhere: bool) -> list[list[ResultT]]:
    """``own`` of each rank; empty on ranks that are not to get them."""
    from torch import distributed

    empty: list[ResultT] = []
    found = [empty] * ranks.count
    if everywhere:
        distributed.all_gather_object(found, own)
        return found
    distributed.gather_object(own, found if ranks.is_main else None)
    return found if ranks.is_main else []
