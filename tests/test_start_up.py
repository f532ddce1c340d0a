"""What the start of a command costs: large libraries are imported only where they are needed.

Modules are counted, not seconds: on a busy machine a limit of time fails by chance.
"""

import subprocess
import sys

import pytest

LARGE = {"cv2", "matplotlib", "numba", "numpy", "onnxruntime", "ray", "scipy", "sklearn", "torch"}
RUN = f"""
import gc
import sys
from hrfr_fast.cli import main
from hrfr_fast.runtime.garbage import THRESHOLDS
try:
    main()
finally:
    assert gc.get_threshold() == THRESHOLDS, "imports are looked through for cycles all the time"
    print(*sys.modules.keys() & {LARGE})
"""


def run(*arguments):
    """The large libraries that a command of the package has imported when it ends; the command must succeed."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", [(), ("pack",), ("train",), ("study",)], ids=" ".join)
def test_help_imports_no_large_library(command):
    assert run(*command, "--help") == set()


def test_packing_and_looking_at_packs_do_not_import_torch(tiny_tree, tmp_path):
    packed = tmp_path / "packed"
    assert "torch" not in run("pack", tiny_tree, "--out", packed, "--workers", 1)
    assert "torch" not in run("inspect", packed, "--sheet", tmp_path / "sheet.png")
    assert "torch" not in run("check", packed)


def test_an_import_of_torch_would_be_seen(tmp_path):
    assert "torch" in run("doctor", tmp_path)


def test_the_main_module_imports_nothing_for_worker_processes():
    count = (
        "import sys, hrfr_fast; before = set(sys.modules); import hrfr_fast.__main__; print(set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "{'hrfr_fast.__main__'}"
