"""What is computed of channels' sums between the passes over the maps, as numba functions.

Some thousand numbers, so that NumPy's calls cost more than what they compute: they were a seventh of a step at 32 px,
width 16 and batch 32.
Arithmetic is float64, so that a sum over segments loses nothing; sums are added in the order of the segments. What the
kernels of ``norm_numba`` and torch take is rounded to float32.

Of a BatchNorm, factor * x + term, ``mean``, ``inverse`` (of the standard deviation), ``factor`` and ``term`` are
float64 [C]. Sums of gradients are those of ``norm_numba.gradient_sums``, float64 [segments, 3, C].
"""

import numba
import numpy as np

from hrfr_fast.runtime.caches import numba_keeps_kernels

_jit = numba.njit(cache=numba_keeps_kernels(), nogil=True)


@_jit
def merged(mean, spread, pixels, all_pixels):
    """Mean and biased variance [C] of all segments together (Chan, Golub & LeVeque, COMPSTAT 1982).

    ``mean``, ``spread``: [segments, C], of each segment. Each has ``pixels`` pixels, the last what is left of all.
    """
    segments, channels = mean.shape
    whole, variance = np.zeros(channels), np.zeros(channels)
    for segment in range(segments):
        length = min(pixels, all_pixels - segment * pixels)
        for channel in range(channels):
            whole[channel] += length * mean[segment, channel]
    whole /= all_pixels
    for segment in range(segments):
        length = min(pixels, all_pixels - segment * pixels)
        for channel in range(channels):
            apart = mean[segment, channel] - whole[channel]
            variance[channel] += spread[segment, channel] + length * apart * apart
    return whole, variance / all_pixels


@_jit
def move_running(running_mean, running_var, mean, variance, pixels, momentum):
    """Move the running statistics, float32 [C], as torch does: the variance without bias."""
    for channel in range(len(mean)):
        unbiased = variance[channel] * (pixels / (pixels - 1))
        running_mean[channel] = (1 - momentum) * running_mean[channel] + momentum * mean[channel]
        running_var[channel] = (1 - momentum) * running_var[channel] + momentum * unbiased


@_jit
def line(mean, variance, weight, bias, eps):
    """``inverse``, ``factor`` and ``term``; and mean, factor and term as the kernels take them, float32 [3, 1, C]."""
    channels = len(mean)
    inverse, factor, term = np.empty(channels), np.empty(channels), np.empty(channels)
    narrow = np.empty((3, 1, channels), np.float32)
    for channel in range(channels):
        inverse[channel] = 1.0 / np.sqrt(variance[channel] + eps)
        factor[channel] = weight[channel] * inverse[channel]
        term[channel] = bias[channel] - mean[channel] * factor[channel]
        narrow[0, 0, channel] = mean[channel]
        narrow[1, 0, channel] = factor[channel]
        narrow[2, 0, channel] = term[channel]
    return inverse, factor, term, narrow


@_jit
def gradients(sums, pixels, training, mean, inverse, factor):
    """Of the gradient by maps what passes through mean and variance (Ioffe & Szegedy, ICML 2015, section 3), its linear
    and its constant part, float32 [1, C] each; and the gradients by BN's weight and bias and PReLU's slope, float32
    [3, C].

    ``pixels``: of all segments together. ``training``: whether mean and variance were those of the maps.
    """
    channels = sums.shape[2]
    linear, constant = np.zeros((1, channels), np.float32), np.zeros((1, channels), np.float32)
    totals, by_layers = np.zeros((3, channels)), np.empty((3, channels), np.float32)
    for segment in range(len(sums)):
        for which in range(3):
            for channel in range(channels):
                totals[which, channel] += sums[segment, which, channel]
    for channel in range(channels):
        by_layers[0, channel] = totals[1, channel] * inverse[channel]
        by_layers[1, channel] = totals[0, channel]
        by_layers[2, channel] = totals[2, channel]
        if training:
            slope = -factor[channel] * inverse[channel] * inverse[channel] * totals[1, channel] / pixels
            linear[0, channel] = slope
            constant[0, channel] = -factor[channel] * totals[0, channel] / pixels - slope * mean[channel]
    return linear, constant, by_layers


@_jit
def pooled(means, factor, term):
    """BN's mean over each image's pixels, float32 [B, C]. ``means``: those of the maps, [B, C]."""
    out = np.empty(means.shape, np.float32)
    for image in range(len(means)):
        for channel in range(len(factor)):
            out[image, channel] = means[image, channel] * factor[channel] + term[channel]
    return out


@_jit
def gated_line(gate, factor, term):
    """``factor`` and ``term`` times each image's gate, float32 [B, C] both. ``gate``: float32 [B, C]."""
    factors, terms = np.empty(gate.shape, np.float32), np.empty(gate.shape, np.float32)
    for image in range(len(gate)):
        for channel in range(len(factor)):
            factors[image, channel] = factor[channel] * gate[image, channel]
            terms[image, channel] = term[channel] * gate[image, channel]
    return factors, terms


@_jit
def gradient_by_gate(sums, factor, bias):
    """float32 [B, C]. ``sums``: over each image's pixels."""
    out = np.empty((len(sums), len(factor)), np.float32)
    for image in range(len(sums)):
        for channel in range(len(factor)):
            out[image, channel] = sums[image, 1, channel] * factor[channel] + sums[image, 0, channel] * bias[channel]
    return out


@_jit
def through_gate(sums, gate, by_mean, means, mean):
    """Make of ``sums``, over each image's pixels, those of the gradient by BN's result: through the gate, and through
    each image's mean of it, by which the gradient is ``by_mean``, float32 [B, C]."""
    for image in range(len(sums)):
        for channel in range(len(mean)):
            more, factor = by_mean[image, channel], gate[image, channel]
            apart = means[image, channel] - mean[channel]
            sums[image, 0, channel] = sums[image, 0, channel] * factor + more
            sums[image, 1, channel] = sums[image, 1, channel] * factor + more * apart


@_jit
def gated_gradient(gate, by_mean, factor, linear, constant, pixels):
    """``scale``, ``linear`` and ``constant`` of the gradient by each image's maps, float32 [B, C] each.

    ``linear``, ``constant``: as ``gradients`` returns them. ``pixels``: of an image.
    """
    scales, linears = np.empty(gate.shape, np.float32), np.empty(gate.shape, np.float32)
    constants = np.empty(gate.shape, np.float32)
    for image in range(len(gate)):
        for channel in range(len(factor)):
            scales[image, channel] = factor[channel] * gate[image, channel]
            linears[image, channel] = linear[0, channel]
            constants[image, channel] = constant[0, channel] + factor[channel] * by_mean[image, channel] / pixels
    return scales, linears, constants
