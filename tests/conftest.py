"""Data every part of the tests can share, made once a session by the project's own commands."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import process_state
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel's module is imported

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

BEFORE: "pytest.StashKey[dict[str, Any]]" = pytest.StashKey()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` need a CUDA device and say so where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Before any fixture: every test starts with the same random numbers."""
    process_state.seed_everything()
    item.stash[BEFORE] = process_state.process_state()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """After all fixtures: a test that leaves the process changed fails, not the one that trips over it later."""
    result = yield
    if left := process_state.changes(item.stash[BEFORE]):
        pytest.fail("the test changed the process and did not put it back:\n" + "\n".join(left), pytrace=False)
    return result


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data tree of tiny scale, with every split and a bcolz pair set."""
    from hrfr_fast.synthetic.data_tree import synthesize

    for library in ("simplejpeg", "bcolz"):  # machines that only run the GPU tests lack them
        pytest.importorskip(library)
    root = tmp_path_factory.mktemp("tiny") / "data"
    synthesize(root, "tiny", workers=1, show_progress=False)
    return root


@pytest.fixture(scope="session")
def tiny_packed(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tree, packed raw."""
    from hrfr_fast.packing.pack import pack

    out = tmp_path_factory.mktemp("packed") / "packed"
    pack(tiny_tree, out, workers=1, show_progress=False)
    return out
