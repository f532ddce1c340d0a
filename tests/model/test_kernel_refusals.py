"""What the GPU's kernels must not hide: numbers that are none, and that they know no gradients of gradients."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.model.heads import build_head  # noqa: E402
from hrfr_fast.model.kernels import head as head_kernels  # noqa: E402
from hrfr_fast.model.kernels.batch_norm import BatchNorm  # noqa: E402
from hrfr_fast.model.kernels.norm import gated_sum, normalise  # noqa: E402
from hrfr_fast.model.kernels.stem import stem  # noqa: E402

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture
def extremes_of_a_card(monkeypatch):
    """Of NaN and a number a card takes the number, unless it is told to keep NaN; the interpreter always keeps NaN."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime.interpreter import InterpreterBuilder

    for name, function in (("create_maxnumf", np.fmax), ("create_minnumf", np.fmin)):
        monkeypatch.setattr(
            InterpreterBuilder, name, lambda self, one, other, of=function: self.binary_op(one, other, of)
        )


def norm_of(weight, bias, training=True):
    return BatchNorm(weight, bias, torch.zeros_like(bias), torch.ones_like(bias), None, 0.1, 1e-5, training)


@pytest.mark.parametrize("device", DEVICES)
def test_a_class_that_is_no_number_shows_in_the_loss(device, extremes_of_a_card):
    """Of the samples whose target it is, too: no other class says so."""
    head = build_head("arcface", 40, 7).to(device)
    head.gpu_kernels, head.matmul_dtype = True, torch.float32 if device == "cpu" else torch.bfloat16
    head.weight.data[5, 3] = float("nan")
    losses = head(torch.randn(3, 40, device=device), torch.tensor([5, 5, 2], device=device), reduction="none")
    assert losses.isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("broken", range(5), ids=["maps", "weight", "bias", "squeeze", "excite"])
def test_what_is_no_number_closes_no_gate(broken, device, extremes_of_a_card):
    """As ReLU keeps NaN: where any part of a gate is none, the whole image is."""
    shapes = (2, 8, 3, 3), (8,), (8,), (4, 8), (8, 4)
    given = [torch.rand(shape, device=device) for shape in shapes]
    given[broken].view(-1)[-1] = float("nan")
    maps, weight, bias, squeeze, excite = given
    made, _ = gated_sum(maps, norm_of(weight, bias, training=False), torch.zeros_like(maps), squeeze, excite)
    image, channel = 1 if broken == 0 else 0, 7 if broken == 4 else 0
    assert made[image:, channel:].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["norm", "gate", "stem", "head"])
def test_gradients_of_gradients_are_refused(kind, device):
    """Kernels leave no trace for autograd, so a gradient of theirs would count as a constant."""
    images, maps = torch.randn(2, 3, 4, 4, device=device), torch.randn(2, 8, 4, 4, device=device, requires_grad=True)
    weight, bias = (torch.rand(8, device=device, requires_grad=True) for _ in range(2))
    if kind == "norm":
        made = normalise(maps, norm_of(weight, bias))[0]
    elif kind == "gate":
        made, _ = gated_sum(maps, norm_of(weight, bias), maps)
    elif kind == "stem":
        convolution = torch.randn(8, 3, 3, 3, device=device, requires_grad=True)
        dtype = torch.float32 if device == "cpu" else torch.float16
        made, _ = stem(images.to(dtype), convolution, norm_of(weight, bias))
    else:
        vectors = torch.randn(5, 8, device=device, requires_grad=True)
        directions = torch.nn.functional.normalize(maps[:, :, 0, 0])
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        made, _ = head_kernels.other_classes(directions, vectors, torch.tensor([0, 1], device=device), 4.0, dtype)
        weight = vectors
    (gradient,) = torch.autograd.grad(made.float().square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (gradient.sum() + weight.sum()).backward()
