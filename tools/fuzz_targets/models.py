"""Targets: checkpoints of our own and of others, ONNX files, and files of embeddings."""

import dataclasses
import functools
import io
import json
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hrfr_fast.deployment.embeddings_file import Blocks, read_embeddings, write_embeddings
from hrfr_fast.evaluation.description import EmbedderDescription
from hrfr_fast.evaluation.evaluate import load_backbone
from hrfr_fast.evaluation.onnx_files import read_signature
from hrfr_fast.model import sealed_files
from hrfr_fast.model.adoption.onnx_weights import read_onnx
from hrfr_fast.model.adoption.reading import read_tensors
from hrfr_fast.model.adoption.translation import translate
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.checkpoint import load_state, read_metadata, save_weights
from hrfr_fast.model.lineage import trained_on
from hrfr_fast.model.row_files import read_rows
from hrfr_fast.runtime.device import choose_compute
from tools.fuzz_targets.target import Target, written

SHAPE = BackboneSettings(16, 8, 8, name="mobilefacenet")
DATA = {"path": "/nowhere/packed", "from_run": "", "digest": "0", "splits": {"lowres": "0"}, "pairs": {}}
METADATA: dict[str, Any] = {
    "regime": "lowres32", "backbone": dataclasses.asdict(SHAPE), "data": DATA,
    "parents": [{"trained_on": {"lowres": ["1"]}, "data_digest": "2"}],
}  # fmt: skip


@functools.cache
def _checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "last.safetensors"
        save_weights(path, build_backbone(SHAPE), nn.Linear(2, 3), METADATA)
        return _unsealed(path.read_bytes())


def _unsealed(content: bytes) -> bytes:
    """A checkpoint without its checksums, which would refuse every change before anything behind them is reached."""
    header, tensors = _header_of(content)
    entries = json.loads(header)
    del entries["__metadata__"][sealed_files.KEY]
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + tensors


def _used(path: Path) -> None:
    """Do with a checkpoint what `evaluate` does before it looks at a picture."""
    _, metadata = load_backbone(path, choose_compute("cpu", "fp32"))
    trained_on(metadata)


def _weights(content: bytes, folder: Path) -> None:
    _used(written(folder, "last.safetensors", content))


def _header_of(content: bytes) -> tuple[bytes, bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return content[8 : 8 + length], content[8 + length :]


def _weights_header(content: bytes, folder: Path) -> None:
    """A checkpoint with that header, whose length fits."""
    tensors = _header_of(_checkpoint())[1]
    _used(written(folder, "last.safetensors", struct.pack("<Q", len(content)) + content + tensors))


def _metadata(content: bytes, folder: Path) -> None:
    """A good checkpoint whose description of itself is ``content``."""
    header = json.loads(_header_of(_checkpoint())[0])
    header["__metadata__"]["hrfr"] = content.decode("utf-8", "replace")
    _weights_header(json.dumps(header).encode(), folder)


def _rows(content: bytes, folder: Path) -> None:
    path = written(folder, "last.safetensors", content)
    read_metadata(path)
    read_rows(path, "head.weight", range(1, 3))


def _public(suffix: str, content: bytes, folder: Path) -> None:
    _translated(written(folder, f"public{suffix}", content))


def _translated(path: Path) -> None:
    """Do with a public checkpoint what `adopt` does before it writes a run."""
    translate(path, read_tensors(path))


@functools.cache
def _pickled() -> tuple[bytes, ...]:
    contents = []
    for old in (False, True):
        file = io.BytesIO()
        state = {"state_dict": {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}, "epoch": 3}
        torch.save(state, file, _use_new_zipfile_serialization=not old)
        contents.append(file.getvalue())
    return tuple(contents)


def _state(content: bytes, folder: Path) -> None:
    load_state(written(folder, "last.state.pt", content), torch.device("cpu"))


@functools.cache
def _onnx() -> tuple[bytes, ...]:
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(np.ones(shape, np.float32), name)

    floats = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    output = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 5])]
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["b", "v", "v", "v", "v"], ["c"]),
        helper.make_node("PRelu", ["c", "slope"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "m", "u"], ["z"], transB=1),
    ]
    weights = [tensor("w", 2, 3, 3, 3), tensor("v", 2), tensor("slope", 2, 1, 1), tensor("m", 5, 128), tensor("u", 5)]
    weights.append(numpy_helper.from_array(np.array([127.5], np.float32), "mean"))
    graph = helper.make_graph(nodes, "g", floats, output, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    described = EmbedderDescription(input_size=8, embedding_size=5)
    helper.set_model_props(model, described.to_text())
    return (model.SerializeToString(),)


def _onnx_signature(content: bytes, folder: Path) -> None:
    signature = read_signature(written(folder, "model.onnx", content))
    EmbedderDescription.from_text(signature.metadata)


def _onnx_weights(content: bytes, folder: Path) -> None:
    read_onnx(written(folder, "model.onnx", content))


def _description(content: bytes, _folder: Path) -> None:
    """The metadata of an exported model: JSON of texts."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict):
        EmbedderDescription.from_text({str(name): str(value) for name, value in values.items()})


def _description_seed(_folder: Path) -> Sequence[bytes]:
    return [json.dumps(EmbedderDescription(input_size=8, embedding_size=5).to_text()).encode()]


def _embeddings(suffix: str) -> Any:
    def seeds(folder: Path) -> Sequence[bytes]:
        rows = np.eye(4, dtype=np.float32)
        path = folder / f"seed{suffix}"
        write_embeddings(path, Blocks(rows, np.arange(4), lambda n: f"p{n}"), 4, 4, {"model": {}}, 2)
        return [path.read_bytes()]

    return Target(
        f"embeddings-{suffix[1:]}",
        lambda content, folder: read_embeddings(written(folder, f"given{suffix}", content)),
        seeds,
    )


TARGETS = (
    Target("checkpoint", _weights, lambda _folder: [_checkpoint()]),
    Target("checkpoint-header", _weights_header, lambda _folder: [_header_of(_checkpoint())[0]]),
    Target("checkpoint-metadata", _metadata, lambda _folder: [json.dumps(METADATA).encode()]),
    Target("checkpoint-rows", _rows, lambda _folder: [_checkpoint()]),
    Target("public-safetensors", functools.partial(_public, ".safetensors"), lambda _folder: [_checkpoint()]),
    Target("public-pth", functools.partial(_public, ".pth"), lambda _folder: _pickled()),
    Target("state", _state, lambda _folder: _pickled()),
    Target("onnx", _onnx_signature, lambda _folder: _onnx()),
    Target("onnx-weights", _onnx_weights, lambda _folder: _onnx()),
    Target("description", _description, _description_seed),
    _embeddings(".npz"),
    _embeddings(".parquet"),
)
