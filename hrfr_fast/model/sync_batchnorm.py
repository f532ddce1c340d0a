"""BatchNorm whose statistics are those of all ranks' samples together, on CPUs (gloo) as on GPUs (nccl).

torch's own SyncBatchNorm refuses CPUs. In float32 n ranks with a share of a batch each compute what one computes on
the whole batch: outputs, gradients and running statistics.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm

from hrfr_fast.model.peers import Peers

Module = nn.Module


def convert_sync_batchnorm(module: nn.Module, group: ProcessGroup | None = None) -> nn.Module:
    """``module`` itself, its BatchNorm1d and BatchNorm2d layers synchronised over ``group`` from now on.

    Parameters, buffers and state-dict keys stay, and layers remain instances of the class that they were of. A layer
    in evaluation mode, and every layer where there is one rank, computes what it did before, to the bit.

    Args:
        module: converted in place.
        group: None: the default group, which has to be initialised before this call.

    Raises on the first forward pass in training ValueError, where all ranks together have one value a channel.
    """
    peers = Peers(group)
    for layer in module.modules():
        if type(layer) in _SYNCHRONISED:
            layer.__class__ = _SYNCHRONISED[type(layer)]  # as torch does with lazy modules: nothing else changes
            cast(_Synchronised, layer).peers = peers
    return module


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """What both classes have in common: the forward pass in training."""

    peers: Peers

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] of any float type, with the same C on all ranks and any N; the same shape and type."""
        if not self.training or self.peers.count == 1:
            return super().forward(input)
        self._check_input_dim(input)
        momentum = self._step_of_statistics()
        mean, var = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        if input.device.type == "cuda":  # kernels that read 16-bit input once; they exist for CUDA alone
            arguments = (self.weight, self.bias, mean, var, self.eps, momentum, self.peers.group or _default_group())
            return cast(Tensor, SyncBatchNorm.apply(input, *arguments, self.peers.count))
        return cast(Tensor, _Normalise.apply(input, self.weight, self.bias, mean, var, self.eps, momentum, self.peers))

    def _step_of_statistics(self) -> float:
        """By which share the running statistics move; counts the batch."""
        if not self.track_running_stats:
            return 0.0
        if self.num_batches_tracked is not None:  # None while activations are recomputed
            self.num_batches_tracked.add_(1)
        if self.momentum is None:  # the average of all batches
            return 1.0 / float(self.num_batches_tracked or 1)
        return self.momentum


class SyncBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """BatchNorm1d over the samples of all ranks."""


class SyncBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """BatchNorm2d over the samples of all ranks."""


_SYNCHRONISED: dict[type[Module], type[_Synchronised]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
}


def _default_group() -> ProcessGroup:
    group = torch.distributed.group.WORLD
    assert group is not None, "there are several ranks"
    return group


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics of all ranks; sums in float32, whatever the input's type.

    Ranks exchange each one's mean, sum of squared deviations and count, and not sums of squares, whose difference
    loses the variance of values far from 0. They are combined as in Chan, Golub & LeVeque, "Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances" (1979), in the same order on each rank.
    """

    @staticmethod
    def forward(
        context: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None,
        running_mean: Tensor | None, running_var: Tensor | None, eps: float, momentum: float, peers: Peers,
    ) -> Tensor:  # fmt: skip
        mean, var, total = _statistics(input, peers)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (total / (total - 1))).to(running_var.dtype), momentum)
        context.save_for_backward(input, weight, mean, torch.rsqrt(var + eps))
        context.peers, context.total = peers, total
        return functional.batch_norm(input, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, inverse = context.saved_tensors
        gradient, axes = gradients[0].float(), [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        normalised = (input.float() - mean.view(shape)).mul_(inverse.view(shape))
        sums = torch.stack([gradient.sum(axes), (gradient * normalised).sum(axes)])
        by_bias, by_weight = sums  # of this rank's samples: whoever averages gradients over ranks does it for these too
        if context.needs_input_grad[0]:
            means = context.peers.sum(sums.clone()) / context.total
            gradient = normalised.mul_(means[1].neg().view(shape)).add_(gradient).sub_(means[0].view(shape))
            gradient = gradient.mul_((inverse if weight is None else inverse * weight).view(shape)).to(input.dtype)
        wanted = zip((gradient, by_weight, by_bias), context.needs_input_grad, strict=False)
        return (*(value if needed else None for value, needed in wanted), None, None, None, None, None)


def _statistics(input: Tensor, peers: Peers) -> tuple[Tensor, Tensor, float]:
    """Mean and variance (of the population) of each channel over all ranks, float32 [C], and the values of each."""
    axes = [axis for axis in range(input.ndim) if axis != 1]
    count = input.numel() // input.shape[1]
    var, mean = torch.var_mean(input.float(), axes, correction=0)
    every = peers.gather(torch.cat([mean, var * count, mean.new_full((1,), count)]))
    means, squares, counts = every[:, : len(mean)], every[:, len(mean) : -1], every[:, -1:]
    total = float(counts.sum())
    if total < 2:
        raise ValueError(f"BatchNorm in training needs 2 values a channel; {peers.count} ranks have {total:.0f} in all")
    mean = (means * counts).sum(0) / total
    var = (squares + counts * (means - mean).square()).sum(0) / total
    return mean, var, total
