"""FFCV in a process of its own: effects of importing it and reading with it on everything that runs afterwards."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

SCRIPT = """
import sys

import numba
import numpy as np
import torch

torch.set_num_threads(3)
numba.set_num_threads(2)
np.random.seed(0)
drawn = np.random.get_state()[1].copy()
array = numba.uint8[::1]  # one object for all compiled functions, as long as one of them holds it


def check(after):
    found = torch.get_num_threads(), numba.get_num_threads()
    assert found == (3, 2), f"after {after}: torch and numba have {found} threads"
    assert array.mutable, f"after {after}: numba's type of an array is another"
    assert (np.random.get_state()[1] == drawn).all(), f"after {after}: NumPy's global numbers were drawn from"


from hrfr_fast.doctor.facts import _ffcv_facts
from hrfr_fast.engines.ffcv import FFCV

assert not _ffcv_facts()["ffcv_error"]
check("doctor")

from engine_cases import stream_over

from hrfr_fast.sampling.augmentation import AugmentSettings
from hrfr_fast.format.reader import open_packed

split = open_packed(sys.argv[1]).splits["lowres"]
with FFCV(stream_over([split], 32, AugmentSettings()), torch.device("cpu"), torch.float32) as engine:
    check("building")
    for _ in engine.batches(0, 48):
        check("a batch")
check("a run")
"""


@pytest.mark.skipif(find_spec("ffcv") is None, reason="needs FFCV")
@pytest.mark.parametrize("most", ["4", "2"], ids=["numba has more threads than torch", "numba has fewer"])
def test_everything_keeps_its_threads(tiny_packed, most):
    """Importing FFCV alone sets torch to one thread: training on a CPU would be many times slower."""
    environment = os.environ | {"NUMBA_NUM_THREADS": most, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_packed)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
