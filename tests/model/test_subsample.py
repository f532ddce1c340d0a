"""Subsampling by slicing is pooling with a window of one pixel, to the bit: values, gradients and their layout."""

import pytest
import torch
from torch import nn

from hrfr_fast.model.backbones.improved_resnet import IRBlock
from hrfr_fast.model.backbones.subsample import Subsample
from hrfr_fast.model.backbones.table import IR_VARIANTS


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 16, 8, 8), (3, 5, 7, 9), (2, 3, 2, 2)])
@pytest.mark.parametrize("stride", [2, 3])
def test_it_is_pooling(shape, dtype, layout, stride):
    torch.manual_seed(0)
    given = torch.randn(shape).to(dtype).to(memory_format=layout)
    results, gradients = [], []
    for layer in (nn.MaxPool2d(1, stride), Subsample(stride)):
        maps = given.clone().requires_grad_()
        before = maps * 2
        before.register_hook(gradients.append)
        after = layer(before)
        after.backward(torch.arange(after.numel()).view(after.shape).to(dtype))
        assert after.is_contiguous(memory_format=layout) and gradients[-1].is_contiguous(memory_format=layout)
        results.append((after.detach(), gradients[-1]))
    (pooled, gradient), (sliced, ours) = results
    assert torch.equal(pooled, sliced) and torch.equal(gradient, ours)


def test_nothing_is_kept_for_the_gradient():
    kept = []
    maps = torch.randn(2, 4, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        Subsample(2)(maps)
    assert kept == []


def test_a_block_has_the_names_and_the_gradients_that_it_had():
    torch.manual_seed(0)
    block = IRBlock(8, 8, 2, IR_VARIANTS["arcface"], squeeze_excite=True, first=False)
    images = torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last)
    gradients = []
    for shortcut in (block.shortcut, nn.MaxPool2d(1, 2)):
        names = list(block.state_dict())
        block.shortcut = shortcut
        assert list(block.state_dict()) == names
        maps = images.clone().requires_grad_()
        block(maps).square().sum().backward()
        gradients.append(maps.grad)
    assert torch.equal(*gradients)


def test_without_gradients_it_is_the_operation_that_exports_know():
    graph = torch.jit.trace(Subsample(2).eval(), torch.zeros(1, 3, 8, 8)).graph
    assert "max_pool2d" in str(graph)
