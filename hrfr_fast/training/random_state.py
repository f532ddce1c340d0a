"""Torch's random numbers of a run: dropout and stochastic depth draw them, and each rank draws its own.

Order, augmentation and initial weights do not: they are functions of integers, the same on every rank.
"""

from collections.abc import Mapping
from typing import Any

import torch

from hrfr_fast.runtime.philox import RANKS, philox
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.training.data_parallel import DataParallel


def separate_random_numbers(ranks: Ranks, seed: int, step: int) -> None:
    """From here on each rank draws numbers of its own; rank 0 goes on with what it has, as a process alone does."""
    if not ranks.is_main:
        words = philox(seed, step, ranks.rank, purpose=RANKS)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def gathered_random_state(parallel: DataParallel) -> dict[str, Any]:
    """The generators' states for a checkpoint: of rank 0, and those of all ranks where there are several."""
    states = {"random": torch.get_rng_state()}
    if parallel.device.type == "cuda":
        states["random_cuda"] = torch.cuda.get_rng_state()
    if parallel.ranks.distributed:
        states |= {f"{name}_of_ranks": parallel.of_all(state) for name, state in states.items()}
    return states


def restore_random_state(parallel: DataParallel, state: Mapping[str, Any], seed: int) -> None:
    """Go on with the numbers of a checkpoint; ranks that were not there when it was written begin with new ones."""
    ranks, on_cuda = parallel.ranks, parallel.device.type == "cuda"
    known = state.get("random_of_ranks", ())
    separate_random_numbers(ranks, seed, state["step"])
    if ranks.is_main:
        torch.set_rng_state(state["random"].cpu())
        if on_cuda and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu())
    elif len(known) == ranks.count:
        torch.set_rng_state(known[ranks.rank].cpu().clone())  # torch 2.13 reads a view from where its storage begins
        if on_cuda and "random_cuda_of_ranks" in state:
            torch.cuda.set_rng_state(state["random_cuda_of_ranks"][ranks.rank].cpu().clone())
