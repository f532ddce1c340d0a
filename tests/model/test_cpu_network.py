"""Networks in training on a CPU with and without kernels: the same results, gradients, statistics and states."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrfr_fast.model.backbone import Backbone, BackboneSettings, build_backbone
from hrfr_fast.training.phases import set_trainable

CASES: dict[str, dict[str, Any]] = {
    "irse18": {},
    "ir18": {"name": "ir18"},
    "no middle norm": {"name": "irse50", "variant": "evolve"},
    "adaface": {"name": "ir18", "variant": "adaface"},
    "stochastic depth": {"drop_path": 0.5},
    "other normalisation": {"normalisation": "imagenet"},
}


def networks(checkpointing: bool = False, **settings: Any) -> tuple[Backbone, Backbone]:
    """The same network twice, on torch's layers and on the kernels."""
    torch.manual_seed(1)
    plain = build_backbone(BackboneSettings(32, 8, 16, **settings)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for norm in plain.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.2)
    fast = copy.deepcopy(plain)
    fast.cpu_kernels = True
    fast.activation_checkpointing = checkpointing
    return plain, fast


def step(network: Backbone, images: Tensor) -> list[Tensor]:
    """Embeddings, every gradient, and the state afterwards."""
    torch.manual_seed(2)
    made = network(images)
    made.mul(torch.linspace(-1, 1, made.numel()).view_as(made)).sum().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return [made.detach(), *gradients, *network.state_dict().values()]


def assert_alike(fast: list[Tensor], plain: list[Tensor], tolerance: float = 2e-3) -> None:
    assert len(fast) == len(plain)
    for got, expected in zip(fast, plain, strict=True):
        difference = (got.double() - expected.double()).norm()
        assert difference <= tolerance * expected.double().norm() + 1e-4  # some gradients are 0 but for rounding


def pictures(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 32, 32).mul(2).sub(1).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_step_is_the_same_within_rounding(settings: dict[str, Any]) -> None:
    plain, fast = networks(**settings)
    images = pictures()
    assert_alike(step(fast, images), step(plain, images))
    assert list(fast.state_dict()) == list(plain.state_dict())


def test_with_activation_checkpointing_bits_stay() -> None:
    images = pictures()
    kept, recomputed = networks()[1], networks(checkpointing=True)[1]
    assert all(map(torch.equal, step(kept, images), step(recomputed, images)))


def test_under_autocast_maps_stay_bfloat16() -> None:
    plain, fast = networks()
    images = pictures(16)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fast(images), plain(images)
    assert ours.dtype == theirs.dtype
    exact = networks()[0](images)
    error = (theirs - exact).norm()
    assert (ours - exact).norm() <= 1.5 * error  # as near to float32 as torch's own layers come
    ours.float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in fast.parameters())


@pytest.mark.parametrize("parts", [("head",), ("output", "head"), ("body", "output", "head")], ids=str)
@pytest.mark.parametrize("keep_statistics", [True, False])
def test_frozen_parts(parts: tuple[str, ...], keep_statistics: bool) -> None:
    plain, fast = networks()
    before, images = copy.deepcopy(plain.state_dict()), pictures()
    for network in (plain, fast):
        set_trainable(network, nn.Linear(1, 1), parts, keep_statistics=keep_statistics)
    if "output" in parts:
        assert_alike(step(fast, images), step(plain, images))
    else:
        assert_alike([fast(images)], [plain(images)], 1e-4)
    if "body" not in parts:
        moved = [name for name, value in fast.state_dict().items() if not torch.equal(value, before[name])]
        assert all(name.startswith("output.") for name in moved)


def test_evaluation_computes_the_same_and_exports_see_torchs_layers() -> None:
    plain, fast = networks()
    images = pictures()
    plain.eval(), fast.eval()
    before = copy.deepcopy(fast.state_dict())
    with torch.inference_mode():
        assert_alike([fast(images)], [plain(images)], 1e-5)
        alone = torch.cat([fast(image[None]) for image in images])
        assert_alike([alone], [plain(images)], 1e-5)  # BatchNorm takes one picture, too
    assert all(map(torch.equal, fast.state_dict().values(), before.values()))
    exported = torch.export.export(fast, (images,))
    assert "batch_norm" in str(exported.graph) and "Normalise" not in str(exported.graph)
    traced = torch.jit.trace(fast, images)
    assert "batch_norm" in str(traced.inlined_graph)


def test_equal_steps_have_equal_bits() -> None:
    images = pictures()
    assert all(map(torch.equal, step(networks()[1], images), step(networks()[1], images)))
