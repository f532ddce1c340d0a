"""BatchNorm with what follows it, in few passes over the maps, on CPUs: two functions with gradients.

``normalise``: BN and the activation after it. ``gated_sum``: the last BN of a block, its squeeze-and-excitation gate
and the shortcut. Maps are channels-last, bfloat16 or float32. In passes over one map, forward and backward:

- ``normalise``: 1 (statistics) + 2; 2 (sums) + 3.
- ``gated_sum``: 1 (statistics and each image's means at once) + 3; 2 (sums) + 3. The gate is a factor a channel of an
  image, so gate and BN together are one factor and one term; and its gradient is a function of the same sums, taken for
  each image: with S1 = sum of g and S2 = sum of g (x - mean) over its pixels, it is weight * S2 / std + bias * S1.

BN + PReLU forward and backward on 16 x 16 x 144 x 144, one core with AVX-512: bfloat16 118 ms as torch does it, 11 ms
so; float32 100 ms and 15 ms (an Intel Xeon). torch's PReLU alone writes its slope's gradient as a whole map.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrfr_fast.model.kernels import channels_numba as channels
from hrfr_fast.model.kernels import cpu_launch as launch
from hrfr_fast.model.kernels.batch_norm import BatchNorm
from hrfr_fast.model.kernels.cpu_launch import Array, Narrow, Segments, channels_last


def normalise(
    maps: Tensor, norm: BatchNorm, slope: Tensor | None = None, *, bypass: bool = False
) -> tuple[Tensor, Tensor]:
    """prelu(BN(maps)), and ``maps`` again, to be used as a shortcut.

    Args:
        maps: [B, C, H, W].
        slope: of PReLU, [C]; zeros: ReLU; None: no activation.
        bypass: the second result is a way past the BN whose gradient is added in the same pass.

    Raises:
        ValueError: one value a channel in training, as torch does.
    """
    _refuse_single_values(maps, norm)
    made, passed = _Normalise.apply(maps, norm.weight, norm.bias, slope, norm, bypass)
    return made, passed if bypass else maps


def gated_sum(
    maps: Tensor, norm: BatchNorm, shortcut: Tensor, squeeze: Tensor | None = None, excite: Tensor | None = None
) -> Tensor:
    """gate * BN(maps) + shortcut.

    Args:
        maps, shortcut: [B, C, H, W], of one type.
        squeeze, excite: [hidden, C] and [C, hidden]; the gate is sigmoid(excite relu(squeeze mean)), mean that of
            BN(maps) over an image's pixels. None: no gate.

    Raises:
        ValueError: one value a channel in training, as torch does.
    """
    _refuse_single_values(maps, norm)
    made: Tensor = _GatedSum.apply(maps, norm.weight, norm.bias, shortcut, squeeze, excite, norm)
    return made


def _refuse_single_values(maps: Tensor, norm: BatchNorm) -> None:
    if norm.training and maps.numel() == maps.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(maps.shape)}")


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None, norm: BatchNorm, bypass: bool
    ) -> tuple[Tensor, Tensor | None]:
        rows = channels_last(maps)
        segments = launch.segments_of_batch(maps)
        line = _Line(norm, segments, launch.segment_moments(rows, segments) if norm.training else None)
        made = launch.normalised(rows, segments, line.factors, line.terms, slope)
        context.save_for_backward(rows, slope)
        context.line, context.segments = line, segments
        context.set_materialize_grads(False)
        return _maps(made), maps.view_as(maps) if bypass else None

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given, passed = gradients
        if given is None:
            return passed, *(None,) * 5
        rows, slope = context.saved_tensors
        line, segments, wanted = context.line, context.segments, context.needs_input_grad
        gradient, sums = channels_last(given), np.zeros((1, 3, len(line.factor)))
        if line.training or any(wanted[1:4]):
            sums = launch.gradient_sums(gradient, rows, segments, line.means, line.factors, line.terms, slope)
        linear, constant, by_norm = line.gradients(sums)
        by_maps = None
        if wanted[0]:
            by_maps = _maps(
                launch.gradient_by_maps(
                    gradient, rows, segments, line.factors, linear, constant, line.factors, line.terms, slope,
                    None if passed is None else channels_last(passed),
                )
            )  # fmt: skip
        return by_maps, by_norm[0], by_norm[1], None if slope is None else by_norm[2].to(slope.dtype), None, None


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor, squeeze: Tensor | None,
        excite: Tensor | None, norm: BatchNorm,
    ) -> Tensor:  # fmt: skip
        rows = channels_last(maps)
        segments = launch.segments_of_batch(maps) if squeeze is None else launch.segments_of_images(maps)
        found = launch.segment_moments(rows, segments) if norm.training or squeeze is not None else None
        line, inside = _Line(norm, segments, found if norm.training else None), None
        means = None if found is None else found[0]
        factors, terms = line.factors, line.terms
        if squeeze is not None and excite is not None and means is not None:
            inside = _Gate(torch.from_numpy(channels.pooled(means, line.factor, line.term)), squeeze, excite)
            factors, terms = channels.gated_line(inside.numbers, line.factor, line.term)
        made = launch.normalised(rows, segments, factors, terms, shortcut=channels_last(shortcut))
        context.save_for_backward(rows, squeeze, excite)
        context.line, context.segments, context.means, context.gate = line, segments, means, inside
        return _maps(made)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, squeeze, excite = context.saved_tensors
        line, segments, gate = context.line, context.segments, context.gate
        gradient = channels_last(gradients[0])
        sums = launch.gradient_sums(gradient, rows, segments, line.means, line.factors, line.terms)
        by_mean, by_gate = None, (None, None)
        if gate is not None:
            by_mean, *by_gate = gate.gradients(channels.gradient_by_gate(sums, line.factor, line.bias), squeeze, excite)
            channels.through_gate(sums, gate.numbers, by_mean, context.means, line.mean)
        linear, constant, by_norm = line.gradients(sums)
        by_maps, scale = None, line.factors
        if context.needs_input_grad[0]:
            if gate is not None:
                scale, linear, constant = channels.gated_gradient(
                    gate.numbers, by_mean, line.factor, linear, constant, segments.pixels
                )
            by_maps = _maps(
                launch.gradient_by_maps(
                    gradient, rows, segments, scale, linear, constant, line.factors, line.terms
                )
            )  # fmt: skip
        return by_maps, by_norm[0], by_norm[1], gradients[0], *by_gate, None


class _Line:
    """BN as a line for each channel: factor * x + term, and the gradients by what it is made of.

    Args:
        found: means and sums of squared deviations of each segment, by which it normalises and moves the running
            statistics; None: it normalises by those.
    """

    def __init__(self, norm: BatchNorm, segments: Segments, found: tuple[Array, Array] | None) -> None:
        self.norm, self.pixels, self.training = norm, segments.all_pixels, found is not None
        mean, variance = running = norm.running_mean.numpy(), norm.running_var.numpy()
        if found is not None:
            mean, variance = channels.merged(*found, segments.pixels, segments.all_pixels)
            channels.move_running(*running, mean, variance, segments.all_pixels, norm.momentum)
            if norm.counter is not None:
                norm.counter.add_(1)
        self.bias = norm.bias.detach().numpy()
        self.mean = mean.astype(np.float64)
        self.inverse, self.factor, self.term, narrow = channels.line(
            self.mean, variance, norm.weight.detach().numpy(), self.bias, norm.eps
        )
        self.means, self.factors, self.terms = narrow

    def gradients(self, sums: Array) -> tuple[Narrow, Narrow, Tensor]:
        """Linear and constant part, [1, C], of the gradient by maps that passes through mean and variance; and the
        gradients by BN's weight and bias and by the slope, [3, C]."""
        linear, constant, by_layers = channels.gradients(
            sums, self.pixels, self.training, self.mean, self.inverse, self.factor
        )
        return linear, constant, torch.from_numpy(by_layers)


class _Gate:
    """Squeeze-and-excitation of a batch: the gate of each image, and its gradients.

    Args:
        pooled: float32 [B, C], BN's mean over each image's pixels.
    """

    def __init__(self, pooled: Tensor, squeeze: Tensor, excite: Tensor) -> None:
        with torch.autocast("cpu", enabled=False):
            self.pooled = pooled
            self.hidden = (pooled @ squeeze.t()).relu_()
            self.gate = (self.hidden @ excite.t()).sigmoid_()
        self.numbers = self.gate.numpy()

    def gradients(self, by_gate: Narrow, squeeze: Tensor, excite: Tensor) -> tuple[Narrow, Tensor, Tensor]:
        """Gradients by ``pooled`` (times pixels: by each pixel's value, summed), by ``squeeze`` and by ``excite``."""
        with torch.autocast("cpu", enabled=False):
            by_excited = torch.from_numpy(by_gate) * self.gate * (1 - self.gate)
            by_hidden = (by_excited @ excite) * (self.hidden > 0)
            by_pooled = by_hidden @ squeeze
            return by_pooled.numpy(), by_hidden.t() @ self.pooled, by_excited.t() @ self.hidden


def _maps(rows: Tensor) -> Tensor:
    """[B, H, W, C] as channels-last [B, C, H, W]."""
    return rows.permute(0, 3, 1, 2)
