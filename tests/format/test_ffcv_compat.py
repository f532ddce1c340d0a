"""Stock FFCV opens what we pack, and sees the same labels and pixels."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from hrfr_fast.packing.pack import pack

if find_spec("ffcv") is None:
    pytest.skip("FFCV is not installed", allow_module_level=True)

# In a process of its own: FFCV sets the threads of torch and numba, and changes a type that numba's kernels share.
SCRIPT = """
import sys

import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption

from hrfr_fast.format.reader import open_packed

packed, largest = sys.argv[1], int(sys.argv[2])
for name, split in open_packed(packed).splits.items():
    batches = []
    for part in split.parts:
        pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
        loader = Loader(
            str(part.path), 7, num_workers=1, os_cache=True, drop_last=False,
            order=OrderOption.SEQUENTIAL, pipelines=pipelines,
        )
        batches += [(images.copy(), labels.copy()) for images, labels in loader]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert labels.ravel().tolist() == split.labels.tolist(), name
    assert images.shape == (split.samples, split.size, split.size, 3), name
    difference = np.abs(images.astype(int) - split.read(np.arange(split.samples)))
    assert difference.max() <= largest and difference.mean() < 1.5, (name, difference.max(), difference.mean())
    print(name)
"""


# FFCV asks libjpeg-turbo for its fast, less exact DCT: 5 levels were seen.
@pytest.mark.parametrize("encoding,largest,divided", [("raw", 0, 0), ("jpeg", 10, 25)])
def test_ffcv_reads_our_shards(tree, tmp_path, encoding, largest, divided):
    (tree / "lowres/l003/2.jpg").write_bytes(b"broken")  # leaves room in the metadata region
    pack(tree, tmp_path / "out", encoding=encoding, workers=1, show_progress=False, shard_samples=divided)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), str(largest)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lowres" in done.stdout.split()
