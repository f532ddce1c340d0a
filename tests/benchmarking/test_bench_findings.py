"""What measured rates are said to mean, on machines that are not this one."""

from dataclasses import replace

import pytest

from hrfr_fast.benchmarking.findings import findings, limit
from hrfr_fast.benchmarking.result import BenchResult, Machine, Rate
from hrfr_fast.engines.choice import Situation
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.speed import Throughput


def rate(name, median, spread=0.02, cores_busy=2.0):
    return Rate(name, median, median * (1 - spread), median * (1 + spread), cores_busy)


CPU = BenchResult(
    packed="packed", settings=TrainSettings(regime="lowres32", width=16, batch_size=128, precision="fp32"), size=32,
    classes=100, faces=90_000, machine=Machine("CPU, float32", 2, 2, 0.5, "fp32", 8 << 30),
    situation=Situation(False, 4 << 30, 0, 1 << 30, 8 << 30, False, "", True, True),
    engines=(rate("resident", 40_000), rate("dali", 3_000), rate("ffcv", 30_000)), absent={}, picked="resident",
    reason="one kernel", constant=rate("constant batch", 1000), fed=rate("fed", 970),
    speed=Throughput(970.0, 0.03, None, "device"),
)  # fmt: skip
CUDA = replace(
    CPU, settings=TrainSettings(regime="lowres32", batch_size=1024, precision="bf16"),
    machine=Machine("GPU, bfloat16", 16, 16, 0.5, "bf16", 64 << 30, 40 << 30, 80 << 30),
    situation=replace(CPU.situation, on_cuda=True, device_free=70 << 30),
)  # fmt: skip
STARVED = {"fed": rate("fed", 500), "speed": Throughput(500.0, 0.6, None, "data")}


def lines(result, kind):
    return " ".join(text for name, text in findings(result) if name == kind)


@pytest.mark.parametrize(
    "result,limits,said,fix",
    [
        (CPU, "step", "97% of the step on one constant batch", "a GPU, or a CPU with more cores"),
        (replace(CPU, **STARVED), "loader", "waits 60% of the time", "more CPU cores"),
        (replace(CPU, constant=rate("c", 1000, cores_busy=0.9)), "threads", "threads", "a GPU"),
        (CUDA, "step", "resident alone makes 40.0 times", "several GPUs"),
        (replace(CUDA, speed=Throughput(970.0, 0.0, None, "host")), "host", "Python and launches", "--batch-size"),
        (replace(CUDA, **STARVED), "loader", "50%", "--augment"),
    ],
    ids=["step", "loader", "threads", "GPU", "host", "GPU starved"],
)
def test_the_limit_is_named_with_what_to_try(result, limits, said, fix):
    assert limit(result) == limits and said in lines(result, "limit") and fix in lines(result, "fix")
    assert not lines(CPU, "warning"), "a healthy machine is not warned"


def test_shards_larger_than_memory_limit_a_run_that_waits():
    here = replace(CPU.situation, shards=9 << 30)
    assert limit(replace(CPU, situation=here, **STARVED)) == "memory"
    assert "9.0 GiB of shards exceed 8.0 GiB" in lines(replace(CPU, situation=here), "warning")
    kept = replace(CUDA, situation=replace(CUDA.situation, shards=9 << 30), **STARVED)
    assert limit(kept) == "loader" and not lines(kept, "warning"), "the resident engine has read them once"


def test_an_engine_that_was_faster_is_named_with_what_a_run_gains():
    better = replace(CPU, engines=(rate("resident", 40_000), rate("ffcv", 60_000)))
    assert "ffcv made batches 1.50 times as fast as resident: --engine ffcv; a run gains 3% at most" in (
        lines(better, "warning")
    )
    assert "none was faster" not in lines(better, "engine") and "none was faster" in lines(CPU, "engine")
    assert "--engine ffcv" in lines(replace(better, **STARVED), "fix")
    overlapping = replace(CPU, engines=(rate("resident", 40_000, 0.3), rate("ffcv", 50_000, 0.3)))
    assert not lines(overlapping, "warning"), "rounds that overlap prove nothing"


def test_jpeg_is_advised_its_decoder_and_raw_pixels():
    here = replace(CPU.situation, jpeg=True, decoder="simplejpeg decodes JPEG; `apt install libturbojpeg0` makes that")
    told = lines(replace(CPU, situation=here, **STARVED), "fix")
    assert "libturbojpeg0" in told and "--encoding raw" in told and "4.0 GiB" in told


@pytest.mark.parametrize(
    "machine,said",
    [
        ({"load": 7.3}, "other processes use these 2 cores, too (load average 7.3)"),
        ({"threads": 1}, "1 of 2 cores"),
        ({"memory_available": 1 << 29}, "0.5 GiB of memory were left"),
        ({"gpu_peak": 79 << 30, "gpu_total": 80 << 30}, "smaller --batch-size"),
    ],
)
def test_what_slows_a_machine_down_is_told(machine, said):
    assert said in lines(replace(CPU, machine=replace(CPU.machine, **machine)), "warning")


def test_one_thread_is_not_advised_to_a_run_that_has_it():
    busy = replace(CPU.machine, load=7.3, threads=1)
    told = lines(replace(CPU, machine=busy), "warning")
    assert "load average 7.3" in told and "OMP_NUM_THREADS" not in told


def test_a_wide_network_in_the_wrong_precision_is_advised_on_a_cpu():
    wide = replace(
        CPU, settings=TrainSettings(regime="lowres32", batch_size=128, precision="bf16", fused_kernels="off")
    )
    told = lines(wide, "fix")
    assert all(flag in told for flag in ("--width 16", "--precision fp32", "--fused-kernels auto"))
    assert "--width 16" not in lines(CPU, "fix")
