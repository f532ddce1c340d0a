"""What the interpreter runs must also compile, within a multiprocessor's registers and shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton exists for Linux only")
from benchmarks.kernel_costs import launches_of_a_step  # noqa: E402
from benchmarks.step_launches import OTHER  # noqa: E402

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
HEAVIEST = {
    "normalise C=64 gated added next whole",
    "map_gradient C=64 gated pooled batch whole",
    "stem C=64 next",
    "stem_gradient_sums C=64",
    "stem_weight_gradient C=64 batch",
    "softmax C=512",
    "cosine_gradient C=512 by_class",
    "class_gradient C=512",
    "direction_gradient C=512",
}
"""Of each kind the variant with most to hold; the others take as long to compile, and ``kernel_costs.py`` does."""
SCRIPT = """
import json
import sys
import torch
from triton.runtime import driver
from benchmarks import kernel_costs
from hrfr_fast.model.backbones.improved_resnet import IRBlock
from hrfr_fast.model.backbones.table import IR_VARIANTS
from hrfr_fast.model.kernels.batch_norm import as_tensors
from hrfr_fast.model.kernels.network import run_block
from hrfr_fast.model.kernels.stem import stem

driver.set_active(kernel_costs.Card(90))
needs = {}
with kernel_costs.counted(needs, sys.argv[1:]) as moved:
    with torch.device("meta"):
        block = IRBlock(64, 64, 1, IR_VARIANTS["adaface"], squeeze_excite=True, first=False)
        for convolution in (block.residual[1], block.residual[4]):
            convolution.bfloat16()
        maps = torch.empty(1024, 64, 16, 16, dtype=torch.bfloat16, memory_format=torch.channels_last)
        run_block(block, maps.requires_grad_(), None, True)[0].sum().backward()
    network = sum(number for _, number in moved)
    with torch.device("meta"):
        norm, slope = torch.nn.BatchNorm2d(64), torch.rand(64, requires_grad=True)
        weight, images = torch.rand(64, 3, 3, 3, requires_grad=True), torch.rand(64, 3, 64, 64, dtype=torch.bfloat16)
        stem(images, weight, as_tensors(norm), "prelu", slope, measure=True)[0].sum().backward()
    own = sum(number for _, number in moved) - network
    kernel_costs.take_head_step(128, 500)
print(json.dumps({"needs": list(needs.values()), "maps": network / maps.nbytes, "stem": own / maps.nbytes}))
"""


def test_a_step_with_kernels_launches_less_than_torch():
    """At 32 px each launch of a captured step counts; a gate of a dozen small operations would show here."""
    ours, torchs = launches_of_a_step()
    blocks, norms = 8, 29
    assert ours["kernels of our own"] == 5 * norms - 9 + 4 * blocks + 6 + norms + 1, "nine norms are measured before"
    assert ours["convolutions"] == 19 + 2 * 19, "all but the stem's, whose images are padded"
    assert ours["casts"] < 10 and ours[OTHER] < 60 and ours["torch's BatchNorm"] == 2
    assert sum(ours.values()) < 0.7 * sum(torchs.values())


def test_a_block_and_the_head_compile_for_hopper_without_spills(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]])
    done = subprocess.run([sys.executable, "-c", SCRIPT, *HEAVIEST], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    needs = {name: more for name, _, *more in found["needs"]}
    assert needs.keys() == HEAVIEST
    if VERSION < (3, 9):  # that one's compiler spills 8 bytes of the head's softmax
        assert all(spilled == 0 for _, spilled, _, _ in needs.values())
    assert all(shared <= 227 << 10 for _, _, shared, _ in needs.values())
    assert all(registers <= 128 for name, (registers, *_) in needs.items() if "C=64" in name), "16 warps run at a time"
    assert all(needs[name][3] == "wgmma" for name in needs if "C=512" in name)
    # Two BNs of 8 passes, one of which adds the shortcut's gradient, and the gated sum's 4 + 5; sums beside: 5 % here.
    assert 8 + 1 + 8 + 9 < found["maps"] < 1.1 * 26
    # Written once, its gradient read twice; 0.38 for the images, padded once and read four times; 0.1 for sums.
    assert 3 < found["stem"] < 3.6
