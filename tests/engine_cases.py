"""Images that are hard to resample, and every engine that can run here, built the same way."""

from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from hrfr_fast.format import beton
from hrfr_fast.format.reader import Split
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.sampling.sampler import Sampler
from hrfr_fast.sampling.stream import SingleViewStream
from hrfr_fast.settings import AugmentSettings

CPU = torch.device("cpu")
STILL = AugmentSettings(flip=0.0, shift=0.0, brightness=0.0)
EVERYTHING = AugmentSettings(
    zoom=0.3, contrast=0.3, saturation=0.5, grey=0.2, blur=0.5, erase=0.5, degrade=0.6, degrade_min=9
)
ENGINES = ("resident", "resident-torch", "dali", "ffcv")
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
KERNEL_DEVICES = (
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    DEVICES[1],
)
"""Where the GPU's kernels run: in Triton's interpreter, or on a card."""


def build(name, stream, dtype=torch.uint8, verify=False, device=CPU):
    """The engine called ``name``; the test is skipped, saying so, where its library is missing."""
    device = torch.device(device)
    if name == "resident" and device.type == "cpu":
        from hrfr_fast.engines.resident import ResidentCPU

        return ResidentCPU(stream, dtype, verify=verify)
    if name in ("resident", "resident-torch"):
        from hrfr_fast.engines import resident_cuda

        if name == "resident":
            pytest.importorskip("triton", reason="Triton exists for Linux only")
        # With Triton's kernels or without. On a CPU without: through the interpreter they are far slower, and have
        # their own tests in test_resident_cuda.py.
        with mock.patch.object(resident_cuda, "kernels_run_on", lambda device: name == "resident"):
            return resident_cuda.build_resident_cuda(stream, device, dtype, verify=verify)
    if name == "dali":
        pytest.importorskip("nvidia.dali")
        from hrfr_fast.engines.dali import Dali

        return Dali(stream, device, dtype, verify=verify)
    if find_spec("ffcv") is None:  # pytest.importorskip would import it, side effects and all
        pytest.skip("needs FFCV")
    from hrfr_fast.engines.ffcv import FFCV

    return FFCV(stream, device, dtype, verify=verify)


def stream_over(splits, size, augment, batch_size=24, **rank):
    first, second = splits[0].samples, sum(split.samples for split in splits[1:])
    return SingleViewStream(tuple(splits), Sampler(3, first, second), augment, size, batch_size, **rank)


def hard_pictures(faces: np.ndarray) -> np.ndarray:
    """Noise, flat pictures with one-pixel frames, and faces: uint8 [3n, size, size, 3]."""
    count, size = faces.shape[:2]
    rng = np.random.default_rng(size)
    noise = rng.integers(0, 256, faces.shape, dtype=np.uint8)
    framed = np.empty_like(faces)
    framed[:] = rng.integers(0, 256, (count, 1, 1, 3))
    for picture, values in zip(framed, rng.integers(0, 2, (count, 4, 3)) * 255, strict=True):
        picture[0], picture[-1], picture[:, 0], picture[:, -1] = values
    return np.concatenate([noise, framed, faces])


def write_shard(path: Path, name: str, pictures: np.ndarray, encoding: str) -> Split:
    count, size = pictures.shape[:2]
    simplejpeg = pytest.importorskip("simplejpeg") if encoding == "jpeg" else None
    writer = SplitWriter(path, count, size, page_size=1 << 18)
    for number, picture in enumerate(pictures):
        if encoding == "raw":
            writer.append(picture, number % 5, beton.RAW)
        else:
            writer.append(simplejpeg.encode_jpeg(picture, 90, "RGB", "420"), number % 5, beton.JPEG)
    writer.finish()
    return Split(name, path, size, count, 5, encoding)
