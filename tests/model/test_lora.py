"""Low-rank adapters: no effect at first, the matrix product of their definition afterwards, merged to plain weights."""

import copy

import pytest
import torch
from torch import nn

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.lora import adapters, add_adapters, merged_state_dict

RANK, ALPHA = 4, 6.0


@pytest.fixture
def networks():
    """A network in evaluation mode and the same one with adapters in its body and output layer."""
    plain = build_backbone(BackboneSettings(input_size=32, width=8, embedding_size=16)).eval()
    adapted = copy.deepcopy(plain)
    add_adapters([adapted.stem, adapted.body, adapted.output], RANK, ALPHA)
    return plain, adapted


def test_fresh_adapters_change_no_bit(networks):
    plain, adapted = networks
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    assert torch.equal(plain(images), adapted(images))
    merged = merged_state_dict(adapted)
    assert merged.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in plain.state_dict().items())


def test_adapters_are_the_product_of_two_thin_matrices(networks):
    plain, adapted = networks
    assert {(part.down.shape[0], part.up.shape[1]) for part in adapters(adapted)} == {(RANK, RANK)}
    for part in adapters(adapted):
        nn.init.normal_(part.up, std=0.1)
    expected = plain.state_dict()
    for name, layer in adapted.named_modules():
        if not hasattr(layer, "parametrizations"):
            continue
        part, weight = layer.parametrizations.weight[0], expected[f"{name}.weight"]
        change = ALPHA / RANK * part.up.double() @ part.down.double()  # [out, k * k * in]
        if weight.ndim == 4:
            change = torch.stack([row.reshape(*weight.shape[2:], weight.shape[1]).movedim(2, 0) for row in change])
        expected[f"{name}.weight"] = (weight + change).float()
    merged = merged_state_dict(adapted)
    torch.testing.assert_close(merged, dict(expected))
    plain.load_state_dict(merged)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    assert torch.equal(plain(images), adapted(images)), "merged weights compute what the adapters computed"


def test_layers_that_are_no_larger_than_the_rank_get_none():
    layers = nn.ModuleList([nn.Linear(4, 64), nn.Conv2d(8, 64, 1), nn.Conv2d(64, 64, 3, groups=64), nn.BatchNorm2d(64)])
    assert add_adapters([layers], 4, 4.0) == 1
    assert [hasattr(layer, "parametrizations") for layer in layers] == [False, True, False, False]
