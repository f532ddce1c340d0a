"""Writing of ONNX files: the graph, half precision, eight-bit integers, and the description in the metadata.

The exporter is torch's older one, which traces (TorchScript). Both are in every torch from 2.9 to 2.13 and gave the
same numbers; the newer one (``dynamo=True``) took 13 to 24 s for these networks where this one takes 1 to 2 s. What
was written is checked in ONNX Runtime in any case.
"""

import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.deployment.graph import ExportedEmbedder
from hrfr_fast.evaluation.description import EmbedderDescription
from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.optional import require_export

OPSET = 17
"""Known to ONNX Runtime from 1.12 (2022) on and to TensorRT from 8.6 on; nothing here needs a newer one."""
INPUT, OUTPUT = "images", "embeddings"
TRACED_BATCH = 2
CALIBRATION_BATCH = 32


def onnx_model(module: ExportedEmbedder, size: int, precision: str, calibration: NDArray[Any] | None) -> Any:
    """The model of ``module`` as an ONNX message.

    Args:
        size: of the input in pixels.
        precision: fp32, fp16 (weights and arithmetic; input and output stay as they are) or int8.
        calibration: prepared input of faces, for int8.

    Raises:
        UsageError: onnx is not installed.
    """
    onnx = require_export("onnx", "an ONNX file")
    model = onnx.load_from_string(_traced(module, size))
    if precision == "fp16":
        require_export("onnxruntime", "fp16")
        from onnxruntime.transformers.float16 import convert_float_to_float16

        return convert_float_to_float16(model, keep_io_types=True)
    if precision == "int8":
        assert calibration is not None
        return quantised(model, calibration)
    return model


def _traced(module: ExportedEmbedder, size: int) -> bytes:
    import torch

    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this exporter is the older one
        torch.onnx.export(
            module, (module.example(TRACED_BATCH, size),), content,  # type: ignore[arg-type]
            dynamo=False, opset_version=OPSET,
            input_names=[INPUT], output_names=[OUTPUT], dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )  # fmt: skip
    return content.getvalue()


def quantised(model: Any, calibration: NDArray[Any]) -> Any:
    """``model`` with convolutions and matrix products in eight bits, by ONNX Runtime's static quantisation.

    Weights have a scale a channel and keep to seven bits: CPUs without VNNI add pairs of products in 16 bits, which
    eight would overflow.
    """
    require_export("onnxruntime", "int8")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Batches of the calibration faces."""

        def __init__(self) -> None:
            starts = range(0, len(calibration), CALIBRATION_BATCH)
            self._batches = iter([{INPUT: calibration[start : start + CALIBRATION_BATCH]} for start in starts])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory(prefix="hrfr-int8-") as folder:
        plain, prepared, out = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, str(plain))
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(str(out))


def write_onnx(path: Path, model: Any, description: EmbedderDescription) -> None:
    """Write ``model`` with ``description`` as its metadata, atomically."""
    del model.metadata_props[:]
    for key, value in description.to_text().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    model.producer_name, model.producer_version = "hrfr-fast", description.hrfr_fast
    write_bytes(path, model.SerializeToString())


def prepared_input(module: ExportedEmbedder, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """uint8 [n, S, S, 3] as the input that ``module`` takes."""
    import torch

    from hrfr_fast.engines.pixels import to_model_input

    if module.pixels:
        return pixels
    return np.ascontiguousarray(to_model_input(torch.from_numpy(pixels), torch.float32).numpy())
