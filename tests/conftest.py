"""Data every part of the tests can share, made once a session by the project's own commands."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel's module is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` need a CUDA device and say so where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data tree of tiny scale, with every split and a bcolz pair set."""
    from hrfr_fast.data.synthetic import synthesize

    for library in ("simplejpeg", "bcolz"):  # machines that only run the GPU tests lack them
        pytest.importorskip(library)
    root = tmp_path_factory.mktemp("tiny") / "data"
    synthesize(root, "tiny", workers=1, show_progress=False)
    return root


@pytest.fixture(scope="session")
def tiny_packed(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tree, packed raw."""
    from hrfr_fast.data.pack import pack

    out = tmp_path_factory.mktemp("packed") / "packed"
    pack(tiny_tree, out, workers=1, show_progress=False)
    return out
