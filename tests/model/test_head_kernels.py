"""The GPU's kernels of the margin softmax, interpreted on a CPU or run on a card, against heads without them."""

import copy
import os

import pytest
import torch
from torch.nn import functional

from hrfr_fast.model import class_chunks
from hrfr_fast.model.heads import HEADS, build_head

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.model.kernels import head as launch  # noqa: E402

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that few classes and rows are several of them, in several shares and chunks, the last in part."""
    tiles = launch.Tiles(rows=16, classes=32, dimensions=16, depth=16)
    monkeypatch.setattr(launch, "TILES", dict.fromkeys(launch.TILES, tiles))
    monkeypatch.setattr(launch, "PROGRAMS", 12)
    monkeypatch.setattr(launch, "CHUNK_BYTES", 8192)  # with 17 to 32 rows in float32: chunks of 64 classes


@pytest.fixture
def bf16_products(monkeypatch):
    """Triton's interpreter multiplies the bits of bfloat16 as integers; this gives it their values in float32."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    multiply = interpreter.InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        values = interpreter._convert_float(handle.data, tl.bfloat16, tl.float32, None).view(np.float32)
        return interpreter.TensorHandle(values, tl.float32)

    monkeypatch.setattr(
        interpreter.InterpreterBuilder,
        "create_dot",
        lambda self, a, b, *more: multiply(self, widened(a), widened(b), *more),
    )


def result(head, embeddings, labels):
    """Losses, and the gradients of a weighted sum of them by embeddings and class vectors."""
    embeddings = embeddings.clone().requires_grad_()
    losses = head(embeddings, labels, 3, reduction="none")
    weights = torch.linspace(0.2, 1.5, len(losses), device=losses.device)
    return losses, *torch.autograd.grad((losses * weights).sum(), (embeddings, head.weight))


def error(found, wanted):
    return float(((found - wanted).norm() / wanted.norm()).detach())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a card products are of 16 bits")
def test_every_margin(name, small_tiles):
    """In float32 the same as without; 37 classes, 21 rows and 24 dimensions fill no tile."""
    plain = build_head(name, 24, 37)
    torch.nn.init.normal_(plain.weight)
    embeddings, labels = 5 * torch.randn(21, 24), torch.arange(21) * 36 // 20
    embeddings[3] = plain.weight.detach()[labels[3]]  # cosines of 1 and -1, where margins have their edges
    embeddings[4] = -plain.weight.detach()[labels[4]]
    fused = copy.deepcopy(plain)
    fused.gpu_kernels = True
    for found, wanted in zip(result(fused, embeddings, labels), result(plain, embeddings, labels), strict=True):
        assert error(found, wanted) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [40, 300], ids=["one tile", "five tiles"])
def test_products_of_16_bits(size, device, bf16_products):
    """bf16 unit vectors are off by 2^-9, and a cosine by less. (The interpreter cuts bits off, which is 2^-8.)"""
    exact = build_head("arcface", size, 70, scale=16.0).to(device)
    torch.nn.init.normal_(exact.weight)
    fused = copy.deepcopy(exact)
    fused.gpu_kernels, fused.matmul_dtype = True, torch.bfloat16
    embeddings, labels = torch.randn(9, size, device=device), torch.arange(9, device=device) * 8
    for found, wanted in zip(result(fused, embeddings, labels), result(exact, embeddings, labels), strict=True):
        assert found.dtype == torch.float32 and error(found, wanted) < 2e-2


def small_head_step(needed, dtype=torch.float32, device="cpu", batch=21, classes=200, size=40):
    """What ``other_classes`` makes of random rows, and the gradients of those of its inputs that are ``needed``.

    Of 200 classes there are three chunks of 64 and a part of one; each has targets, the first class and the last, too.
    """
    torch.manual_seed(0)
    given = functional.normalize(torch.randn(batch, size)).to(device), (3 * torch.randn(classes, size)).to(device)
    labels = torch.linspace(0, classes - 1, batch, device=device).long()
    wanted = [one.requires_grad_() for one, need in zip(given, needed, strict=True) if need]

    def run(implementation):
        total, target = implementation(*given, labels, 16.0, dtype)
        weights = torch.linspace(-0.5, 1.5, batch, device=device)
        gradients = torch.autograd.grad((total * weights).sum() + (target * weights.flip(0)).sum(), wanted)
        return total.detach(), target.detach(), *gradients

    return run(launch.other_classes), run(class_chunks.other_classes)


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)], ids=["both", "directions", "weight"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a card products are of 16 bits")
def test_several_chunks(needed, small_tiles):
    """Rows, classes and dimensions fill no tile; gradients of either sign; only those asked for are made."""
    found, wanted = small_head_step(needed)
    assert len(found) == 2 + sum(needed)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and error(one, other) < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a card products are of 16 bits")
@pytest.mark.parametrize("classes", [63, 64, 65, 96, 128])
def test_chunks_end_where_classes_do(classes, small_tiles):
    for one, other in zip(*small_head_step((True, True), classes=classes), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_equal_inputs_give_equal_bits(device, monkeypatch, bf16_products):
    """Of several chunks of 16-bit products, on a card, too: of 8,448 classes where 132 programs run at a time."""
    size = {"batch": 5, "classes": 600, "size": 20}
    if device == "cuda":
        size = {"batch": 700, "classes": 20_000, "size": 512}
    monkeypatch.setattr(launch, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(launch, "PROGRAMS", 4)
    runs = [small_head_step((True, True), torch.bfloat16, device, **size) for _ in range(2)]
    for one, again in zip(runs[0][0], runs[1][0], strict=True):
        assert torch.equal(one, again)
    for one, other in zip(*runs[0], strict=True):
        assert error(one, other) < 2e-2


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a card products are of 16 bits")
def test_where_exponentials_overflow_beside_the_classes(small_tiles):
    """All classes but the target opposite, scale 100: exp(100) times what fills the tile up is no number."""
    directions = functional.normalize(torch.tensor([[1.0, 0.0]])).requires_grad_()
    weight, labels = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]], requires_grad=True), torch.tensor([0])
    total, _ = launch.other_classes(directions, weight, labels, 100.0, torch.float32)
    total.sum().backward()
    assert directions.grad.tolist() == [[-100.0, 0.0]] and weight.grad.abs().max() == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a card products are of 16 bits")
def test_two_classes_and_the_longest_exponents():
    """The only other class, at a cosine of -1 and 1: s = 64 spans exp(-64) to exp(64)."""
    directions = functional.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    weight, labels = torch.tensor([[3.0, 0.0], [-0.5, 0.0]]), torch.tensor([0, 0])
    total, target = launch.other_classes(directions, weight, labels, 64.0, torch.float32)
    assert total.tolist() == [-64.0, 64.0] and target.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("products", [1, 3, 8, 16, 32, 131, 132, 133, 500])
def test_programs_run_at_a_time(products):
    """Shares cover all steps, none is empty, and no program waits for another, unless there are too many products."""
    for steps in (1, 2, 206, 411, 7813):
        shares, each = launch._shares(torch.device("cpu"), products, steps)
        assert shares * products <= max(launch.PROGRAMS, products)
        assert (shares - 1) * each < steps <= shares * each


def test_where_the_kernels_can_be_used(monkeypatch):
    card, cpu = torch.device("cuda"), torch.device("cpu")
    known = {(9, 0): True, (8, 0): True, (8, 6): True, (12, 0): True, (7, 5): False, (10, 0): False}
    for capability, right in known.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert launch.computes(card, torch.bfloat16, 512) == right, capability
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert not launch.computes(card, torch.float32, 512) and not launch.computes(card, torch.bfloat16, 5000)
    assert launch.computes(cpu, torch.float32, 24)
