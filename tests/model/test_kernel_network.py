"""Improved residual networks computed by the GPU's kernels, against the same networks computed by torch in float64."""

import copy

import pytest
import torch
from torch import nn

from hrfr_fast.model.backbone import build_backbone
from hrfr_fast.model.backbones.base import BackboneSettings
from hrfr_fast.model.backbones.improved_resnet import SqueezeExcite
from hrfr_fast.model.lora import add_adapters
from hrfr_fast.training.phases import set_trainable

pytest.importorskip("triton", reason="Triton exists for Linux only")

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


def two_blocks(name, variant="", drop_path=0.0):
    """The first stage of a network of width 8 at 16 px, with weights that no initialisation gives."""
    network = build_backbone(BackboneSettings(16, 8, 4, name=name, variant=variant, drop_path=drop_path))
    network.body = network.body[:2]
    network.output = nn.Sequential(
        nn.BatchNorm2d(8), nn.Dropout(0), nn.Flatten(), nn.Linear(8 * 8 * 8, 4), nn.BatchNorm1d(4)
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.PReLU):
            nn.init.uniform_(layer.weight, 0.2, 1.2)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias)
    return network.to(memory_format=torch.channels_last)


def step(network, images, kernels, checkpointing=False):
    network.gpu_kernels, network.activation_checkpointing = kernels, checkpointing
    torch.manual_seed(5)  # stochastic depth draws
    embeddings = network(images.to(next(network.parameters()).dtype))
    if embeddings.requires_grad:
        direction = torch.linspace(-1, 1, embeddings.numel(), device=images.device).view_as(embeddings)
        (embeddings.sigmoid() * direction).sum().backward()
    return embeddings.detach()


CASES = {
    "irse": ("irse18", {}, ("body", "output"), {}),
    "ir with projected shortcuts, stochastic depth": ("ir18", {"drop_path": 0.5}, ("body", "output"), {}),
    "no middle norm, activation checkpointing": ("irse18", {"variant": "evolve"}, ("body", "output"), {}),
    "frozen statistics": ("irse18", {}, ("body", "output"), {"keep_statistics": True}),
    "frozen body": ("irse18", {}, ("output",), {}),
    "evaluation": ("irse18", {}, (), {}),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_embeddings_gradients_and_statistics(case, device):
    name, shape, parts, freezing = CASES[case]
    network = two_blocks(name, **shape).to(device)
    images = torch.randn(4, 3, 16, 16, device=device)
    if parts:
        set_trainable(network, nn.Identity(), parts, **{"keep_statistics": False} | freezing)
    else:
        network.eval().requires_grad_(False)
    exact, plain = copy.deepcopy(network).double(), copy.deepcopy(network)
    checkpointing = "checkpointing" in case
    made = [
        step(exact, images, kernels=False),
        step(plain, images, kernels=False, checkpointing=checkpointing),
        step(network, images, kernels=True, checkpointing=checkpointing),
    ]

    def compare(values):
        right, torchs, ours = (value.double() for value in values)
        scale = right.norm() + 1e-3 * right.numel() ** 0.5
        ours_off, torch_off = (float((value - right).norm() / scale) for value in (ours, torchs))
        # The gradient of a bias before a BatchNorm of 4 pictures cancels to nearly nothing, and rounding is all that is
        # left of it: over 60 seeds it was off by up to 7 times as much as torch's. A wrong formula is off by 1e-2.
        assert ours_off < 5e-6 + 16 * torch_off, (ours_off, torch_off)

    compare(made)
    assert network.state_dict().keys() == plain.state_dict().keys()
    for values in zip(*(one.parameters() for one in (exact, plain, network)), strict=True):
        gradients = [value.grad for value in values]
        assert len({gradient is None for gradient in gradients}) == 1
        if gradients[0] is not None:
            compare(gradients)
    for values in zip(*(one.buffers() for one in (exact, plain, network)), strict=True):
        compare(values)  # running statistics, moved once however often a block is computed, and counters


@pytest.mark.parametrize("device", DEVICES)
def test_weights_are_rounded_at_once_to_what_autocast_rounds_them_to(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # gradients are compared to the bit
    network, found = two_blocks("irse18").to(device), []
    network.gpu_kernels = True
    set_trainable(network, nn.Identity(), ("body", "output"), keep_statistics=False)
    network.body[0].requires_grad_(False)
    images, names = torch.randn(4, 3, 16, 16, device=device), [name for name, _ in network.named_parameters()]
    before = copy.deepcopy(network.state_dict())
    for alone in (False, True):
        monkeypatch.setattr("hrfr_fast.model.kernels.rounded_weights._several_ranks", lambda alone=alone: alone)
        network.load_state_dict(before)
        network.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            embeddings = network(images)
        embeddings.float().square().mean().backward()
        gradients = [None if one.grad is None else one.grad.clone() for one in network.parameters()]
        found.append([embeddings, *gradients, *network.state_dict().values()])
        assert [name for name, _ in network.named_parameters()] == names
        assert all(isinstance(one, nn.Parameter) and one.dtype == torch.float32 for one in network.parameters())
    assert gradients.count(None) == len(list(network.body[0].parameters()))
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_and_adapters(device):
    """In bf16 the network keeps bf16 maps, and adapters reach squeeze-and-excitation too."""
    network = two_blocks("irse18").to(device)
    assert add_adapters([part for part in network.modules() if isinstance(part, SqueezeExcite)], 1, 1.0) == 4
    plain = copy.deepcopy(network)
    images = torch.randn(4, 3, 16, 16, device=device).to(torch.bfloat16)
    kinds = []
    network.body[1].residual[1].register_forward_hook(lambda *call: kinds.extend([call[1][0].dtype, call[2].dtype]))
    network.gpu_kernels = True
    with torch.autocast(device, torch.bfloat16):
        found, wanted = network(images).float(), plain(images).float()
    assert kinds == [torch.bfloat16] * 2
    assert (found - wanted).norm() / wanted.norm() < 0.05
    found.square().mean().backward()
    assert all(p.grad is not None for p in network.body.parameters() if p.requires_grad)
