"""The ranks that compute one result together, and the exchanges between them that layers and heads need."""

from typing import Any, Self

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp


class Peers:
    """The ranks of a process group, which may be a single one: exchanges then return what they were given.

    All ranks have to call the same exchanges in the same order, with tensors of the same shape and type. A copy of a
    module shares its peers: a process group cannot be copied.

    Args:
        group: None: the default group; where torch.distributed is not initialised, this process alone.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.group = group
        self.count, self.rank = 1, 0
        if distributed.is_available() and distributed.is_initialized():
            self.count, self.rank = distributed.get_world_size(group), distributed.get_rank(group)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, written to ``tensor``."""
        if self.count > 1:
            distributed.all_reduce(tensor, ReduceOp.SUM, group=self.group)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The largest of all ranks in each place, written to ``tensor``."""
        if self.count > 1:
            distributed.all_reduce(tensor, ReduceOp.MAX, group=self.group)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """[ranks, ...]: the tensors of all ranks, in the order of the ranks."""
        if self.count == 1:
            return tensor[None]
        gathered = tensor.new_empty((self.count, *tensor.shape))
        distributed.all_gather(list(gathered.unbind()), tensor.contiguous(), group=self.group)
        return gathered

    def sum_of_own(self, tensor: Tensor) -> Tensor:
        """[...]: of ``tensor`` [ranks, ...], one part for each rank, the sum over ranks of this rank's part."""
        if self.count == 1:
            return tensor[0].clone()
        own = torch.empty_like(tensor[0])
        distributed.reduce_scatter(own, list(tensor.contiguous().unbind()), group=self.group)
        return own

    def to_first(self, tensor: Tensor, rank: int) -> None:
        """Copy ``tensor``, in host memory, from ``rank`` to rank 0; to be called by these two."""
        if self.rank:
            distributed.send(tensor, self._global(0), group=self.group)
        else:
            distributed.recv(tensor, self._global(rank), group=self.group)

    def _global(self, rank: int) -> int:
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)
