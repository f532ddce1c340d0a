"""The choice among ways to execute a step: measured once, kept, and without an effect on what is trained."""

import importlib.metadata

import pytest
import torch
from torch import nn

from hrfr_fast.engines.base import Batch
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute
from hrfr_fast.training import fastest_way as file
from hrfr_fast.training.fastest_way import Remembered, Way, choose_way, fastest_way, open_ways, step_key, timed
from hrfr_fast.training.optim import build_optimizer
from hrfr_fast.training.step import TrainStep

EAGER, GRAPH, COMPILED, BOTH = open_ways("auto", "auto")
KEY = {"card": "a card", "batch": [[8, 3, 4, 4], "bfloat16"]}
SECONDS = {EAGER: 0.03, GRAPH: 0.02, COMPILED: 0.025, BOTH: 0.01}


class Measured:
    """Known times of ways; those in ``broken`` raise. Remembers what it was asked."""

    def __init__(self, broken=()):
        self.broken, self.asked = broken, []

    def __call__(self, way):
        self.asked.append(way)
        if way in self.broken:
            raise RuntimeError(f"{way} met an illegal memory access\nand a long story")
        return SECONDS[way]


def choose(folder, measured, ways=(EAGER, GRAPH, COMPILED, BOTH), key=KEY):
    said = []
    return fastest_way(key, list(ways), measured, Remembered(folder), said.append), " | ".join(said)


def test_what_auto_leaves_open():
    assert (Way("off", "off"), Way("on", "on")) == (EAGER, BOTH)
    assert open_ways("off", "auto") == [EAGER, GRAPH] and open_ways("on", "auto") == [COMPILED, BOTH]
    assert open_ways("off", "off") == [EAGER]
    assert [str(way) for way in (EAGER, BOTH)] == ["eager", "compiled and one CUDA graph"]
    fused = [Way("off", "off", "on"), Way("off", "on", "on")]
    assert open_ways("auto", "auto", "auto") == [EAGER, fused[0], GRAPH, fused[1], COMPILED, BOTH]
    assert open_ways("off", "auto", "on") == fused
    assert [str(way) for way in fused] == ["fused kernels", "fused kernels and one CUDA graph"]


def test_the_fastest_is_chosen_and_remembered(tmp_path):
    measured = Measured()
    way, said = choose(tmp_path / "cache", measured)
    assert way == BOTH and measured.asked == [EAGER, GRAPH, COMPILED, BOTH]
    assert "eager 30 ms" in said and "is the fastest" in said
    again = Measured()
    way, said = choose(tmp_path / "cache", again)
    assert way == BOTH and again.asked == [] and "earlier trial" in said


def test_another_card_or_another_choice_is_tried_anew(tmp_path):
    choose(tmp_path, Measured())
    for changes in ({"key": KEY | {"card": "another"}}, {"ways": (EAGER, GRAPH)}):
        measured = Measured()
        way, _ = choose(tmp_path, measured, **changes)
        assert measured.asked and way == (BOTH if "key" in changes else GRAPH)


def test_a_way_that_fails_is_left_out_with_its_reason(tmp_path):
    way, said = choose(tmp_path, Measured(broken=(BOTH, GRAPH)))
    assert way == COMPILED
    assert "one CUDA graph is left out: one CUDA graph met an illegal memory access" in said and "story" not in said


def test_where_every_way_fails_the_simplest_shows_why(tmp_path):
    """Memory that runs out in every way is told as with a single way; the failure is not remembered."""
    for _ in range(2):
        measured = Measured(broken=tuple(SECONDS))
        assert choose(tmp_path, measured)[0] == EAGER and len(measured.asked) == 4
    step = make_step(graphs="auto", choose=lambda *given: choose_way(*given, Remembered(tmp_path)))

    def runs_out(images):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    step.backbone[0].forward = runs_out
    with pytest.raises(torch.cuda.OutOfMemoryError, match="20 GiB"):
        step(batches()[0], 0)
    assert (step.compile, step.graphs) == ("off", "off")


def test_a_single_way_needs_no_trial(tmp_path):
    measured = Measured()
    assert choose(tmp_path, measured, ways=(GRAPH,)) == (GRAPH, "") and measured.asked == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ways": 3, "fastest": ["on", "on"], "key": {}}'])
def test_damaged_memory_is_none(tmp_path, content):
    choose(tmp_path, Measured())
    (kept,) = tmp_path.iterdir()
    kept.write_text(content)
    measured = Measured()
    assert choose(tmp_path, measured)[0] == BOTH and measured.asked


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(tmp_path):
    (tmp_path / "file").write_text("")
    assert choose(tmp_path / "file" / "cache", Measured())[0] == BOTH


def make_step(network=None, **more):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
    head = build_head("arcface", 8, 5)
    optimizer = build_optimizer([network, head], lr=0.05)
    cpu = Compute(torch.device("cpu"), None, scaled=False)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainStep(network, head, optimizer, scaler, cpu, clip_gradient=5.0, **more)


def batches():
    generator = torch.Generator().manual_seed(1)
    return [Batch(torch.randn(6, 3, 4, 4, generator=generator), torch.arange(6) % 5, 6 * n) for n in range(3)]


def losses(step):
    torch.manual_seed(5)
    return [step(batch, number).item() for number, batch in enumerate(batches())]


def test_trying_changes_nothing():
    step, plain, ticks = make_step(), make_step(), iter([1.0, 5.0])
    assert timed(step, batches()[0], lambda: next(ticks)) == 4.0 / file.STEPS
    assert losses(step) == losses(plain)
    assert all(torch.equal(one, other) for one, other in zip(weights(step), weights(plain), strict=True))


def weights(step):
    return [tensor for part in step.trained_parts for tensor in part.state_dict().values()]


@pytest.mark.parametrize("fastest", ["off", "on"])
def test_kernels_are_switched_for_each_trial_and_for_the_run(tmp_path, monkeypatch, fastest):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    network = build_backbone(BackboneSettings(16, 8, 8, name="irse18"))
    step, seen = make_step(network=network, kernels="auto", say=lambda _: None), []

    def timed(trial, batch):
        seen.append((network.gpu_kernels, trial.objective.gpu_kernels))
        return 1.0 if network.gpu_kernels == (fastest == "on") else 2.0

    monkeypatch.setattr(file, "timed", timed)
    for _ in range(2):  # by trial, and as remembered
        step.kernels = "auto"
        choose_way(step, batches()[0], Remembered(tmp_path))
        assert step.kernels == fastest and network.gpu_kernels == step.objective.gpu_kernels == (fastest == "on")
        file.switch_gpu_kernels(step.owned, on=fastest == "off")
    assert seen == [(False, False), (True, True)]


def test_kernels_are_compiled_before_the_first_step_which_changes_nothing():
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    network, said = build_backbone(BackboneSettings(16, 8, 8)), []
    step = make_step(network=network, kernels="on", say=said.append)
    file.switch_gpu_kernels(step.owned, on=True)
    before = [tensor.clone() for tensor in weights(step)]
    batch = Batch(torch.randn(6, 3, 16, 16), torch.arange(6) % 5, 0)
    assert step.prepares_next
    step.prepare(batch)
    (told,) = said
    assert told.startswith("compiled ") and int(told.split()[1]) > 50 and not step.prepares_next
    assert all(torch.equal(one, other) for one, other in zip(weights(step), before, strict=True))


def test_a_failure_while_kernels_are_compiled_is_none_of_the_step(monkeypatch):
    """The trial step computes on numbers that nobody wrote, and holds a second copy of all weights."""
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    step, calls = make_step(kernels="on"), []

    def fails_once(images):
        calls.append(len(images))
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return type(step.backbone[0]).forward(step.backbone[0], images)

    monkeypatch.setattr(step.backbone[0], "forward", fails_once)
    assert losses(step) == losses(make_step()) and len(calls) == 4


def test_a_step_settles_before_it_is_prepared(tmp_path, monkeypatch):
    """On a CPU a graph cannot be captured, so of eager and graph the eager step is left, and the steps are the same."""
    said = []
    step = make_step(graphs="auto", choose=lambda *given: choose_way(*given, Remembered(tmp_path)), say=said.append)
    assert losses(step) == losses(make_step())
    assert (step.compile, step.graphs) == ("off", "off") and not step.prepares_next
    assert "left out: the step cannot be captured as a CUDA graph" in " ".join(said)
    key = step_key(step, batches()[0])
    assert Remembered(tmp_path).find(key, [EAGER, GRAPH]) == EAGER
    with monkeypatch.context() as newer:
        newer.setattr(importlib.metadata, "version", lambda package: {"triton": "99.0"}[package])
        assert step_key(step, batches()[0]) != key
    step.backbone.eval()
    assert step_key(step, batches()[0]) != key
