"""A capture that fails leaves no trace: the run goes on without a graph as if none had been tried."""

import pytest
import torch
from fake_cuda import FakeCuda
from test_step import make_step, run

from hrfr_fast.errors import HrfrError
from hrfr_fast.training import graph
from hrfr_fast.training.device import Compute

SCALED = Compute(torch.device("cpu"), None, scaled=True)


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(graph, "_failed", [])
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


def in_the_warm_up(step, cuda, fail):
    calls = []
    step.objective.register_forward_pre_hook(lambda *_: calls.append(1) or (fail() if len(calls) == 2 else None))


def nowhere(step, cuda, fail):
    pass


# where the step fails, with what, whether ending the capture fails too, and what the user is told
FAILURES = {
    "when the capture is ended": (nowhere, None, True, "operation failed due to a previous error"),
    "forward pass": (in_the_forward_pass, cannot_be_captured, True, "operation not permitted when stream"),
    "optimiser's step": (in_the_optimizer, cannot_be_captured, True, "operation not permitted when stream"),
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
    graph.rates_on_device(plain.optimizer, torch.zeros(1))  # a number would be rounded otherwise
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
    monkeypatch.setattr(step, "_wait", lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: an illegal access")))
    with pytest.raises(HrfrError, match="previous error.*cannot be used after that.*illegal.*--graphs off"):
        run(step, 1)


def test_the_stand_in_captures_where_nothing_fails(cuda):
    """What the tests above find clean is not clean by itself."""
    step = make_step("adaface", SCALED, graphs="on")
    step._graph = graph.StepGraph(step._take, torch.rand(12, 3, 16, 16), torch.arange(12))
    assert cuda.pools and not cuda.clean
    step._graph = None
    assert cuda.clean
