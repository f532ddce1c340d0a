"""Partial FC: a step compares a sample with its own class and a random share of the others (An et al., CVPR 2022).

Class c takes part in step t where a label of the global batch is c, or where Philox word (seed, t, c) is below
rate * 2^32: each other class with probability ``rate``, by itself. So the set depends on seed, step, the number of
classes and the batch's labels alone, not on ranks, devices or earlier steps.

What takes part has a place in a block of fixed size (CUDA graphs, compiled kernels and buffers need it): room for the
mean number of drawn classes, six standard deviations and every label of the batch. Places that are left over hold
classes that are masked out and stay as they are. Where more are drawn than fit, which happens once in 10^9 steps, those
with the highest words stay away.

Rows of classes that do not take part are not updated: no gradient, no weight decay, no step by their momentum, which
they keep, as in the paper's algorithm. ``weight`` is then a buffer, and the optimiser trains ``sampled``, a copy of the
rows that take part: C rows of weight and momentum are kept and only the block's rows of gradient.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hrfr_fast.model.class_shards import ClassShard
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import CLASS_SAMPLING
from hrfr_fast.sampling.sampler_torch import philox_words

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hrfr_fast.model.heads import MarginHead

ALL_ROWS = "all_rows."
"""Prefix of the optimiser's entries for the sampled rows that hold a number for each row there is."""


class ClassSampling:
    """Which rows of a head take part in a step. See the module's text.

    Args:
        rate: in (0, 1), the probability of a class that no sample of the batch has.
        seed: of the run.
        batch: samples of a step on all ranks together.
    """

    def __init__(self, rate: float, seed: int, batch: int) -> None:
        self.rate, self.seed, self.batch = rate, seed, batch

    def places(self, rows: int) -> int:
        """Size of the block for a head of ``rows`` rows."""
        drawn, deviation = rows * self.rate, math.sqrt(rows * self.rate * (1 - self.rate))
        return min(rows, math.ceil(drawn + 6 * deviation) + min(self.batch, rows))

    def choose(self, head: "MarginHead", labels: Tensor, step: int | Tensor) -> None:
        """Fill the block for a step; ``labels``: int64 [B] of this rank's samples, all micro-batches of the step."""
        shard, block = _shard(head), head.get_buffer("sampled_rows")
        own = shard.peers.gather(labels).flatten() - shard.rows.start
        words = class_words(self.seed, step, shard.rows, labels.device)
        outside = (own < 0) | (own >= len(shard.rows))
        words = torch.cat([words, words[:1]])  # one more place, for labels of other ranks
        words[torch.where(outside, len(shard.rows), own)] = -1
        chosen = words[:-1].topk(len(block), largest=False, sorted=False).indices.sort().values
        block.copy_(chosen)
        head.get_buffer("left_out").copy_(words[chosen] >= round(self.rate * 2**32))

    @staticmethod
    def weight_and_left_out(head: "MarginHead") -> tuple[Tensor, Tensor]:
        """The block's class vectors, and which of them take no part."""
        return head.get_parameter("sampled"), head.get_buffer("left_out")

    @staticmethod
    def columns(head: "MarginHead", own: Tensor) -> Tensor:
        """Place in the block of rows ``own``; -1 for those of other ranks."""
        block = head.get_buffer("sampled_rows")
        place = torch.searchsorted(block, own).clamp_(max=len(block) - 1)
        return torch.where(block[place] == own, place, -1)

    # ---- the rows' way to the optimiser and back -----------------------------------------------------------------

    @staticmethod
    @torch.no_grad()
    def take_rows(head: "MarginHead", optimizer: "Optimizer") -> None:
        """Copy the block's rows, and what the optimiser knows of them, to where it trains them."""
        block = head.get_buffer("sampled_rows")
        for all_rows, sampled in _tensors(head, optimizer):
            torch.index_select(all_rows, 0, block, out=sampled.detach())

    @staticmethod
    @torch.no_grad()
    def put_rows(head: "MarginHead", optimizer: "Optimizer") -> None:
        """Copy them back after the optimiser's step, but for those that took no part."""
        block, left_out = head.get_buffer("sampled_rows"), head.get_buffer("left_out")[:, None]
        for all_rows, sampled in _tensors(head, optimizer):
            all_rows.index_copy_(0, block, torch.where(left_out, all_rows[block], sampled))


def class_words(seed: int, step: int | Tensor, classes: range, device: torch.device) -> Tensor:
    """int64 [n] in [0, 2**32): a random word for each class of a range; four classes share a Philox call."""
    first = classes.start // 4
    calls = torch.arange(first, -(-classes.stop // 4), device=device)
    words = philox_words(seed, torch.as_tensor(step, device=device), calls, purpose=CLASS_SAMPLING)
    return torch.stack(words, dim=1).flatten()[classes.start - 4 * first :][: len(classes)]


def sample_classes(head: "MarginHead", sampling: ClassSampling) -> None:
    """From now on only some classes of ``head`` take part in a step; to be called before it has an optimiser.

    Raises UsageError for a rate out of range.
    """
    shard, weight = _shard(head), head.weight.detach()
    if not 0 < sampling.rate < 1:
        raise UsageError(f"partial_fc is {sampling.rate}; a share of the classes is above 0 and below 1")
    places = sampling.places(len(weight))
    del head.weight
    head.register_buffer("weight", weight)
    head.sampled = nn.Parameter(weight[:places].clone())
    head.register_buffer("sampled_rows", torch.arange(places, device=weight.device), persistent=False)
    head.register_buffer("left_out", torch.zeros(places, dtype=torch.bool, device=weight.device), persistent=False)
    head.register_state_dict_post_hook(_without_sampled)
    head.register_load_state_dict_post_hook(_needs_no_sampled)
    shard.sampling = sampling


def rows_by_plain_names(head: "MarginHead", optimizer: "Optimizer") -> dict[str, Any]:
    """The optimiser's state dict with a number for each row under the optimiser's own names: as without sampling."""
    _tensors(head, optimizer)  # makes those that are still to be made
    state = optimizer.state_dict()
    number = {id(p): n for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    own = number.get(id(head.get_parameter("sampled")))
    if own in state["state"]:
        entries = dict(state["state"][own])
        names = [name for name in entries if name.startswith(ALL_ROWS)]
        entries |= {name.removeprefix(ALL_ROWS): entries.pop(name) for name in names}
        state["state"] = state["state"] | {own: entries}
    return state


def sampled_names(head: "MarginHead", entries: dict[str, Any]) -> dict[str, Any]:
    """The reverse, for the entries of the head's rows."""
    sampled = head.get_parameter("sampled")
    rows = {name: value for name, value in entries.items() if isinstance(value, Tensor) and value.ndim == 2}
    blocks = {name: value.new_zeros(sampled.shape) for name, value in rows.items()}
    return entries | blocks | {ALL_ROWS + name: value for name, value in rows.items()}


def _shard(head: "MarginHead") -> ClassShard:
    assert head.shard is not None, "a head whose classes are sampled knows which rows it has"
    return head.shard


def _tensors(head: "MarginHead", optimizer: "Optimizer") -> list[tuple[Tensor, Tensor]]:
    """(all rows, the block's rows) of the weight and of every momentum that the optimiser keeps by now."""
    sampled = head.get_parameter("sampled")
    state: dict[str, Any] = optimizer.state[sampled] if sampled.requires_grad else {}
    for name in [name for name, value in state.items() if value.shape == sampled.shape and ALL_ROWS not in name]:
        if ALL_ROWS + name not in state:
            state[ALL_ROWS + name] = state[name].new_zeros(head.weight.shape)
    pairs = [(value, state[name.removeprefix(ALL_ROWS)]) for name, value in state.items() if name.startswith(ALL_ROWS)]
    return [(head.weight, sampled), *pairs]


def _without_sampled(head: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    del state[f"{prefix}sampled"]


def _needs_no_sampled(head: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.endswith("sampled")]
