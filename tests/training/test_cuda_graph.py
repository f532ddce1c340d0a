"""A capture that fails leaves no trace: the run goes on without a graph as if none had been tried."""

import pytest
import torch
from fake_cuda import FakeCuda
from test_step import make_step, run

from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.training import cuda_graph

SCALED = Compute(torch.device("cpu"), None, scaled=True)


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(cuda_graph, "_failed", [])
    return FakeCuda(monkeypatch)


def out_of_memory(*_):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand a long story")


def cannot_be_captured(*_):
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")


def in_the_forward_pass(step, cuda, fail):
    step.objective.register_forward_pre_hook(lambda *_: fail() if cuda.capturing else None)


def in_the_optimizer(step, cuda, fail):
    """The scaler has unscaled by then and lent the optimiser its scale."""
    step.optimizer.register_step_pre_hook(lambda *_: fail() if cuda.capturing else None)


def in_the_optimizer_unclipped(step, cuda, fail):
    """Without clipping it is the optimiser that unscales, by a scale left with it for the time of its step."""
    step.clip_gradient = 0.0
    in_the_optimizer(step, cuda, fail)


def in_the_warm_up(step, cuda, fail):
    calls = []
    step.objective.register_forward_pre_hook(lambda *_: calls.append(1) or (fail() if len(calls) == 2 else None))


def nowhere(step, cuda, fail):
    pass


# where the step fails, with what, whether ending the capture fails too, and what the user is told
FAILURES = {
    "when the capture is ended": (nowhere, None, True, "operation failed due to a previous error"),
    "when torch ends it": (nowhere, None, "late", "operation failed due to a previous error"),
    "forward pass": (in_the_forward_pass, cannot_be_captured, True, "operation not permitted when stream"),
    "optimiser's step": (in_the_optimizer, cannot_be_captured, True, "operation not permitted when stream"),
    "optimiser's step, unclipped": (in_the_optimizer_unclipped, cannot_be_captured, True, "operation not permitted"),
    "out of memory": (in_the_optimizer, out_of_memory, True, "out of memory"),
    "out of memory, well ended": (in_the_forward_pass, out_of_memory, False, "out of memory"),
    "out of memory in the warm-up": (in_the_warm_up, out_of_memory, False, "out of memory"),
}


def failing(cuda, case, **more):
    where, fail, cuda.fails_at_the_end, _ = FAILURES[case]
    step = make_step("adaface", SCALED, **more)
    where(step, cuda, fail)
    return step


@pytest.mark.parametrize("case", FAILURES)
def test_auto_goes_on_as_if_no_capture_had_been_tried(cuda, case):
    plain = make_step("adaface", SCALED)
    plain.clip_gradient = 0.0 if "unclipped" in case else plain.clip_gradient
    cuda_graph.learning_rates_on_device(plain.optimizer, torch.zeros(1))  # a number would be rounded otherwise
    losses, tensors = run(plain, 3)
    said: list[str] = []
    step = failing(cuda, case, graphs="auto", say=said.append)
    after = run(step, 3)
    assert torch.equal(after[0], losses) and all(map(torch.equal, after[1], tensors))
    assert step.scaler.state_dict() == plain.scaler.state_dict() and step.graphs == "off"
    assert cuda.clean, vars(cuda)
    assert len(said) == 1 and FAILURES[case][3] in said[0] and said[0].endswith("; going on without")


@pytest.mark.parametrize("case", FAILURES)
def test_a_graph_that_was_asked_for_is_an_error_with_the_way_out(cuda, case):
    with pytest.raises(HrfrError, match=f"{FAILURES[case][3]}.*--graphs off"):
        run(failing(cuda, case, graphs="on"), 1)
    assert cuda.clean, vars(cuda)


def test_a_gpu_that_cannot_go_on_is_said_with_the_way_out(cuda, monkeypatch):
    """Some errors of CUDA's are returned by every later call."""
    step = failing(cuda, "when the capture is ended", graphs="auto")
    monkeypatch.setattr(step, "wait", lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: an illegal access")))
    with pytest.raises(HrfrError, match="previous error.*cannot be used after that.*illegal.*--graphs off"):
        run(step, 1)


def test_the_stand_in_captures_where_nothing_fails(cuda):
    """What the tests above find clean is not clean by itself."""
    step = make_step("adaface", SCALED, graphs="on")
    step._graph = cuda_graph.StepGraph(step._take, torch.rand(12, 3, 16, 16), torch.arange(12))
    assert cuda.pools and not cuda.clean
    step._graph = None
    assert cuda.clean


# ---- on a GPU -------------------------------------------------------------------------------------------------------


def reads_back(*_):
    """A host that waits for the device cannot be captured."""
    torch.ones(1, device="cuda").item()


@pytest.mark.gpu
@pytest.mark.parametrize("where", [in_the_forward_pass, in_the_optimizer])
@pytest.mark.parametrize("fail", [reads_back, out_of_memory])
def test_a_run_on_a_gpu_goes_on_after_a_failed_capture(where, fail):
    """Losses, dropout's random numbers, the stream, memory that another stream used: all as without a capture."""

    class Capture:
        capturing = property(lambda self: torch.cuda.is_current_stream_capturing())

    compute, stream = choose_compute("cuda", "fp16"), torch.cuda.current_stream()
    losses, _ = run(make_step(compute=compute), 8, device="cuda", dtype=torch.float16)
    said: list[str] = []
    step = make_step(compute=compute, graphs="auto", say=said.append)
    where(step, Capture(), fail)
    after, _ = run(step, 8, device="cuda", dtype=torch.float16)
    torch.testing.assert_close(after, losses, rtol=0.02, atol=0.02)
    assert len(said) == 1 and torch.cuda.current_stream() == stream
    other, before = torch.cuda.Stream(), torch.cuda.memory_reserved()
    for _ in range(16):
        torch.empty(64 << 20, dtype=torch.uint8, device="cuda").record_stream(other)
        torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() - before <= 128 << 20, "memory that another stream used is used again"
    torch.rand(8, device="cuda")


@pytest.mark.gpu
def test_after_a_failed_capture_another_may_succeed():
    """As in a study, whose trainings share a process."""
    compute = choose_compute("cuda", "fp16")
    step = make_step(compute=compute, graphs="auto")
    step.objective.register_forward_pre_hook(
        lambda *_: reads_back() if torch.cuda.is_current_stream_capturing() else None
    )
    run(step, 2, device="cuda", dtype=torch.float16)
    good = make_step(compute=compute, graphs="on")
    losses, _ = run(good, 4, device="cuda", dtype=torch.float16)
    assert good._graph is not None and torch.isfinite(losses).all()
