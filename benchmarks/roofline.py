"""Roofline of a training step: the least time that its operations and unavoidable memory traffic take.

Each operation of the network (forward and backward), of the head and of the optimiser is listed with its floating-point
operations and with the bytes that it must move through device memory; the floor is the sum over operations of the
larger of compute time and memory time (Williams et al., "Roofline", CACM 2009), against two *measured* ceilings. The
operations are those of the layers that a network of the table calls, seen on torch's meta device.

What counts as unavoidable: every convolution and linear layer reads its input and writes its output once. BatchNorm
needs its input twice, since nothing can be normalised before the batch's statistics are known; the second pass carries
what is elementwise after it (PReLU, or the SE gate, the shortcut and the sum). Statistics could be taken by the
convolution that writes the maps, and the normalised maps need not be written where the next convolution normalises as
it reads: no library's convolution does either, so both passes count. The squeeze's means follow from the sums that the
statistics are made of. Attention keeps its weights on chip (Dao et al., "FlashAttention", NeurIPS 2022). Activations
are 16 bits, the head's logits and all weights, gradients and momenta 32.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hrfr_fast.model.backbone import Backbone, BackboneSettings, build_backbone
from hrfr_fast.model.backbones.improved_resnet import SqueezeExcite
from hrfr_fast.model.backbones.vision_transformer import Attention

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


class LayerCall(NamedTuple):
    """One call of a layer: its name in the network, and the shapes for one image."""

    name: str
    layer: nn.Module
    given: torch.Size
    made: torch.Size


def step_operations(
    settings: BackboneSettings, classes: int, batch_size: int, *, activation_bytes: int = 2, momenta: int = 1
) -> list[Operation]:
    """Every operation of one training step, forward and backward, in the forward's order.

    Args:
        settings: the backbone's shape.
        classes: rows of the head's matrix; 0: no head.
        batch_size: images a step; weights, head and optimiser do not grow with it.
        activation_bytes: of one number in a feature map: 2 for bf16 and fp16, 4 for float32.
        momenta: numbers that the optimiser keeps a weight: 1 for SGD, 2 for AdamW.
    """
    with torch.device("meta"):
        network = build_backbone(settings)
    passes = _norm_passes(network)
    operations = [
        operation
        for call in layer_calls(network)
        for operation in _layer(call, batch_size, activation_bytes, passes.get(call.layer, PLAIN_NORM))
    ]
    weights = sum(parameter.numel() for parameter in network.parameters())
    if classes:
        operations += _head(classes, settings.embedding_size, batch_size)
        weights += classes * settings.embedding_size
    # A step reads weight, gradient and momenta, writes weight and momenta; clipping reads the gradient.
    return [*operations, Operation("optimiser", "all weights", 0.0, (4.0 + 2 * momenta) * WEIGHT * weights)]


def layer_calls(network: Backbone) -> list[LayerCall]:
    """The layers that ``network``, which lies on the meta device, calls for an image, in order; squeeze-and-excitation
    and attention count as one layer, what is inside them aside."""
    calls: list[LayerCall] = []

    def note(name: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            calls.append(LayerCall(name, layer, given[0].shape[1:], made.shape[1:]))

        return hook

    inside = {id(part) for gate in network.modules() if isinstance(gate, SqueezeExcite) for part in gate.children()}
    for name, layer in network.named_modules():
        if id(layer) not in inside:
            layer.register_forward_hook(note(name))
    size = network.settings.input_size
    network.eval()(torch.empty(2, 3, size, size, device="meta"))
    return calls


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


PLAIN_NORM = 1 + 2 + 2 + 3
"""Passes over the maps of BatchNorm and the activation after it. Forward: read for the statistics, read and write.
Backward: two sums over gradient and input (two readings), then both again and the result written."""
SHORTCUT_NORM = 1 + 2 + 3
"""Of BatchNorm in a shortcut: read for the statistics; the sum after it reads it again. Backward as in any."""
SUMMED_NORM = 1 + 3 + 2 + 3 + 1
"""Of a block's last BatchNorm with shortcut and sum. Forward: read for the statistics; read again with the shortcut,
write the sum. Backward: two sums over gradient and maps, then both again and the result written; the sum's gradient is
read once more where the two paths meet again."""
GATE = 2
"""More passes where a gate follows: its gradient needs one reading of the sum's gradient and the maps before
BatchNorm's two sums over what comes of it, which depend on the gate's."""
LAYER_NORM = 4 + 4
"""Of LayerNorm with the sum before it. Forward: read both summands, write the sum and what is normalised. Backward:
read the sum, its gradient from here and from later, write their sum."""
ATTENTION = 4 + 8
"""Of attention over maps of its output's size. Forward: read queries, keys and values, write the mixture. Backward:
read these three, the mixture and its gradient, write three gradients."""


def _norm_passes(network: Backbone) -> dict[nn.Module, int]:
    """Passes over the maps of the BatchNorms that stand before a residual sum."""
    passes: dict[nn.Module, int] = {}
    for block in network.body:
        gated = any(isinstance(part, SqueezeExcite) for part in block.modules())
        if (norm := getattr(block, "summed_norm", None)) is not None:
            passes[norm] = SUMMED_NORM + (GATE if gated else 0)
        if (norm := getattr(block, "shortcut_norm", None)) is not None:
            passes[norm] = SHORTCUT_NORM
    return passes


def _layer(call: LayerCall, batch: int, number: int, norm_passes: int) -> Iterator[Operation]:
    """What a call costs for ``batch`` images, ``number`` bytes a value. Layers that are elementwise cost nothing of
    their own."""
    place, layer, maps = _place(call.name), call.layer, batch * number
    if isinstance(layer, nn.Conv2d):
        yield from _convolution(place, layer, call, batch, maps)
    elif isinstance(layer, nn.BatchNorm2d):
        yield Operation("batch norm", place, 0.0, float(norm_passes * call.made.numel() * maps))
    elif isinstance(layer, nn.LayerNorm):
        yield Operation("layer norm", place, 0.0, float(LAYER_NORM * call.made.numel() * maps))
    elif isinstance(layer, nn.Linear):
        rows = batch * (call.given.numel() // layer.in_features)
        yield from _product(place, "linear", rows, layer.in_features, layer.out_features, number)
    elif isinstance(layer, SqueezeExcite):
        weights = layer.squeeze.weight.numel()
        yield Operation("SE", place, 12.0 * batch * weights, 6.0 * WEIGHT * weights)
    elif isinstance(layer, Attention):
        tokens, channels = call.made  # two products forward, four backward
        yield Operation(
            "attention", place, 12.0 * batch * tokens**2 * channels, float(ATTENTION * tokens * channels * maps)
        )


def _place(name: str) -> str:
    """A layer's place as the table shows it: stem, block 7, output."""
    part, _, rest = name.partition(".")
    return f"block {int(rest.split('.')[0]) + 1}" if part == "body" else part


def _convolution(place: str, layer: nn.Conv2d, call: LayerCall, batch: int, maps: int) -> Iterator[Operation]:
    """The convolution, its gradient by the weights and (unless the input is the picture) by the input."""
    side = layer.kernel_size[0]
    flops = 2.0 * layer.weight[0].numel() * call.made.numel() * batch
    moved = float((call.given.numel() + call.made.numel()) * maps + layer.weight.numel() * WEIGHT)
    kind = f"conv{side}x{side}" if layer.groups == 1 else "grouped conv"
    yield Operation(f"{kind} forward", place, flops, moved)
    yield Operation(f"{kind} by weights", place, flops, moved)
    if layer.in_channels != 3:
        yield Operation(f"{kind} by input", place, flops, moved)


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
