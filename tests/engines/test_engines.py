"""Engines beyond pixels: damage is found in time, nothing is left behind, and the choice gives its reason."""

import ctypes
import gc
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_cases import DEVICES, ENGINES, EVERYTHING, build, stream_over

from hrfr_fast.engines.choice import Situation, pick_engine
from hrfr_fast.engines.prefetch import prefetch
from hrfr_fast.runtime.errors import DamageFound, UsageError
from hrfr_fast.settings import AugmentSettings

GIB = 2**30


def held():
    """Threads, child processes and open files of this process."""
    tasks = os.listdir("/proc/self/task")
    children = [Path(f"/proc/self/task/{task}/children").read_text(encoding="utf-8").split() for task in tasks]
    return {"threads": len(tasks), "children": sum(map(len, children)), "files": len(os.listdir("/proc/self/fd"))}


def resident_memory():
    """Bytes in RAM, once malloc has given back what is free: without that the figure moves by 50 MB on its own."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
def test_closing_early_leaves_nothing_behind(shards, device, name):
    splits = [shards["lowres", "raw"], shards["highres", "jpeg"]]

    def use():
        engine = build(name, stream_over(splits, 32, AugmentSettings(degrade=0.5)), device=device)
        batches = engine.batches(0, 24 * 1000)
        next(batches), next(batches)
        engine.close()
        del engine, batches
        gc.collect()

    use()  # numba's, torch's and the decoders' threads start once and stay
    before, memory = held(), resident_memory()
    for _ in range(3):
        use()
    assert held() == before
    assert resident_memory() - memory < 32 << 20


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_that_is_kept_is_not_written_over(shards, device, name):
    stream = stream_over([shards["lowres", "raw"]], 32, AugmentSettings())
    with build(name, stream, device=device) as engine:
        kept, copies = [], []
        for batch in engine.batches(0, 24 * 8):
            kept.append(batch.images[:1] if batch.start else batch.images)  # a part keeps the whole
            copies.append(kept[-1].clone())
        assert all(batch.equal(copy) for batch, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_damaged_record_is_named_before_its_pixels_come_out(shards, tmp_path, device, name, encoding):
    split = shards["lowres", encoding]
    for file in (split.path, split.path.with_suffix(".crc32")):
        shutil.copy(file, tmp_path / file.name)
    stream = stream_over([replace(split, path=tmp_path / split.path.name)], 32, AugmentSettings())
    record = int(stream.batch_spec(24).parts[0].records[5])  # the second batch
    with open(stream.splits[0].path, "r+b") as file:
        file.seek(int(split.offsets[record]) + int(split.lengths[record]) // 2)
        file.write(b"\x00" if file.read(1) != b"\x00" else b"\x01")
    before = stream.splits[0].verify()
    assert before.tolist() == [record]
    message = rf"{stream.splits[0].path}: record {record} does not match"
    with pytest.raises(DamageFound, match=message), build(name, stream, verify=True, device=device) as engine:
        for batch in engine.batches(0, 72):
            assert batch.start == 0
    if encoding == "raw":  # without the check raw pixels are whatever they are
        with build(name, stream, device=device) as engine:
            assert len(list(engine.batches(0, 72))) == 3


@pytest.mark.parametrize("device", DEVICES)
def test_dali_pipeline_serves_alone(shards, device):
    pytest.importorskip("nvidia.dali")
    from hrfr_fast.engines.dali import pipeline

    stream = stream_over([shards["lowres", "jpeg"]], 32, AugmentSettings())
    pipe = pipeline(stream, device_id=0 if device == "cuda" else None, dtype="float32", start=48, stop=96)
    with build("dali", stream, device=device) as engine:
        expected = [batch._replace(images=batch.images.cpu()) for batch in engine.batches(48, 96)]
    for batch in expected:
        images, labels = pipe.run()
        images = images.as_cpu()
        assert labels.as_tensor().__array_interface__["shape"] == (24,)
        assert np.array(labels.as_tensor()).tolist() == batch.labels.tolist()
        values = np.array(images.as_tensor()) * 127.5 + 127.5
        assert np.abs(values - batch.images.permute(0, 2, 3, 1).numpy()).max() <= 0.51
    with pytest.raises(StopIteration):
        pipe.run()


def test_a_pipeline_that_cannot_be_built_leaves_no_other_behind(shards, monkeypatch):
    from hrfr_fast.engines import dali

    class First:
        ended = False

        def _shutdown(self):
            self.ended = True

    first, closed = First(), []

    def build_one(host, part, *more):
        host.batch_spec(0)  # its thread has begun
        if part:
            raise RuntimeError("no memory for a second pipeline")
        return first

    monkeypatch.setattr(dali, "require_dali", lambda: None)
    monkeypatch.setattr(dali, "_build", build_one)
    monkeypatch.setattr(dali.HostBatches, "close", lambda host: closed.append(host._thread.shutdown()))
    stream = stream_over([shards["lowres", "raw"], shards["highres", "raw"]], 32, AugmentSettings())
    with dali.Dali(stream, torch.device("cpu"), torch.uint8) as engine, pytest.raises(RuntimeError, match="second"):
        next(engine.batches(0, 48))
    assert first.ended and len(closed) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="the parity tests run it")
@pytest.mark.parametrize("augment", [AugmentSettings(), EVERYTHING], ids=["default", "everything"])
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_dali_accepts_the_graph_of_a_gpu(shards, encoding, augment):
    """Without a driver nothing runs, but DALI checks operators, arguments and the devices of all inputs."""
    pytest.importorskip("nvidia.dali")
    from hrfr_fast.engines.base import FirstUseChecksums
    from hrfr_fast.engines.dali import _define
    from hrfr_fast.engines.dali_feed import HostBatches

    stream = stream_over([shards["lowres", encoding]], 32, augment)
    host = HostBatches(stream, 0, 24, FirstUseChecksums(stream.splits), pinned=True)
    pipe = _define(host, 0, 0, "float16", 2)
    pipe._build_graph()
    pipe._device_id = None  # with a number DALI asks for the driver before it looks at the graph
    pipe._init_pipeline_backend()
    host.close()
    placed = {(op.name.strip("_").split("_")[0], out.device) for op in pipe._ops for out in op.outputs}
    pixels = {"Image", "Resize", "Cast", "CoordTransform", "GaussianBlur", "Erase"}
    assert {device for name, device in placed if name in pixels} == {"gpu"}
    assert {device for name, device in placed if name == "ExternalSource"} == {"cpu"}
    assert [out.device for out in pipe._graph_outputs] == ["gpu", "cpu"]


def test_two_dali_wheels_are_refused(monkeypatch):
    from importlib import metadata

    from hrfr_fast.engines import dali

    monkeypatch.setattr(metadata, "version", lambda name: "2.4.0")
    with pytest.raises(
        UsageError, match="both installed.*\n.*pip uninstall -y nvidia-dali-cuda120 nvidia-dali-cuda130"
    ):
        dali.require_dali()


@pytest.mark.parametrize("name,hint", [("dali", "pip install nvidia-dali"), ("ffcv", "install_ffcv.sh")])
def test_a_missing_library_is_named_with_its_install_line(shards, monkeypatch, name, hint):
    import importlib.util

    stream = stream_over([shards["lowres", "raw"]], 32, AugmentSettings())
    build(name, stream).close()  # skips where it is really missing
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=hint):
        build(name, stream)


HERE = Situation(
    on_cuda=True, pixels=4 * GIB, device_free=70 * GIB, shards=4 * GIB, host_free=60 * GIB, jpeg=False, dali=True,
    ffcv=True, decoder="libturbojpeg.so.0 decodes JPEG",
)  # fmt: skip
CHOICES = {
    "a CPU": ("auto", replace(HERE, on_cuda=False, device_free=0), "resident", "memory maps"),
    "a CPU, JPEG": ("auto", replace(HERE, on_cuda=False, jpeg=True), "resident", "; libturbojpeg.so.0 decodes JPEG"),
    "a CPU, too little memory": ("auto", replace(HERE, on_cuda=False, host_free=GIB), "resident", "expect the disk"),
    "it fits": ("auto", HERE, "resident", "4.0 GiB of pixels fit"),
    "JPEG that fits": ("auto", replace(HERE, jpeg=True), "resident", "decoded once"),
    "too large": ("auto", replace(HERE, pixels=60 * GIB), "dali", "do not fit"),
    "too large, JPEG": ("auto", replace(HERE, pixels=60 * GIB, jpeg=True), "dali", "decoded on the device"),
    "too large even for the host": ("auto", replace(HERE, pixels=90 * GIB, shards=90 * GIB), "dali", "expect the disk"),
    "no DALI": ("auto", replace(HERE, pixels=60 * GIB, dali=False), "ffcv", "nvidia-dali-cuda120"),
    "resident asked, too large": ("resident", replace(HERE, pixels=60 * GIB), "dali", "do not fit"),
    "resident asked": ("resident", HERE, "resident", ""),
    "dali asked": ("dali", HERE, "dali", ""),
    "ffcv asked on a CPU": ("ffcv", replace(HERE, on_cuda=False), "ffcv", ""),
}


@pytest.mark.parametrize("case", CHOICES)
def test_choice_of_an_engine(case):
    asked, here, expected, why = CHOICES[case]
    name, reason = pick_engine(asked, here)
    assert name == expected and why in reason and bool(reason) == bool(why)


def test_nothing_that_streams_is_an_error_with_the_fix():
    with pytest.raises(UsageError, match="do not fit.*pip install nvidia-dali"):
        pick_engine("auto", replace(HERE, pixels=90 * GIB, dali=False, ffcv=False))


def test_ahead_keeps_order_passes_errors_on_and_ends_its_thread():
    closed = []

    def numbers(stop):
        try:
            yield from range(stop)
            raise ValueError("at the end")
        finally:
            closed.append(stop)

    seen = []
    with pytest.raises(ValueError, match="at the end"):
        for number in prefetch(numbers(5)):
            seen.append(number)
    assert seen == list(range(5)) and closed == [5]
    endless = prefetch(numbers(10**9))
    assert [next(endless) for _ in range(4)] == [0, 1, 2, 3]
    endless.close()
    assert closed == [5, 10**9]
    assert not [thread for thread in threading.enumerate() if thread.name == "hrfr-prefetch"]
