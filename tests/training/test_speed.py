import json
import os
import tempfile
from types import SimpleNamespace

import pytest
import torch

from benchmarks.roofline import step_operations
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training import profile, speed
from hrfr_fast.training.compiling import build_name, compile_choice
from hrfr_fast.training.cuda_graph import graphs_choice
from hrfr_fast.training.losses import LossBuffer
from hrfr_fast.training.metrics import read_metrics
from hrfr_fast.training.speed import StepTimer, limiting_factor, matrix_rate, training_flops
from hrfr_fast.training.trainer import train

CPU = Compute(torch.device("cpu"), None, scaled=False)
CUDA = Compute(torch.device("cuda"), torch.bfloat16, scaled=False)


@pytest.mark.parametrize(
    "on_cuda,waiting,stepping,blocked,expected",
    [
        (False, 0.6, 0.4, 0.0, "data"),
        (False, 0.2, 0.7, 0.0, "device"),
        (False, 0.1, 0.2, 0.0, "host"),
        (True, 0.2, 0.0, 0.5, "data"),
        (True, 0.01, 0.0, 0.5, "device"),
        (True, 0.01, 0.0, 0.0, "host"),
    ],
)
def test_what_limits(on_cuda, waiting, stepping, blocked, expected):
    assert limiting_factor(on_cuda, waiting, stepping, blocked) == expected


class FakeTime:
    """Stands in for the module ``time``: passes only when told."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def slow_source(self, count, seconds):
        for number in range(count):
            self.now += seconds
            yield number


@pytest.mark.parametrize("data,step,limit", [(3.0, 1.0, "data"), (1.0, 3.0, "device")])
def test_the_clock_separates_data_from_steps_and_leaves_pauses_out(monkeypatch, data, step, limit):
    time = FakeTime()
    monkeypatch.setattr(speed, "time", time)
    clock = StepTimer(CPU, 50, training_flops=2.0, peak=250.0)
    for number in clock.batches(time.slow_source(4, data)):
        if number == 2:  # before the step, as the trainer verifies
            assert clock.read().images_per_second == pytest.approx(2 * 50 / (4 * 2 + data))
            with clock.paused():
                time.now += 1000
        time.now += step
        clock.step()
    clock.read()
    whole = clock.whole()
    assert whole.images_per_second == pytest.approx(50 / 4)
    assert whole.waiting == pytest.approx(data / 4) and whole.limit == limit
    assert whole.utilisation == pytest.approx(50 / 4 * 2 / 250)
    assert f"12 images/s, 10% of the device's matrix rate, limited by the {limit}" == str(whole)


def test_operations_are_counted_for_any_network_and_freezing_saves_the_backward_pass():
    settings = BackboneSettings(32, width=16, embedding_size=64)
    network = build_backbone(settings)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    full = training_flops(network, 32)
    assert full == pytest.approx(sum(one.flops for one in step_operations(settings, 0, 2)) / 2)
    network.stem.requires_grad_(False)
    network.body.requires_grad_(False)
    assert training_flops(network, 32) == pytest.approx(full / 3, rel=0.05)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("before", ["", f"{tempfile.gettempdir()}/torchinductor_me"], ids=["empty", "set by torch"])
def test_counting_leaves_compiled_kernels_their_lasting_place(before, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    training_flops(build_backbone(BackboneSettings(32, width=8, embedding_size=8)), 32)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "hrfr-fast" / f"inductor-{build_name()}")


def test_the_matrix_rate_is_that_of_a_product():
    assert 1e8 < matrix_rate(CPU, size=256, repeats=3) < 1e14


def test_losses_come_back_in_order_with_their_line():
    losses = LossBuffer()
    assert losses.read() == [] and not losses
    for value in (1.0, 2.0):
        losses.add(torch.tensor(value))
    losses.close({"step": 2})
    losses.add(torch.tensor(3.0))
    [(line, values)] = losses.read()
    assert line == {"step": 2} and values.tolist() == [1.0, 2.0] and len(losses) == 1


@pytest.mark.gpu
def test_on_a_gpu_the_newest_losses_wait_for_the_next_reading():
    losses = LossBuffer()
    for step in (1, 2, 3):
        losses.add(torch.full((), float(step), device="cuda"))
        losses.close({"step": step})
        assert [line["step"] for line, _ in losses.read()] == ([step - 1] if step > 1 else [])
    [(line, values)] = losses.read(everything=True)
    assert line == {"step": 3} and values.tolist() == [3.0]


def test_compiling_is_for_long_runs_on_a_gpu():
    assert compile_choice("auto", CUDA, training_flops=1e15, peak=8e14) == "off"
    assert compile_choice("auto", CUDA, training_flops=1e18, peak=8e14) == "auto"
    assert compile_choice("auto", CPU, training_flops=1e18, peak=None) == "off"
    assert compile_choice("on", CPU, training_flops=1.0, peak=None) == "on"


def test_graphs_need_a_gpu():
    assert [graphs_choice(choice, CUDA) for choice in ("auto", "on", "off")] == ["auto", "on", "off"]
    assert graphs_choice("auto", CPU) == "off"
    with pytest.raises(UsageError, match="--graphs on: CUDA graphs need an NVIDIA GPU"):
        graphs_choice("on", CPU)


def test_a_profiled_run_says_what_limits_it_and_leaves_trace_and_table(tiny_packed, tmp_path):
    settings = TrainSettings(
        regime="lowres32", data=str(tiny_packed), out=str(tmp_path / "run"), steps=8, batch_size=8, width=8,
        embedding_size=8, device="cpu", eval_every=0, log_every=4, profile=2,
    )  # fmt: skip
    result = train(settings, show_progress=False)
    assert result.speed.limit in ("data", "host", "device") and 0 < result.speed.waiting < 1
    assert result.speed.images_per_second > 0
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [4, 8] and all(0 < line["waiting"] < 1 for line in lines)
    table = (tmp_path / "run" / "profile" / "table.txt").read_text().splitlines()
    counts = {line[:58].strip(): line[58:].split()[0] for line in table}
    assert counts["step: forward"] == counts["step: update"] == "1.0", "per step, over two steps"
    convolutions = 1 + 8 * 2 + 3  # stem, blocks, projections; squeeze-and-excitation is two matrix products
    # oneDNN's operator, or PyTorch's own where it takes the batch itself (one thread).
    operators = counts.keys() & {"aten::mkldnn_convolution", "aten::_slow_conv2d_forward"}
    assert sum(float(counts[operator]) for operator in operators) == convolutions
    trace = json.loads((tmp_path / "run" / "profile" / "trace.json").read_text())
    assert any(event.get("name") == "step: backward" for event in trace["traceEvents"])


def test_a_run_too_short_to_profile_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(profile, "console", SimpleNamespace(print=lambda text, **_: said.append(text)))
    with profile.StepProfiler(3, tmp_path, torch.device("cpu")) as profiler:
        profiler.step()
    assert said == ["no profile: the run ended within the 5 steps that are left out"]
