"""What keeps the ranks of a run equal: averaged gradients, losses and statistics. One rank alone pays nothing for it.

Gradients go through torch's DistributedDataParallel: in buckets, each sent as soon as the backward pass has filled it,
while the rest of the pass goes on.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.settings import TrainSettings

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel

BUCKET_MIB = 25  # torch's default; the gradients of ir18 are four of them, of ir100 ten


class DataParallel:
    """The exchanges of training between ``ranks``, over torch.distributed's default group.

    Every method is to be called by all ranks, in the same order; with one rank each does nothing.

    Args:
        ranks: this one's place.
        device: of this rank.
        allreduce: number format of the exchanged gradients, fp32 or bf16. Sums are made in it.
    """

    def __init__(self, ranks: Ranks = ALONE, device: torch.device | None = None, allreduce: str = "fp32") -> None:
        self.ranks, self.device, self.allreduce = ranks, device or torch.device("cpu"), allreduce

    # ---- gradients ------------------------------------------------------------------------------------------------

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module`` with its gradients averaged over ranks at the end of each backward pass.

        Wrapped anew whenever parameters are frozen or released: torch waits for each that trained when it was wrapped.
        A module that trains nothing, or says that its parameters are this rank's alone (``sharded``), is returned.
        """
        trains = any(parameter.requires_grad for parameter in module.parameters())
        if not self.ranks.distributed or not trains or is_sharded(module):
            return module
        with self._side_stream():
            wrapped = _ddp(module)
        if self.allreduce == "bf16":
            wrapped.register_comm_hook(self.ranks, _mean_in_bf16)
        return wrapped

    def no_exchange(self, modules: Iterable[object]) -> AbstractContextManager[object]:
        """A context in which backward passes only add to gradients, for all but the last micro-batch of a step."""
        if not self.ranks.distributed:
            return nullcontext()
        stack = ExitStack()
        for module in modules:
            if isinstance(module, nn.parallel.DistributedDataParallel):
                stack.enter_context(module.no_sync())
        return stack

    @contextmanager
    def _side_stream(self) -> Iterator[None]:
        """Where DDP has to be built so that a CUDA graph can be captured of it (torch's notes on CUDA graphs)."""
        if self.device.type != "cuda":
            yield
            return
        side, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            yield
        current.wait_stream(side)

    # ---- numbers --------------------------------------------------------------------------------------------------

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks of ``values``, of a float type; in place."""
        if self.ranks.distributed:
            distributed.all_reduce(values)
            values /= self.ranks.count
        return values

    @torch.no_grad()
    def average_buffers(self, modules: Iterable[nn.Module]) -> None:
        """Replace the floating-point buffers of ``modules`` by their means over ranks, but for those of sharded ones.

        The running statistics of BatchNorm: each rank's are those of its own samples. They are averages of what was
        seen, so the mean over ranks is that of all samples, whenever it is taken. In float64, in which buffers that
        are equal on all ranks (frozen ones) stay what they are, to the bit.
        """
        parts = [part for module in modules for part in module.modules() if not getattr(part, "sharded", False)]
        buffers = [b for part in parts for b in part.buffers(recurse=False) if b.is_floating_point()]
        if not self.ranks.distributed or not buffers:
            return
        means = self.mean(torch.cat([buffer.double().reshape(-1) for buffer in buffers]))
        for buffer, value in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(value.view_as(buffer))

    def largest(self, numbers: list[int]) -> list[int]:
        """The largest of all ranks in each place."""
        if not self.ranks.distributed:
            return numbers
        values = torch.tensor(numbers)
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return [int(value) for value in values]

    def of_all(self, values: Tensor) -> Tensor:
        """[ranks, ...]: ``values``, in host memory, of every rank."""
        gathered = values.new_empty((self.ranks.count, *values.shape))
        if self.ranks.distributed:
            distributed.all_gather(list(gathered.unbind()), values)
        else:
            gathered[0] = values
        return gathered

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.ranks.distributed:
            distributed.all_reduce(torch.zeros(1))  # barrier() would take the GPU's group


def is_sharded(module: nn.Module) -> bool:
    """Whether a module in ``module`` holds parameters of this rank alone: it exchanges what it needs by itself."""
    return any(getattr(part, "sharded", False) for part in module.modules())


def synchronise(backbone: nn.Module, settings: TrainSettings, ranks: Ranks) -> None:
    """With ``sync_bn`` BatchNorm takes its statistics over the samples of all ranks; in place, weights stay."""
    if settings.model.sync_bn and ranks.distributed:
        from hrfr_fast.model.sync_batchnorm import convert_sync_batchnorm

        convert_sync_batchnorm(backbone)


def _mean_in_bf16(ranks: Ranks, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    """A bucket's mean over ranks, rounded before it is sent. (torch has such a hook, and refuses it without nccl.)"""
    gradients = bucket.buffer()
    sent = gradients.to(torch.bfloat16).div_(ranks.count)
    underway = distributed.all_reduce(sent, async_op=True).get_future()
    return underway.then(lambda done: gradients.copy_(done.value()[0]))


def _ddp(module: nn.Module) -> "DistributedDataParallel":
    """Buffers are not sent with every step: ``average_buffers`` does it where somebody looks at them."""
    # Said of 1x1 convolutions in channels-last, whose gradients differ in the strides of dimensions of one element.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has a new name for broadcast_buffers
        return nn.parallel.DistributedDataParallel(
            module, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MIB
        )
