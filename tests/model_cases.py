"""Runs without training, and small ONNX files, for tests of models in use."""

import json
from dataclasses import asdict

import numpy as np
import torch
from torch import nn

from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.checkpoint import save_weights
from hrfr_fast.model.fused import build_model
from hrfr_fast.model.lineage import data_record


def write_run(folder, shape, packed=None):
    """A run directory with an untrained model of ``shape`` whose BatchNorm statistics are no trivial ones."""
    model = build_model(shape).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 2)
    nowhere = {"path": "/nowhere/packed", "from_run": "", "digest": "0", "splits": {"lowres": "0"}, "pairs": {}}
    data = data_record(open_packed(packed), ["lowres"], folder) if packed else nowhere
    metadata = {"regime": "lowres32", "backbone": asdict(shape), "data": data, "parents": []}
    (folder / "checkpoints").mkdir(parents=True)
    save_weights(folder / "checkpoints" / "last.safetensors", model, nn.Linear(1, 1), metadata)
    return model


def reference_embeddings(model, pixels):
    """normalise(f(x) + f(flip x)) of uint8 [n, S, S, 3], written out."""
    images = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1)
    with torch.no_grad():
        total = (model(images) + model(images.flip(3))).numpy()
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def linear_onnx(path, side=8, dimension=5, batch="batch", dtype=1, nhwc=False, metadata=None, **more):
    """An ONNX file that multiplies all values of a picture with a matrix; returns the matrix [values, dimension].

    ``more``: ``inputs`` (how many), ``domain`` of the last operator, ``output_shape``, ``location`` of the matrix, its
    ``length`` there.
    """
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.random.default_rng(0).normal(0, 0.1, (3 * side * side, dimension)).astype(np.float32)
    shape = [batch, side, side, 3] if nhwc else [batch, 3, side, side]
    inputs = [helper.make_tensor_value_info(f"x{i}", dtype, shape) for i in range(more.get("inputs", 1))]
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, more.get("output_shape", [batch, dimension]))
    tensor = numpy_helper.from_array(matrix, "matrix")
    if "location" in more:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": more["location"], "length": more.get("length", str(matrix.nbytes))}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    nodes = [
        helper.make_node("Cast", ["x0"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["z"], domain=more.get("domain", "")),
    ]
    graph = helper.make_graph(nodes, "linear", inputs, [output], [tensor])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    return matrix


def write_results(folder, thresholds, kind="test"):
    """The results.json of an evaluated run, as far as thresholds go."""
    entry = {"kind": kind, "pairs": 400, "thresholds": thresholds}
    (folder / "results.json").write_text(json.dumps({"hres": entry}))
