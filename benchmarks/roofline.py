"""Roofline of a training step: the least time that its operations and unavoidable memory traffic take.

Each operation of IR-SE-18 (forward and backward), of the head and of the optimiser is listed with its floating-point
operations and with the bytes that it must move through device memory; the floor is the sum over operations of the
larger of compute time and memory time (Williams et al., "Roofline", CACM 2009), against two *measured* ceilings.

What counts as unavoidable: every convolution reads its input and writes its output once. BatchNorm needs its input
twice, since nothing can be normalised before the batch's statistics are known; the second pass carries what is
elementwise after it (PReLU, or the SE gate, the shortcut and the sum). Statistics could be taken by the convolution
that writes the maps, and the normalised maps need not be written where the next convolution normalises as it reads:
no library's convolution does either, so both passes count. The squeeze's means follow from the sums that the
statistics are made of. Activations are 16 bits, the head's logits and all weights, gradients and momenta 32.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.model.backbones.improved_resnet import REDUCTION

BLOCKS_PER_WIDTH = 2

WEIGHT = 4  # bytes of a weight, its gradient or momentum
LOGIT = 4


class Operation(NamedTuple):
    """One operation of a step: its kind, its place, and what the whole batch costs."""

    kind: str
    place: str
    flops: float
    """Floating-point operations, 2 a multiply-add; of convolutions and matrix products alone."""
    bytes: float
    """Bytes read and written in device memory."""


def step_operations(
    settings: BackboneSettings, classes: int, batch_size: int, *, activation_bytes: int = 2
) -> list[Operation]:
    """Every operation of one training step, forward and backward, in the forward's order.

    Args:
        settings: the backbone's shape.
        classes: rows of the head's matrix; 0: no head.
        batch_size: images a step; weights, head and optimiser do not grow with it.
        activation_bytes: of one number in a feature map: 2 for bf16 and fp16, 4 for float32.
    """
    maps = batch_size * activation_bytes
    side, channels = settings.input_size, settings.width
    operations = [
        *_convolution("stem", 3, channels, 9, side, side, batch_size, maps, gradient_of_input=False),
        *_normalisation("stem", channels * side**2, maps),
    ]
    weights = 27 * channels + 2 * channels
    for stage in range(4):
        for number in range(BLOCKS_PER_WIDTH):
            width, stride = settings.width << stage, 2 if number == 0 else 1
            block = f"block {stage + 1}.{number + 1}"
            operations += _block(block, channels, width, side, side // stride, batch_size, maps)
            weights += _block_weights(channels, width)
            side, channels = side // stride, width
    features = channels * side**2
    operations += _normalisation("output", features, maps)
    operations += _product("output", "linear", batch_size, features, settings.embedding_size, activation_bytes)
    weights += 2 * channels + (features + 3) * settings.embedding_size
    if classes:
        operations += _head(classes, settings.embedding_size, batch_size)
        weights += classes * settings.embedding_size
    # SGD with momentum reads weight, gradient and momentum, writes weight and momentum; clipping reads the gradient.
    return [*operations, Operation("optimiser", "all weights", 0.0, 6.0 * WEIGHT * weights)]


def roofline_seconds(operations: Iterable[Operation], flops_per_second: float, bytes_per_second: float) -> float:
    """Sum over ``operations`` of the larger of compute and memory time, in seconds.

    Raises ValueError for a ceiling that is not positive.
    """
    if flops_per_second <= 0 or bytes_per_second <= 0:
        raise ValueError(f"ceilings must be positive: {flops_per_second} FLOP/s, {bytes_per_second} B/s")
    return sum(max(item.flops / flops_per_second, item.bytes / bytes_per_second) for item in operations)


def by_kind(operations: Iterable[Operation]) -> dict[str, Operation]:
    """The operations summed over places: one entry for each kind, in order of appearance."""
    total: dict[str, Operation] = {}
    for operation in operations:
        kind = operation.kind
        so_far = total.get(kind, Operation(kind, "all", 0.0, 0.0))
        total[kind] = so_far._replace(flops=so_far.flops + operation.flops, bytes=so_far.bytes + operation.bytes)
    return total


def _block(
    place: str, channels_in: int, channels_out: int, side: int, out: int, batch: int, maps: int
) -> Iterator[Operation]:
    """BN - conv3x3 - BN+PReLU - conv3x3(stride) - BN+SE+sum, and the projected shortcut where widths differ."""
    yield from _normalisation(place, channels_in * side**2, maps)
    yield from _convolution(place, channels_in, channels_out, 9, side, side, batch, maps)
    yield from _normalisation(place, channels_out * side**2, maps)
    yield from _convolution(place, channels_out, channels_out, 9, side, out, batch, maps)
    shortcut = channels_out * out**2
    if channels_in != channels_out:
        yield from _convolution(place, channels_in, channels_out, 1, out, out, batch, maps)
        # Read for the statistics; the sum below reads it again. Backward as in any BatchNorm.
        yield Operation("batch norm", place, 0.0, float(1 + 2 + 3) * shortcut * maps)
    hidden = max(channels_out // REDUCTION, 2)
    yield from _residual_sum(place, shortcut, maps)
    yield Operation("SE", place, 12.0 * batch * channels_out * hidden, 6.0 * WEIGHT * channels_out * hidden)


def _residual_sum(place: str, size: int, maps: int) -> Iterator[Operation]:
    """The last BatchNorm with gate, shortcut and sum.

    Forward: read for the statistics; read again with the shortcut, write the sum. Backward: the gate's gradient needs
    one reading of the sum's gradient and the maps, BatchNorm's two sums over what comes of it a second (they depend
    on the gate's), its gradient a third, which is written; the sum's gradient is read once more where the two paths
    meet again.
    """
    yield Operation("batch norm", place, 0.0, float(1 + 3 + 2 + 2 + 3 + 1) * size * maps)


def _normalisation(place: str, size: int, maps: int) -> Iterator[Operation]:
    """BatchNorm and the activation after it.

    Forward: read for the statistics, read and write. Backward: two sums over gradient and input (two readings), then
    both again and the result written.
    """
    yield Operation("batch norm", place, 0.0, float(1 + 2 + 2 + 3) * size * maps)


def _convolution(
    place: str, channels_in: int, channels_out: int, taps: int, side: int, out: int, batch: int, maps: int,
    *, gradient_of_input: bool = True,
) -> Iterator[Operation]:  # fmt: skip
    """The convolution, its gradient by the weights and (unless the input is the picture) by the input."""
    flops = 2.0 * taps * channels_in * channels_out * out**2 * batch
    read, written = float(channels_in * side**2 * maps), float(channels_out * out**2 * maps)
    weights = float(taps * channels_in * channels_out * WEIGHT)
    kind = "conv3x3" if taps == 9 else "conv1x1"
    yield Operation(f"{kind} forward", place, flops, read + written + weights)
    yield Operation(f"{kind} by weights", place, flops, read + written + weights)
    if gradient_of_input:
        yield Operation(f"{kind} by input", place, flops, read + written + weights)


def _product(place: str, kind: str, batch: int, inner: int, outer: int, number: int) -> Iterator[Operation]:
    """A linear layer: forward, by weights, by input."""
    flops = 2.0 * batch * inner * outer
    moved = batch * (inner + outer) * number + inner * outer * WEIGHT
    for _ in range(3):
        yield Operation(kind, place, flops, float(moved))


def _head(classes: int, embedding: int, batch: int) -> Iterator[Operation]:
    """Normalised class vectors, logits, margin softmax: the three products, and the logits' passes.

    The class vectors are read for their norms and again with each product, their gradient is written. The logits are
    written by the product, read for each row's sum and read once more to become their gradient, which both backward
    products read: five passes of 4 bytes; a kernel that keeps them in registers needs none, at the price of a product.
    """
    flops, weights, logits = 2.0 * batch * classes * embedding, classes * embedding * WEIGHT, batch * classes * LOGIT
    yield Operation("head", "norms", 0.0, float(weights))
    yield Operation("head", "logits", flops, float(weights + logits))
    yield Operation("head", "softmax", 0.0, float(3 * logits))  # read for the sums, read and written as gradient
    yield Operation("head", "by embeddings", flops, float(weights + logits))
    yield Operation("head", "by weights", flops, float(weights + logits))


def _block_weights(channels_in: int, channels_out: int) -> int:
    """Trainable numbers of one block."""
    hidden = max(channels_out // REDUCTION, 2)
    convolutions = 9 * channels_out * (channels_in + channels_out)
    shortcut = channels_out * (channels_in + 2) if channels_in != channels_out else 0
    return convolutions + shortcut + 2 * channels_in + 5 * channels_out + 2 * channels_out * hidden
