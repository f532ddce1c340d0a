"""The formats of exported models: each writes a file and reads it back, so that what was written can be checked."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.description import EmbedderDescription
from hrfr_fast.runtime.files import write_bytes

if TYPE_CHECKING:
    from hrfr_fast.deployment.graph import ExportedEmbedder
    from hrfr_fast.evaluation.embedder import BackboneEmbedder

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From uint8 [n, S, S, 3] RGB to what the written file returns, float32 [n, D]."""


def _write_onnx(
    path: Path, model: "BackboneEmbedder", description: EmbedderDescription, calibration: NDArray[np.uint8] | None
) -> Embed:
    from hrfr_fast.deployment.onnx_writer import onnx_model, prepared_input, write_onnx
    from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder

    module = _module(model, description)
    faces = None if calibration is None else prepared_input(module, calibration)
    write_onnx(path, onnx_model(module, model.size, description.precision, faces), description)
    return OnnxEmbedder(path, device="cpu").raw


def _write_program(
    path: Path, model: "BackboneEmbedder", description: EmbedderDescription, calibration: NDArray[np.uint8] | None
) -> Embed:
    import io

    import torch

    from hrfr_fast.deployment.onnx_writer import prepared_input

    module = _module(model, description)
    batch = {"images": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        program = torch.export.export(module, (module.example(2, model.size),), dynamic_shapes=batch)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about weights on other devices; these are on the CPU
        torch.export.save(program, content, extra_files={"description.json": json.dumps(description.to_text())})
        write_bytes(path, content.getvalue())
        loaded = torch.export.load(str(path)).module()

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(loaded(torch.from_numpy(prepared_input(module, pixels))).numpy())

    return embed


def _write_weights(
    path: Path, model: "BackboneEmbedder", description: EmbedderDescription, calibration: NDArray[np.uint8] | None
) -> Embed:
    import torch
    from safetensors.torch import load, save

    from hrfr_fast.engines.pixels import to_model_input
    from hrfr_fast.model.fused import build_model, model_settings

    half = description.precision == "fp16"
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.backbone.state_dict().items()}
    state = {name: tensor.half() if half and tensor.is_floating_point() else tensor for name, tensor in state.items()}
    shape = {"backbone": json.dumps(model.metadata["backbone"])}
    write_bytes(path, save(state, metadata=description.to_text() | shape))
    loaded = build_model(model_settings(model.metadata["backbone"])).eval()
    loaded.load_state_dict(load(path.read_bytes()))

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(loaded(to_model_input(torch.from_numpy(pixels), torch.float32)).numpy())

    return embed


def _module(model: "BackboneEmbedder", description: EmbedderDescription) -> "ExportedEmbedder":
    from hrfr_fast.deployment.graph import ExportedEmbedder

    pixels = description.dtype == "uint8"
    return ExportedEmbedder(model.backbone, pixels=pixels, flip_sum=description.flip_sum).eval()


WRITERS = {"onnx": _write_onnx, "torch-export": _write_program, "safetensors": _write_weights}
"""Format -> its writer: a path, the model, the description, and faces (uint8 [n, S, S, 3]) for int8."""
