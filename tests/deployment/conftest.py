import pytest

for library in ("onnx", "onnxruntime"):
    pytest.importorskip(library)
