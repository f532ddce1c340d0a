import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.training.optim import build_optimizer, learning_rate, restore_optimizer, set_learning_rate


@pytest.fixture
def modules():
    torch.manual_seed(0)
    return [build_backbone(BackboneSettings(32, width=8, embedding_size=8)), build_head("arcface", 8, 10)]


def test_only_weights_decay(modules):
    """Sorted by what each parameter belongs to, not by its shape."""
    optimizer = build_optimizer(modules, lr=0.1, weight_decay=5e-4)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    seen = set()
    for part in itertools.chain.from_iterable(module.modules() for module in modules):
        for name, parameter in part.named_parameters(recurse=False):
            plain = isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.PReLU) or name == "bias"
            assert decay.pop(id(parameter)) == (0 if plain else 5e-4), (type(part), name)
            seen.add((type(part).__name__, name))
    assert decay == {}, "no parameter twice, none left out"
    assert seen >= {
        ("Conv2d", "weight"), ("Linear", "weight"), ("Linear", "bias"), ("ArcFace", "weight"),
        ("PReLU", "weight"), ("BatchNorm2d", "weight"), ("BatchNorm2d", "bias"), ("BatchNorm1d", "weight"),
    }  # fmt: skip


def test_steps_are_those_of_sgd_with_momentum():
    """v = 0.9 v + g + decay w; w -= lr v, in NumPy."""
    layer = nn.Linear(3, 2).double()
    optimizer = build_optimizer([layer], lr=0.1, momentum=0.9, weight_decay=0.01)
    values = {name: p.detach().numpy().copy() for name, p in layer.named_parameters()}
    speed = {name: np.zeros_like(value) for name, value in values.items()}
    generator = np.random.default_rng(0)
    for rate in (0.1, 0.3, 0.05):
        set_learning_rate(optimizer, rate)
        for name, parameter in layer.named_parameters():
            gradient = generator.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(gradient)
            speed[name] = 0.9 * speed[name] + gradient + (0.01 * values[name] if name == "weight" else 0)
            values[name] = values[name] - rate * speed[name]
        optimizer.step()
    for name, parameter in layer.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-12)


def test_steps_are_those_of_adamw():
    """Loshchilov & Hutter, algorithm 2, in NumPy: decay apart from the gradient, means corrected for their start."""
    layer = nn.Linear(3, 2).double()
    optimizer = build_optimizer([layer], kind="adamw", lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
    values = {name: p.detach().numpy().copy() for name, p in layer.named_parameters()}
    mean, square = ({name: np.zeros_like(value) for name, value in values.items()} for _ in range(2))
    generator = np.random.default_rng(0)
    for step, rate in enumerate((0.1, 0.3, 0.05), start=1):
        set_learning_rate(optimizer, rate)
        for name, parameter in layer.named_parameters():
            gradient = generator.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(gradient)
            mean[name] = 0.8 * mean[name] + 0.2 * gradient
            square[name] = 0.9 * square[name] + 0.1 * gradient**2
            moved = mean[name] / (1 - 0.8**step) / (np.sqrt(square[name] / (1 - 0.9**step)) + 1e-8)
            values[name] = values[name] * (1 - rate * 0.01 * (name == "weight")) - rate * moved
        optimizer.step()
    for name, parameter in layer.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-12)


def test_norms_biases_and_positions_of_a_transformer_do_not_decay():
    network = build_backbone(BackboneSettings(32, width=8, embedding_size=8, name="vit-s"))
    optimizer = build_optimizer([network], kind="adamw", lr=0.1, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name for name, parameter in network.named_parameters() if decay[id(parameter)]}
    assert names == {
        name for name, parameter in network.named_parameters()
        if name.endswith("weight") and not ("norm" in name or name.startswith(("output.0", "output.4", "output.6")))
    }  # fmt: skip
    assert len(decay) == len(list(network.parameters())) and "stem.position" not in names


@pytest.mark.parametrize("name,blocks", [("vit-s", 12), ("irse18", 8)])
def test_layers_decay_from_the_output_down(name, blocks):
    """BEiT's factors: 1 for output and head, decay for the last block, decay^(blocks + 1) for the stem."""
    network = build_backbone(BackboneSettings(32, width=8, embedding_size=8, name=name))
    head = build_head("arcface", 8, 10)
    optimizer = build_optimizer([network, head], lr=0.1, layer_decay=0.5)
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"stem": 0.5 ** (blocks + 1), "output": 1.0}
    expected |= {f"body.{number}": 0.5 ** (blocks - number) for number in range(blocks)}
    for full_name, parameter in network.named_parameters():
        part = full_name.split(".")
        assert rates[id(parameter)] == expected[part[0] if part[0] != "body" else f"body.{part[1]}"]
    assert rates[id(head.weight)] == 1.0 and len(optimizer.param_groups) == 2 * (blocks + 2)


def test_a_state_of_another_device_or_version_is_taken_over():
    """How it is executed is the present optimiser's; groups of an earlier version have no factor, which is 1."""
    layer = nn.Linear(3, 2)
    one, other = (build_optimizer([layer], kind="adamw", lr=0.1) for _ in range(2))
    layer(torch.ones(1, 3)).sum().backward()
    one.step()
    state = one.state_dict()
    for group in state["param_groups"]:
        group["capturable"] = True
        del group["rate_factor"]
    restore_optimizer(other, state)
    assert not any(group["capturable"] for group in other.param_groups)
    assert torch.equal(other.state[layer.weight]["exp_avg"], one.state[layer.weight]["exp_avg"])
    set_learning_rate(other, 0.25)
    assert [group["lr"] for group in other.param_groups] == [0.25, 0.25]


def test_the_step_is_fused_and_the_threads_do_not_matter():
    def stepped(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        layer = nn.Linear(301, 211)
        optimizer = build_optimizer([layer], lr=0.1)
        for _ in range(3):
            for parameter in layer.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        torch.set_num_threads(before)
        assert all(group["fused"] for group in optimizer.param_groups)
        return layer.weight.detach()

    one, two = stepped(1), stepped(2)
    assert torch.equal(one, two) and not torch.equal(one, nn.Linear(301, 211).weight)


def test_frozen_parameters_stay_out(modules):
    backbone, head = modules
    backbone.requires_grad_(False)
    optimizer = build_optimizer([backbone, head], lr=0.1)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [head.weight]
    head.requires_grad_(False)
    with pytest.raises(UsageError, match="every parameter is frozen"):
        build_optimizer([backbone, head], lr=0.1)


def test_a_tensor_learning_rate_is_written_in_place(modules):
    """What a captured CUDA graph needs: the address stays, the value changes. On a CPU with foreach's tensor rate."""
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD(modules[1].parameters(), lr=rate, foreach=False)
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == 0.25


@pytest.mark.gpu
def test_the_rate_is_on_the_device_on_cuda(modules):
    optimizer = build_optimizer([module.cuda() for module in modules], lr=0.1)
    before = [group["lr"] for group in optimizer.param_groups]
    assert all(rate.is_cuda for rate in before)
    set_learning_rate(optimizer, 0.5)
    weight = modules[1].weight
    expected = weight.detach() * (1 - 0.5 * 5e-4) - 0.5
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, before, strict=True))
    torch.testing.assert_close(weight.detach(), expected)


def rates(total, warmup, schedule):
    return [learning_rate(step, total, base=0.4, warmup_steps=warmup, schedule=schedule) for step in range(total)]


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
@pytest.mark.parametrize("total,warmup", [(1000, 50), (1000, 1), (1000, 0), (7, 3)])
def test_the_schedule_rises_then_falls_to_nearly_nothing(schedule, total, warmup):
    values = rates(total, warmup, schedule)
    np.testing.assert_allclose(values[:warmup], 0.4 * np.arange(1, warmup + 1) / max(warmup, 1))
    assert values[warmup] == 0.4 and max(values) == pytest.approx(0.4, rel=1e-15)
    after = np.array(values[warmup:])
    assert (np.diff(after) < 0).all(), "strictly falling after the warm-up"
    assert 0 < values[-1] < 0.4 * 3 / (total - warmup)
    assert learning_rate(total, total, base=0.4, warmup_steps=warmup, schedule=schedule) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "schedule,share,expected",
    [
        ("cosine", 0.25, 0.5 * (1 + math.sqrt(0.5))),
        ("cosine", 0.5, 0.5),
        ("polynomial", 0.25, 0.5625),
        ("polynomial", 0.5, 0.25),
        ("polynomial", 0.9, 0.01),
    ],
)
def test_schedules_on_the_way(schedule, share, expected):
    step = 100 + round(1000 * share)
    assert learning_rate(step, 1100, base=1.0, warmup_steps=100, schedule=schedule) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_past_the_end_the_rate_does_not_rise_again(schedule):
    assert learning_rate(2000, 1000, base=0.4, warmup_steps=50, schedule=schedule) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("step", [0, 500])
def test_an_unknown_schedule_is_refused_from_the_first_step(step):
    with pytest.raises(UsageError, match="'linear'.*cosine, polynomial"):
        learning_rate(step, 1000, base=0.1, warmup_steps=50, schedule="linear")
