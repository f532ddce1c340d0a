"""ONNX files from anywhere: what an embedder must look like, checked before ONNX Runtime is given the file.

Only the file's description of itself is read: no external data outside its folder is opened, no operators but ONNX's
own and ONNX Runtime's are accepted, and sizes are compared with the files before anything is allocated.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line
from hrfr_fast.runtime.optional import require_export

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"}
MOST_BYTES = 1 << 31  # of a protobuf message
MOST_NESTING = 16  # graphs inside of operators inside of graphs
SIZES = (8, 4096)  # of a face, in pixels
MOST_PICTURES = 1024  # a call, of a file that wants a fixed number: missing ones are made up


@dataclass(frozen=True)
class Signature:
    """The input and output of an embedder's file.

    Attributes:
        input_name, output_name: as ONNX Runtime wants them.
        layout: "NHWC" or "NCHW".
        dtype: "uint8", "float32" or "float16".
        size: width and height of the input in pixels; None where the file leaves it open.
        batch: pictures a call; None where any number will do.
        dimension: of the embeddings; None where the file leaves it open.
        metadata: text by name.
    """

    input_name: str
    output_name: str
    layout: str
    dtype: str
    size: int | None
    batch: int | None
    dimension: int | None
    metadata: dict[str, str]


def read_signature(path: Path) -> Signature:
    """The signature of the ONNX file at ``path``.

    Raises:
        UsageError: not an ONNX file, not an embedder, or one that would read files elsewhere; in one line.
    """
    model = _parsed(path)
    try:
        _refuse_foreign(path, model)
        return _signature(model)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _parsed(path: Path) -> Any:
    """The file's message, without external data."""
    onnx = require_export("onnx", f"{path}: reading it")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if (size := path.stat().st_size) >= MOST_BYTES:
        raise UsageError(f"{path}: {size:,} bytes; an ONNX file has less than {MOST_BYTES:,}")
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError):
        raise UsageError(f"{path}: not an ONNX file") from None
    if not model.graph.output:  # other protobuf messages, and empty files, can be read as a model of nothing
        raise UsageError(f"{path}: not an ONNX file: it has no outputs")
    return model


def _refuse_foreign(path: Path, model: Any) -> None:
    """Raise UsageError for operators that need somebody's library, and for external data that are elsewhere."""
    defined = {_text(function.domain) for function in model.functions}
    if foreign := sorted({_text(node.domain) for node in _nodes(model)} - DOMAINS - defined):
        names = few([repr(one_line(domain)) for domain in foreign])
        raise UsageError(f"it uses operators of {names}, which only a library of its author could run")
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location == 1:  # TensorProto.EXTERNAL
            _refuse_outside(path, tensor)


def _refuse_outside(path: Path, tensor: Any) -> None:
    """Raise UsageError unless the tensor's data lie whole in a file of the folder of ``path``.

    Where ``path`` is a link, the data are looked for beside it, as ONNX Runtime does; they may be a link, too, to a
    file beside the one that ``path`` leads to.
    """
    values = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
    location = values.get("location", "")
    if "\0" in location or not location:
        raise UsageError("it names no file for its external data")
    place = Path(os.path.realpath(path.parent / location))
    if not any(place.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
        raise UsageError(f"its external data are outside of its folder, at {one_line(location)!r}: refused")
    if not place.is_file():
        raise UsageError(f"its external data are missing: {place}")
    numbers = [values.get("offset", "0"), values.get("length", "0")]
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        shown = few([one_line(number[:20]) for number in numbers])
        raise UsageError(f"its external data have no usable offset and length: {shown}")
    if sum(map(int, numbers)) > place.stat().st_size:
        raise UsageError(f"its external data end beyond the end of {place}")


def _graphs(model: Any) -> Iterator[Any]:
    """The model's graph, its functions, and the graphs inside of operators."""
    waiting = [(model.graph, 0), *((function, 0) for function in model.functions)]
    while waiting:
        graph, depth = waiting.pop()
        if depth > MOST_NESTING:
            raise UsageError(f"its graphs are nested more than {MOST_NESTING} deep")
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                waiting += [(each, depth + 1) for each in inner]


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of the file: initialisers and attributes."""
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())  # functions have none
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                yield from [attribute.t] if attribute.HasField("t") else []
                for sparse in [*attribute.sparse_tensors, attribute.sparse_tensor]:
                    yield from (sparse.values, sparse.indices)


def _signature(model: Any) -> Signature:
    graph = model.graph
    initialisers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initialisers]
    if len(inputs) != 1:
        names = few([one_line(_text(value.name)) for value in inputs]) or "none"
        raise UsageError(f"not a face embedder: it has {len(inputs)} inputs ({names}); one, the pictures, is needed")
    dtypes = {1: "float32", 2: "uint8", 10: "float16"}
    kind = inputs[0].type.tensor_type
    shape, dtype = _shape(kind), dtypes.get(kind.elem_type)
    if dtype is None or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise UsageError(
            f"not a face embedder: its input {_shown(shape)} is not a batch of RGB pictures, [N, 3, S, S] or"
            " [N, S, S, 3] of float32, float16 or uint8"
        )
    layout = "NCHW" if shape[1] == 3 else "NHWC"
    sides = [side for side in (shape[2:] if layout == "NCHW" else shape[1:3]) if side is not None]
    if len(set(sides)) > 1 or any(not SIZES[0] <= side <= SIZES[1] for side in sides):
        raise UsageError(f"not a face embedder: its pictures are {_shown(shape)}; squares of 8 to 4096 px are needed")
    if shape[0] is not None and shape[0] > MOST_PICTURES:
        raise UsageError(f"it wants {shape[0]:,} pictures at once; a face embedder takes up to {MOST_PICTURES:,}")
    returned = graph.output[0].type.tensor_type
    output: list[int | None] = [None, None]  # where the file does not say, a trial run tells
    if returned.HasField("shape"):
        output = _shape(returned)
    if len(output) != 2 or (output[1] is not None and not 2 <= output[1] <= 1 << 16):
        raise UsageError(f"not a face embedder: its output is {_shown(output)}; embeddings are [N, D]")
    return Signature(
        _text(inputs[0].name), _text(graph.output[0].name), layout, dtype, sides[0] if sides else None, shape[0],
        output[1], {_text(entry.key): _text(entry.value) for entry in model.metadata_props},
    )  # fmt: skip


def _text(value: str | bytes) -> str:
    """A text of the file; protobuf gives the bytes of one that is not UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _shape(kind: Any) -> list[int | None]:
    """Dimensions of a tensor type; None for one that is open, which some writers put as 0 or -1."""
    return [axis.dim_value if axis.dim_value > 0 else None for axis in kind.shape.dim]


def _shown(shape: list[int | None]) -> str:
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"
