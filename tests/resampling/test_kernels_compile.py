"""What the interpreter runs must also compile: it forgives types that the compiler refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton exists for Linux only")


def test_the_kernels_compile_for_hopper(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_kernels.py")
    environment["PYTHONPATH"] = os.pathsep.join([str(script.parents[2]), *sys.path[1:]])
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert [kernel["name"] for kernel in found] == ["resample_kernel", *2 * ["compose_kernel", "resample_kernel"]]
    assert all(kernel["shared"] <= 64 << 10 for kernel in found), "three programs fit on a multiprocessor"
    assert [kernel["wgmma"] for kernel in found] == [True, False, False, True, True], "tiles of 64 rows use it"
