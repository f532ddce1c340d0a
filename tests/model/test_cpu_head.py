"""The head's softmax and products on CPUs beside torch's: values, gradients, steps of every head."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.model.class_chunks import other_classes as by_chunks
from hrfr_fast.model.heads import HEADS, MarginHead, build_head
from hrfr_fast.model.kernels import cpu_head
from hrfr_fast.model.kernels.cpu_head import other_classes
from hrfr_fast.model.kernels.cpu_product import linear, product

SCALE = 12.0


def case(batch: int = 5, classes: int = 9, size: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors and class vectors in float64, and labels."""
    directions = functional.normalize(torch.randn(batch, size, dtype=torch.float64)).requires_grad_()
    return directions, torch.randn(classes, size, dtype=torch.float64, requires_grad=True), torch.arange(batch)


def test_gradients_are_those_of_the_function() -> None:
    directions, weight, labels = case()
    assert torch.autograd.gradcheck(partial(other_classes, labels=labels, scale=SCALE), (directions, weight))


@pytest.mark.parametrize("block,classes", [(1, 1), (20, 4), (1 << 17, 4096)])
def test_blocks_change_nothing(block: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_head, "BLOCK", block)
    monkeypatch.setattr(cpu_head, "CLASSES", classes)
    directions, weight, labels = case()
    made = other_classes(directions, weight, labels, SCALE)
    expected = by_chunks(directions.float(), weight.float(), labels, SCALE, torch.float32)
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(sum(one.sum() for one in each), [directions, weight]) for each in (made, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_class_vectors_of_no_length_and_frozen_ones() -> None:
    directions, weight, labels = case()
    with torch.no_grad():
        weight[7] = 0.0
    total, _ = other_classes(directions, weight, labels, SCALE)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total.sum(), [directions, weight]))
    total, _ = other_classes(directions, weight.detach(), labels, SCALE)
    assert torch.autograd.grad(total.sum(), directions)[0].isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_the_same_loss_and_gradients(name: str) -> None:
    heads: list[MarginHead] = []
    for kernels in (False, True):
        torch.manual_seed(3)
        heads.append(build_head(name, 16, 40))
        heads[-1].cpu_kernels = kernels
    embeddings, labels = torch.randn(8, 16) * 3, torch.arange(8) * 5
    found = []
    for head in heads:
        given = embeddings.clone().requires_grad_()
        loss = head(given, labels, 100)
        each = head(given, labels, 100, reduction="none")
        found.append([loss, each, *torch.autograd.grad(loss, [given, head.weight])])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_past_the_largest_matrix_classes_are_chunked_as_ever() -> None:
    torch.manual_seed(3)
    head = build_head("arcface", 16, 40)
    head.chunk_entries = 64
    embeddings, labels = torch.randn(8, 16), torch.arange(8)
    expected = head(embeddings, labels)
    head.cpu_kernels = True
    assert torch.equal(head(embeddings, labels), expected)


@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 48, 80), (0, 4, 5), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_in_any_layout(shape: tuple[int, int, int], transposed: bool) -> None:
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    if transposed:
        a, b = a.t().contiguous().t(), b.t().contiguous().t()
    made = product(a, b)
    assert made.shape == (rows, columns)
    torch.testing.assert_close(made.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(product(a, b), made)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(bias: bool) -> None:
    layer, values = nn.Linear(6, 4, bias=bias), torch.randn(5, 6, requires_grad=True)
    inputs = [values, *layer.parameters()]
    found = [
        [made, *torch.autograd.grad(made.square().sum(), inputs)] for made in (linear(values, layer), layer(values))
    ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
