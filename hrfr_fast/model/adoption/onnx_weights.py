"""Weights of an improved residual network from an ONNX graph, such as InsightFace's w600k_r50.onnx.

A graph keeps no names of modules, so layers are matched by their order. Exporters fold most BatchNorm layers into the
convolution before them: W x + b stays, exactly, as our convolution W and a BatchNorm of mean 0, variance 1 - eps,
weight 1 and bias b. What it computes is the same; the statistics of its training are lost.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrfr_fast.model.adoption.layouts import ONNX_LAYOUT
from hrfr_fast.model.adoption.translation import Translated, completed
from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.model.backbones.table import BACKBONES, ImprovedResNet
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.optional import require_export

if TYPE_CHECKING:
    import onnx

EPS = 1e-5  # of our BatchNorm layers; others are written into the variance: var + theirs - ours
SAME_NUMBERS = ("Identity", "Unsqueeze", "Reshape")
WITHOUT_WEIGHTS = ("Add", "Flatten", "Dropout", "Constant", "Cast", "MaxPool", *SAME_NUMBERS)
"""Layers that are passed over: whether they stand where ours stand shows when embeddings are compared."""
FIRST = (127.5, 127.5)  # what most graphs leave to their caller: (pixel - mean) / scale


@dataclass(frozen=True)
class Layer:
    """A layer with weights, and the BatchNorm that follows it alone."""

    kind: str
    """conv, shortcut (a 1 x 1 convolution), norm, prelu or linear."""
    values: dict[str, NDArray[np.float32]]
    norm: dict[str, NDArray[np.float32]] | None = None


def read_onnx(path: Path, backbone: str = "") -> Translated:
    """The backbone in an ONNX file, by our names.

    Raises:
        UsageError: not an ONNX graph, weights in other files, or layers that are not those of ir18 to ir100 in order.
    """
    graph = _graph(path)
    try:
        return _translated(path, graph, backbone)
    except (ValueError, IndexError, KeyError, TypeError, RuntimeError) as error:
        raise UsageError(f"{path}: its graph is damaged, or built as no known exporter does it: {error}") from None


def _translated(path: Path, graph: "onnx.GraphProto", backbone: str) -> Translated:
    layers = list(_layers(path, graph))
    main, shortcuts = ([one for one in layers if (one.kind == "shortcut") == side] for side in (False, True))
    kinds = [layer.kind for layer in main]
    blocks = (len(main) - 4) // 4
    if kinds != ["conv", "prelu", *["norm", "conv", "prelu", "conv"] * blocks, "norm", "linear"]:
        raise UsageError(
            f"{path}: its layers are not those of an improved residual network (convolution, PReLU, {blocks} blocks of "
            f"BatchNorm, convolution, PReLU, convolution, then BatchNorm and one linear layer): {_counts(kinds)}"
        )
    name, variant = _network(path, blocks, len(shortcuts))
    if backbone not in ("", name):
        raise UsageError(f"{path}: it holds {name} ({ONNX_LAYOUT}), not {backbone}")
    tensors = dict(_tensors(main, shortcuts, name))
    width, last = len(tensors["stem.0.weight"]), tensors["output.3.weight"]
    side = int((last.shape[1] / (8 * width)) ** 0.5)
    settings = BackboneSettings(16 * side, width, len(last), name=name, variant=variant)
    folded = any(layer.norm is None for layer in layers if layer.kind in ("conv", "shortcut"))
    scale = _input_scale(path, graph)
    tensors["stem.0.weight"] = tensors["stem.0.weight"] * (scale or 1.0)
    whole = completed(path, tensors, settings)
    return Translated(settings, ONNX_LAYOUT, whole, folded=folded, takes_pixels=scale is not None)


def _graph(path: Path) -> "onnx.GraphProto":
    library = require_export("onnx", f"reading {path}")
    try:
        model = library.load(str(path), load_external_data=False)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # protobuf's DecodeError, which has no fixed place
        raise UsageError(f"{path}: not an ONNX file, or damaged") from None
    own = {"", "ai.onnx"}
    foreign = sorted({str(node.domain) for node in model.graph.node} - own)
    if foreign or any(function.domain in own for function in model.functions):
        whose = repr(one_line(foreign[0])) if foreign else "its own under ONNX's names"
        raise UsageError(f"{path}: it has operators of {whose}; only those of ONNX itself are read here")
    sparse = [half for one in model.graph.sparse_initializer for half in (one.values, one.indices)]
    values = [tensor for node in model.graph.node for one in node.attribute for tensor in (one.t, *one.tensors)]
    if any(tensor.external_data or tensor.data_location for tensor in (*model.graph.initializer, *sparse, *values)):
        raise UsageError(f"{path}: it keeps its weights in other files; save it again with them inside")
    return cast("onnx.GraphProto", model.graph)


def _constants(graph: "onnx.GraphProto") -> dict[str, NDArray[Any]]:
    """Name -> value of everything in the graph that is known beforehand."""
    from onnx import numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for one in node.attribute:
                if one.name == "value":  # a number or a list of them has another name, and no weights are given so
                    values[node.output[0]] = numpy_helper.to_array(one.t)
        elif node.op_type in SAME_NUMBERS and node.input[0] in values:  # exporters keep equal tensors once
            values[node.output[0]] = values[node.input[0]]
    return values


def _layers(path: Path, graph: "onnx.GraphProto") -> Iterator[Layer]:
    """The layers with weights in the order of the graph, each with the BatchNorm that it alone feeds."""
    values = _constants(graph)
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    taken = {node.output[0] for node in _preparation(graph)}
    for node in graph.node:
        if node.op_type in WITHOUT_WEIGHTS or node.output[0] in taken:
            continue
        norm = None
        following = readers.get(node.output[0], [])
        if node.op_type in ("Conv", "Gemm") and [one.op_type for one in following] == ["BatchNormalization"]:
            norm = _norm(path, following[0], values)
            taken.add(following[0].output[0])
        yield _layer(path, node, values, norm)


def _layer(
    path: Path, node: Any, values: dict[str, NDArray[Any]], norm: dict[str, NDArray[np.float32]] | None
) -> Layer:
    attributes = {one.name: one for one in node.attribute}
    if node.op_type == "BatchNormalization":
        return Layer("norm", _norm(path, node, values))
    if node.op_type not in ("Conv", "PRelu", "Gemm"):
        raise UsageError(f"{path}: it has a layer {node.op_type}, which no network of ours has in this place")
    given = [_float(path, node, values, name) for name in node.input[1:]]
    if node.op_type == "PRelu":
        return Layer("prelu", {"weight": given[0].reshape(-1)})
    weight = given[0]
    if node.op_type == "Gemm" and not ("transB" in attributes and attributes["transB"].i):
        weight = weight.T
    bias = given[1].reshape(-1) if len(given) > 1 else np.zeros(len(weight), np.float32)
    shortcut = weight.shape[2:] == (1, 1)
    kind = "linear" if node.op_type == "Gemm" else "shortcut" if shortcut else "conv"
    return Layer(kind, {"weight": weight, "bias": bias}, norm)


def _float(path: Path, node: Any, values: dict[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    if name not in values:
        raise UsageError(f"{path}: a layer {node.op_type} takes weights that the graph computes: {name}")
    return np.asarray(values[name], np.float32)


def _norm(path: Path, node: Any, values: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    scale, bias, mean, var = (_float(path, node, values, name) for name in node.input[1:5])
    eps = next((one.f for one in node.attribute if one.name == "epsilon"), EPS)
    return {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var + np.float32(eps - EPS)}


def _network(path: Path, blocks: int, shortcuts: int) -> tuple[str, str]:
    """Name and variant of the network with so many blocks and convolutions in shortcuts."""
    fitting = [
        name
        for name, architecture in BACKBONES.items()
        if isinstance(architecture, ImprovedResNet)
        and not architecture.squeeze_excite
        and sum(architecture.units) == blocks
    ]
    variant = {4: "arcface", 3: "adaface"}.get(shortcuts)
    if not fitting or variant is None:
        raise UsageError(
            f"{path}: an improved residual network of {blocks} blocks with {shortcuts} convolutions in shortcuts is not"
            " among ours; ir18, ir34, ir50 and ir100 have 8, 16, 24 and 49 blocks, and 3 or 4"
        )
    return fitting[0], variant


def _tensors(main: Sequence[Layer], shortcuts: Sequence[Layer], name: str) -> Iterator[tuple[str, Tensor]]:
    """Our names and tensors; ``main`` and ``shortcuts`` in order."""
    yield from _named("stem.0", main[0], "stem.1")
    yield from _named("stem.2", main[1])
    architecture = BACKBONES[name]
    assert isinstance(architecture, ImprovedResNet)
    starts = [sum(architecture.units[:stage]) for stage in range(4)]
    for start, layer in zip(starts[4 - len(shortcuts) :], shortcuts, strict=True):
        yield from _named(f"body.{start}.shortcut.1", layer, f"body.{start}.shortcut.2")
    for block in range(sum(architecture.units)):
        before, first, activation, second = main[2 + 4 * block : 6 + 4 * block]
        residual = f"body.{block}.residual"
        yield from _named(f"{residual}.0", before)
        yield from _named(f"{residual}.1", first, f"{residual}.2")
        yield from _named(f"{residual}.3", activation)
        yield from _named(f"{residual}.4", second, f"{residual}.5")
    yield from _named("output.0", main[-2])
    yield from _named("output.3", main[-1], "output.4")


def _named(name: str, layer: Layer, norm_name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a layer and, where it is followed by one of ours, of its BatchNorm.

    A convolution of ours has no bias: W x + b goes into the BatchNorm, whose mean becomes smaller by b.
    """
    values, norm = dict(layer.values), dict(layer.norm or {})
    if norm_name and not norm:
        ones, zeros = np.ones(len(values["weight"]), np.float32), np.zeros(len(values["weight"]), np.float32)
        norm = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones - np.float32(EPS)}
    if layer.kind in ("conv", "shortcut"):
        norm["running_mean"] = norm["running_mean"] - values.pop("bias") if layer.norm else norm["running_mean"]
        norm["bias"] = norm["bias"] + values.pop("bias", 0)
    for prefix, tensors in ((name, values), (norm_name, norm)):
        yield from ((f"{prefix}.{leaf}", torch.tensor(value)) for leaf, value in tensors.items())


def _preparation(graph: "onnx.GraphProto") -> list[Any]:
    """The subtraction and the multiplication of pixels that MXNet's graphs begin with; none in others."""
    nodes = list(itertools.takewhile(lambda node: node.op_type != "Conv", graph.node))
    return [node for node in nodes if node.op_type in ("Sub", "Mul")]


def _input_scale(path: Path, graph: "onnx.GraphProto") -> float | None:
    """What a graph that is fed pixel values makes of 1 in [-1, 1]; None where it is fed [-1, 1] itself.

    Raises UsageError for a mean that is not 127.5: zeros around the picture would then be another colour than ours.
    """
    values = _constants(graph)
    mean, scale = 0.0, 1.0
    steps = _preparation(graph)
    if not steps:
        return None
    for node in steps:
        given = next((float(values[name].reshape(-1)[0]) for name in node.input if name in values), None)
        if given is None:
            raise UsageError(f"{path}: it prepares its input in a way that is not known here: {node.op_type}")
        mean, scale = (given, scale) if node.op_type == "Sub" else (mean, given)
    if mean != FIRST[0]:
        raise UsageError(f"{path}: it subtracts {mean:g} from pixel values; only 127.5 can be moved into its weights")
    return FIRST[1] * scale


def _counts(kinds: Sequence[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "none"
