"""BatchNorm with what follows it, as the GPU's kernels compute it: two functions with gradients.

``normalise``: BN and the activation after it. ``gated_sum``: the last BN of a block, its squeeze-and-excitation gate
and the shortcut. Maps are channels-last, bfloat16, float16 or float32 (float64 in tests); all sums, statistics and
gradients of weights are float32. They move as few maps as can be, in units of one map, forward and backward:

- ``normalise``: 1 (statistics, unless those who wrote the maps measured them) + 2; 2 (sums) + 3.
- ``gated_sum``: 1 (statistics and each image's means at once) + 3; 2 (sums) + 3. The gate's gradient is a function of
  the same sums, taken for each image: with S1 = sum of g and S2 = sum of g (x - mean) over an image's pixels, it is
  weight * S2 / std + bias * S1, so squeeze-and-excitation needs no reading of its own.

torch's own operations move 1 + 2 and 2 + 3 for a BN, 2 and 3 or more for its activation, 2 for the gate's means and 3
for its product, 3 for the sum, and as much again backward; PReLU's slope takes a map of float32 besides.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrfr_fast.model.kernels import norm_launch as launch
from hrfr_fast.model.kernels.batch_norm import BatchNorm
from hrfr_fast.model.kernels.gate import Gate, gate_gradients, gates
from hrfr_fast.model.kernels.norm_launch import Norm, Running, Statistics, as_rows


def normalise(
    maps: Tensor, norm: BatchNorm, activation: str = "none", slope: Tensor | None = None,
    known: Statistics | None = None, *, measure: bool = False, bypass: int = 0,
) -> tuple[Tensor, Tensor, Statistics | None]:  # fmt: skip
    """activation(BN(maps)); a view of ``maps``, to be used as a shortcut; and the statistics of what was made.

    Args:
        maps: [B, C, H, W].
        activation: none, relu, or prelu with ``slope`` [C].
        known: the statistics of ``maps``, where whoever wrote them measured them.
        measure: measure the result for the BN after it.
        bypass: the second result is a way past the BN, of every ``bypass``-th line and pixel, whose gradient is added
            in the same pass; 0: it is ``maps``.

    Raises:
        ValueError: one value a channel in training, as torch does.
    """
    if norm.training and maps.numel() == maps.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(maps.shape)}")
    made, passed, means, squares = _Normalise.apply(
        maps, norm.weight, norm.bias, slope, norm, activation, known, measure, bypass
    )
    following = Statistics(means, squares, launch.groups_of_batch(_shaped(made), launch.PROGRAMS)) if measure else None
    return made, passed if bypass else maps, following


def gated_sum(
    maps: Tensor, norm: BatchNorm, shortcut: Tensor, squeeze: Tensor | None = None, excite: Tensor | None = None,
    factor: Tensor | None = None, *, measure: bool = False,
) -> tuple[Tensor, Statistics | None]:  # fmt: skip
    """gate * BN(maps) + shortcut, and its statistics.

    Args:
        maps, shortcut: [B, C, H, W]; the shortcut may be every so-many-th line and pixel of larger maps.
        squeeze, excite: [hidden, C] and [C, hidden]; the gate is sigmoid(excite relu(squeeze mean)), mean that of
            BN(maps) over an image's pixels, in float32. None: no gate.
        factor: [B], the whole residual branch's, without gradient (stochastic depth); None: 1.
        measure: measure the result for the BN after it.

    Raises:
        ValueError: one value a channel in training, as torch does.
    """
    if norm.training and maps.numel() == maps.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(maps.shape)}")
    made, means, squares = _GatedSum.apply(
        maps, norm.weight, norm.bias, shortcut, squeeze, excite, factor, norm, measure
    )
    groups = launch.groups_of_batch(_shaped(made), launch.PROGRAMS)
    return made, Statistics(means, squares, groups) if measure else None


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None, norm: BatchNorm,
        activation: str, known: Statistics | None, measure: bool, bypass: int,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        rows = as_rows(maps)
        if known is None and norm.training:
            known = launch.statistics(rows, launch.groups_of_batch(rows, launch.PROGRAMS))
        numbers = numbers_of(norm, known)
        made, following = launch.normalised(rows, numbers, activation, slope, measure=measure)
        context.save_for_backward(rows, *numbers, slope)
        context.activation, context.training, context.step = activation, norm.training, bypass
        context.set_materialize_grads(False)
        found = (following.means, following.squares) if following else (None, None)
        if following:
            context.mark_non_differentiable(*found)
        return _maps(made), maps[:, :, ::bypass, ::bypass] if bypass else None, *found

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, mean, inverse_std, weight, bias, slope = context.saved_tensors
        if gradients[0] is None:
            return _spread(gradients[1], rows, context.step), *(None,) * 8
        numbers, activation = Norm(mean, inverse_std, weight, bias), context.activation
        gradient = as_rows(gradients[0])
        bypass = None if gradients[1] is None else as_rows(gradients[1])
        wanted, sums = context.needs_input_grad, None
        if any(wanted[1:4]) or context.training:
            groups = launch.groups_of_batch(rows, launch.PROGRAMS)
            partial = launch.gradient_sums(rows, gradient, numbers, groups, activation, slope)
            sums = launch.totals_of(partial, inverse_std)
        by_maps = None
        if wanted[0]:
            totals = sums if context.training else None
            by_maps = _maps(
                launch.map_gradient(
                    rows, gradient, numbers, totals, activation, slope, bypass=bypass, step=max(1, context.step)
                )
            )
        if sums is None:
            return by_maps, *(None,) * 8
        by_slope = sums[2].to(slope.dtype) if activation == "prelu" else None
        return by_maps, sums[-1].to(weight.dtype), sums[0].to(bias.dtype), by_slope, *(None,) * 5


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor, squeeze: Tensor | None,
        excite: Tensor | None, factor: Tensor | None, norm: BatchNorm, measure: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        rows = as_rows(maps)
        gated = squeeze is not None or factor is not None
        groups = launch.groups_of_images(rows) if gated else launch.groups_of_batch(rows, launch.PROGRAMS)
        found = launch.statistics(rows, groups) if norm.training or squeeze is not None else None
        numbers = numbers_of(norm, found)
        gate: Tensor | None = None
        inside: tuple[Tensor, ...] = ()
        if squeeze is not None and excite is not None and found is not None:
            inside = gates(found, numbers, squeeze, excite)
            gate = inside[-1]
        if factor is not None:
            whole = factor.to(launch.sum_type(rows))[:, None]
            gate = whole.expand(-1, rows.shape[-1]).contiguous() if gate is None else gate * whole
        made, following = launch.normalised(rows, numbers, gate=gate, shortcut=_shaped(shortcut), measure=measure)
        context.save_for_backward(rows, *numbers, squeeze, excite, factor, gate, *inside)
        context.training, context.groups = norm.training, groups
        context.set_materialize_grads(False)
        measured = (following.means, following.squares) if following else (None, None)
        if following:
            context.mark_non_differentiable(*measured)
        return _maps(made), *measured

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, mean, inverse_std, weight, bias, squeeze, excite, factor, gate, *inside = context.saved_tensors
        if gradients[0] is None:
            return (None,) * 9
        numbers, wanted = Norm(mean, inverse_std, weight, bias), context.needs_input_grad
        gradient, groups = as_rows(gradients[0]), context.groups
        totals, pooled = None, None
        by_gate: tuple[Tensor | None, ...] = (None, None)
        if context.training or any(wanted[1:3]) or any(wanted[4:6]) or squeeze is not None:
            sums = launch.gradient_sums(rows, gradient, numbers, groups)
            if squeeze is not None:
                found = gate_gradients(sums, groups.splits, numbers, squeeze, excite, factor, Gate(*inside))
                sums, pooled, by_gate = found.totals, found.pooled, (found.squeeze, found.excite)
            elif gate is not None:
                sums = sums.view(2, groups.images, groups.splits, -1).sum(2) * gate
            totals = launch.totals_of(sums, inverse_std)
        by_maps = None
        if wanted[0]:
            in_batch = totals if context.training else None
            by_maps = _maps(launch.map_gradient(rows, gradient, numbers, in_batch, gate=gate, pooled=pooled))
        by_norm: tuple[Tensor | None, ...] = (None, None)
        if totals is not None:
            by_norm = totals[-1].to(weight.dtype), totals[0].to(bias.dtype)
        return by_maps, *by_norm, gradients[0] if wanted[3] else None, *by_gate, None, None, None


def numbers_of(norm: BatchNorm, found: Statistics | None) -> Norm:
    """What the batch is normalised with: its own statistics in training, which move the running ones."""
    if norm.training and found is not None:
        running = Running(norm.running_mean, norm.running_var, norm.counter, norm.momentum)
        return Norm(*launch.merged(found, norm.eps, running), norm.weight, norm.bias)
    return Norm(norm.running_mean, (norm.running_var + norm.eps).rsqrt(), norm.weight, norm.bias)


def _maps(rows: Tensor) -> Tensor:
    """[B, H, W, C] as channels-last [B, C, H, W]."""
    return rows.permute(0, 3, 1, 2)


def _spread(gradient: Tensor | None, rows: Tensor, step: int) -> Tensor | None:
    """The gradient by maps of the shape of ``rows`` from that by their every ``step``-th line and pixel."""
    if gradient is None or step == 1:
        return gradient
    whole = _maps(torch.zeros_like(rows))
    whole[:, :, ::step, ::step] = gradient
    return whole


def _shaped(maps: Tensor) -> Tensor:
    """A view of maps whose shape is that of their rows."""
    return maps.permute(0, 2, 3, 1)
