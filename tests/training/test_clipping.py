"""Clipping inside the fused step takes the step that clipping before it takes."""

import pytest
import torch
from torch import nn

from hrfr_fast.engines.base import Batch
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute
from hrfr_fast.training import step as step_file
from hrfr_fast.training.clipping import clip_in_step, clips_in_step, forget
from hrfr_fast.training.optim import build_optimizer
from hrfr_fast.training.step import TrainStep

CPU = Compute(torch.device("cpu"), None, scaled=False)


def trained(largest: float, scaled: bool, kind: str, steps: int = 4):
    """The weights after some steps, and the last loss scale."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.PReLU(8), nn.Linear(8, 8))
    head = build_head("arcface", 8, 5)
    optimizer = build_optimizer([network, head], lr=0.05, kind=kind)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=256.0)
    step = TrainStep(network, head, optimizer, scaler, CPU, clip_gradient=largest)
    generator = torch.Generator().manual_seed(1)
    for number in range(steps):
        images = torch.randn(6, 3, 4, 4, generator=generator)
        step(Batch(images, torch.arange(6) % 5, 6 * number), number)
    assert not hasattr(optimizer, "grad_scale")
    return torch.cat([p.detach().flatten() for p in (*network.parameters(), *head.parameters())]), scaler.get_scale()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("largest", [0.5, 1e4])
def test_same_steps(monkeypatch, largest, scaled, kind):
    """``largest``: far below the norm of the gradients, and far above it."""
    before, _ = trained(largest, scaled, kind)
    free, _ = trained(0.0, scaled, kind)
    monkeypatch.setattr(step_file, "clips_in_step", lambda _: True)
    inside, _ = trained(largest, scaled, kind)
    torch.testing.assert_close(inside, before, rtol=1e-5, atol=1e-6)
    if kind == "sgd":
        assert torch.allclose(inside, free, rtol=1e-5, atol=1e-6) == (largest > 1)


def one_step(gradient: list[float], scaler: torch.amp.GradScaler, largest: float):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    scaler.scale(torch.zeros(()))
    weight.grad = torch.tensor(gradient) * (scaler.get_scale() if scaler.is_enabled() else 1.0)
    clip_in_step(optimizer, scaler, largest)
    scaler.step(optimizer)
    scaler.update()
    forget(optimizer)
    return weight.detach()


def test_the_norm_is_that_without_the_loss_scale():
    for enabled in (False, True):
        moved = one_step([3.0, 4.0], torch.amp.GradScaler("cpu", enabled=enabled, init_scale=64.0), 1.0)
        torch.testing.assert_close(moved, torch.tensor([-0.6, -0.8]), rtol=1e-5, atol=1e-6)


def test_a_step_that_overflows_is_skipped_and_lowers_the_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    assert one_step([float("inf"), 1.0], scaler, 1.0).tolist() == [0.0, 0.0]
    assert scaler.get_scale() == 32.0


def test_on_a_cpu_gradients_are_clipped_as_they_were():
    optimizer = build_optimizer([nn.Linear(2, 2)], lr=0.1)
    assert optimizer.param_groups[0]["fused"] and not clips_in_step(optimizer)
