"""Convolutions as products on CPUs beside torch's: values, gradients, and which layers are computed so."""

import pytest
import torch
from torch import Tensor, nn

from hrfr_fast.model.kernels import cpu_convolution
from hrfr_fast.model.kernels.cpu_convolution import convolved, fits

LAYERS = {
    "3x3": (5, 3, 1, 1, 4),
    "stride 2": (5, 3, 2, 1, 4),
    "stride 2, odd": (5, 3, 2, 1, 5),
    "1x1": (5, 1, 1, 0, 3),
    "5x5": (2, 5, 1, 2, 2),
    "no margin": (3, 3, 1, 0, 5),
    "stride past the border": (3, 2, 3, 0, 7),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def case(channels: int, size: int, stride: int, padding: int, side: int) -> tuple[nn.Conv2d, Tensor]:
    layer = nn.Conv2d(channels, 7, size, stride, padding, bias=False).to(memory_format=torch.channels_last)
    return layer, torch.randn(2, channels, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", LAYERS.values(), ids=LAYERS)
def test_values_and_gradients(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    layer, maps = case(*shape)
    made = convolved(layer, maps.to(dtype))
    exact = nn.functional.conv2d(
        maps.to(dtype).double(), layer.weight.to(dtype).double(), None, layer.stride, layer.padding
    )
    assert made.dtype == dtype and made.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(made.shape).to(dtype)  # not channels-last
    for ours, theirs in zip(
        [made, *torch.autograd.grad(made, [maps, layer.weight], gradient)],
        [exact, *torch.autograd.grad(exact, [maps, layer.weight], gradient.double())],
        strict=True,
    ):
        assert (ours.double() - theirs.double()).abs().max() <= TOLERANCE[dtype] * theirs.abs().max()
    assert all(torch.equal(convolved(layer, maps.to(dtype)), made) for _ in range(3))


def test_gradients_are_those_of_the_function() -> None:
    layer, maps = case(2, 3, 2, 1, 4)
    layer = layer.double()
    assert torch.autograd.gradcheck(lambda maps, weight: convolved(layer, maps), (maps.double(), layer.weight))


def test_the_weight_s_gradient_has_its_layout() -> None:
    layer, maps = case(8, 3, 1, 1, 2)
    convolved(layer, maps).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.stride() == layer.weight.stride()


def test_which_layers_are_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_convolution, "LARGE", 100)

    def conv(**options: object) -> nn.Conv2d:
        return nn.Conv2d(
            **({"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1, "bias": False} | options)
        )  # type: ignore[arg-type]

    small, large = torch.randn(2, 8, 2, 2), torch.randn(2, 8, 3, 3)
    assert fits(conv(), small) and not fits(conv(), large)
    assert fits(conv(stride=2), large) and not fits(conv(out_channels=7), small)
    for options in (
        {"bias": True}, {"groups": 2}, {"dilation": 2}, {"padding": "same"}, {"padding": (1, 0)}, {"stride": (1, 2)},
        {"padding_mode": "circular"}, {"kernel_size": (3, 1)},
    ):  # fmt: skip
        assert not fits(conv(**options), small)
    frozen = conv().requires_grad_(False)
    assert not fits(frozen, small) and not fits(nn.Linear(200, 8), small)
    monkeypatch.setattr(cpu_convolution, "LARGE", 1000)
    assert not fits(conv(), small)
