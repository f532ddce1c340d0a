"""The stem's kernels, interpreted on a CPU or run on a card, against torch's convolution and BatchNorm in float64."""

import copy

import pytest
import torch
from kernel_cases import close, norm_and_activation
from torch import nn
from torch.nn import functional

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.model.backbone import BackboneSettings, build_backbone  # noqa: E402
from hrfr_fast.model.kernels import network, norm_launch, stem_launch  # noqa: E402
from hrfr_fast.model.kernels.batch_norm import BatchNorm  # noqa: E402
from hrfr_fast.model.kernels.stem import computes, stem  # noqa: E402
from hrfr_fast.model.lora import add_adapters  # noqa: E402

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
ROUNDING = {torch.float64: 1e-6, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
"""Largest relative error: of what is rounded to the images' type, maps and the gradient that meets the patches."""
SUMS = 3e-6
"""Of what is summed up in float32."""


def tensors(shape, channels, dtype, device):
    """Images [B, 3, H, W], whose mean is not 0, the convolution's weights, then BN's weight and bias, the slope, the
    running mean and variance."""
    images = (torch.randn(shape, dtype=torch.float64) + 0.5).to(device, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    convolution = torch.randn(channels, 3, 3, 3, dtype=torch.float64).mul(0.3).to(device, dtype)
    weight, bias, slope, mean, variance = (torch.rand(channels, dtype=wide, device=device) + 0.2 for _ in range(5))
    bias = bias - 0.7  # as many values below 0 as above
    learnt = [t.requires_grad_() for t in (convolution, weight, bias, slope)]
    return [images.contiguous(memory_format=torch.channels_last), *learnt, mean, variance]


def reference(images, convolution, weight, bias, slope, mean, variance, activation, training):
    maps = functional.conv2d(images, convolution, padding=1)
    return norm_and_activation(maps, weight, bias, slope, mean, variance, activation, training)


def against_torch(shape, channels, dtype, activation, training, device, sums=SUMS):
    given = tensors(shape, channels, dtype, device)
    exact = [one.detach().double().requires_grad_(one.requires_grad) for one in given]
    images, convolution, weight, bias, slope, mean, variance = given
    learnt = [convolution, weight, bias, *([slope] if activation == "prelu" else [])]
    counter = torch.zeros((), dtype=torch.int64, device=device)
    norm = BatchNorm(weight, bias, mean, variance, counter, 0.1, 1e-5, training)
    before = [mean.clone(), variance.clone()]
    made, following = stem(
        images, convolution, norm, activation, slope if activation == "prelu" else None, measure=True
    )
    gradient = torch.randn(made.shape, device=device).to(dtype)
    found = torch.autograd.grad(made, learnt, gradient)
    wanted = reference(*exact, activation, training)
    expected = torch.autograd.grad(wanted, exact[1 : 1 + len(learnt)], gradient.double())
    assert made.dtype == dtype and made.is_contiguous(memory_format=torch.channels_last)
    close(made, wanted, ROUNDING[dtype])
    assert found[0].dtype == dtype
    if shape[2:] == (1, 1):  # two values a channel: the gradient by them all but cancels
        assert (found[0].double() - expected[0]).norm() < 1e-3 * gradient.norm()
    else:
        close(found[0], expected[0], 2 * ROUNDING[dtype])
    for value, right in zip(found[1:], expected[1:], strict=True):
        close(value, right, 2 * sums)
    for value, right, old in zip((mean, variance), exact[-2:], before, strict=True):
        close(value, right, sums)
        assert torch.equal(value, old) != training
    assert counter == int(training)
    next_mean, next_inverse = norm_launch.merged(following, 1e-5, None)
    close(next_mean, made.double().mean((0, 2, 3)), sums)  # of what was written, rounding included
    close(next_inverse, (made.double().var((0, 2, 3), unbiased=False) + 1e-5).rsqrt(), sums)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "shape,channels,dtype,activation,training",
    [
        pytest.param((3, 3, 5, 7), 24, torch.float32, "prelu", True, id="sizes odd, channels between powers of two"),
        pytest.param((2, 3, 8, 8), 64, torch.bfloat16, "prelu", True, id="bf16"),
        pytest.param((1, 3, 9, 4), 16, torch.float16, "relu", True, id="one image, fp16"),
        pytest.param((2, 3, 1, 1), 8, torch.float32, "none", True, id="one pixel, fewest channels"),
        pytest.param((2, 3, 1, 6), 128, torch.bfloat16, "prelu", False, id="frozen statistics, most channels"),
        pytest.param((2, 3, 4, 3), 24, torch.float64, "relu", False, id="frozen statistics, float64"),
    ],
)
def test_against_torch(shape, channels, dtype, activation, training, device, monkeypatch):
    monkeypatch.setattr(stem_launch, "GROUPS", 2)
    against_torch(shape, channels, dtype, activation, training, device)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [16, 24, 64, 128])
@pytest.mark.parametrize("activation,training", [("prelu", True), ("relu", True), ("prelu", False)])
@pytest.mark.parametrize("groups", [2, 512], ids="groups={}".format)
def test_many_tiles_of_a_card(channels, activation, training, groups, monkeypatch):
    """Hundreds of tiles a program, read ahead in turns, and one or two; the interpreter would take minutes.

    Of 2.6 million values a few are so near 0 that rounding decides their sign, each 4e-4 of a bias's gradient.
    """
    monkeypatch.setattr(stem_launch, "GROUPS", groups)
    against_torch((40, 3, 33, 31), channels, torch.bfloat16, activation, training, "cuda", sums=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_many_groups_any_strides_and_equal_bits(device, monkeypatch):
    """Groups of several tiles, the last in part; images that are a view, not channels-last; the same bits twice."""
    monkeypatch.setattr(stem_launch, "GROUPS", 3)
    monkeypatch.setattr(norm_launch, "TILE", 32 * 16)
    monkeypatch.setattr(stem_launch, "PADDED", 32)
    images, convolution, weight, bias, slope, mean, variance = tensors((3, 3, 7, 5), 16, torch.float32, device)
    wider = torch.randn(3, 4, 8, 5, device=device)
    wider[:, 1:, :-1] = images
    view = wider[:, 1:, :-1]
    assert not view.is_contiguous() and not view.is_contiguous(memory_format=torch.channels_last)
    gradient, results = torch.randn(3, 16, 7, 5, device=device), []
    for given in (images, view):
        norm = BatchNorm(weight, bias, mean.clone(), variance.clone(), None, 0.1, 1e-5, True)
        made, found = stem(given, convolution, norm, "prelu", slope, measure=True)
        assert found.groups == norm_launch.Groups(1, 105, 2, 64)
        learnt = torch.autograd.grad(made, (convolution, weight, bias, slope), gradient)
        results.append([made, found.means, found.squares, norm.running_mean, norm.running_var, *learnt])
    assert all(map(torch.equal, *results))
    exact = [one.detach().double().requires_grad_() for one in (images, convolution, weight, bias, slope)]
    wanted = reference(*exact, mean.double(), variance.double(), "prelu", True)
    close(results[0][0], wanted, SUMS)
    for value, right in zip(results[0][5:], torch.autograd.grad(wanted, exact[1:], gradient.double()), strict=True):
        close(value, right, 3 * SUMS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen statistics"])
def test_gradcheck(training, device):
    images, *learnt, mean, variance = tensors((2, 3, 3, 2), 3, torch.float64, device)

    def made(convolution, weight, bias, slope):
        norm = BatchNorm(weight, bias, mean.clone(), variance.clone(), None, 0.1, 1e-5, training)
        return stem(images, convolution, norm, "prelu", slope)[0]

    assert torch.autograd.gradcheck(made, learnt, fast_mode=True)


def test_nothing_is_launched_that_nobody_asks_for(monkeypatch):
    """Frozen statistics cost no measuring, frozen weights no gradient of theirs."""
    asked = []
    note = lambda kernel, *given, **constants: asked.append(kernel.fn.__name__.removesuffix("_kernel"))  # noqa: E731
    monkeypatch.setattr(stem_launch, "launch", note)
    monkeypatch.setattr(norm_launch, "launch", note)
    images, *weights, mean, variance = tensors((2, 3, 4, 4), 16, torch.float32, "cpu")

    def launched(training, frozen=()):
        asked.clear()
        learnt = [one.detach().requires_grad_(place not in frozen) for place, one in enumerate(weights)]
        norm = BatchNorm(*learnt[1:3], mean, variance, None, 0.1, 1e-5, training)
        stem(images, learnt[0], norm, "prelu", learnt[3])[0].sum().backward()
        assert [one.grad is not None for one in learnt] == [one.requires_grad for one in learnt]
        return list(asked)

    sums, product = ["stem_gradient_sums", "merge_sums"], ["stem_weight_gradient"]
    measured = ["pad_images", "stem_statistics", "merge_statistics", "stem"]
    assert launched(True) == measured + sums + product
    assert launched(True, frozen=[0]) == measured + sums
    assert launched(True, frozen=[1, 2, 3]) == measured + sums + product, "the batch's statistics depend on all"
    assert launched(False) == ["pad_images", "stem"] + sums + product
    assert launched(False, frozen=[1, 2, 3]) == ["pad_images", "stem"] + product


def test_which_convolutions_are_computed():
    images, right = torch.zeros(2, 3, 4, 4), {"kernel_size": 3, "padding": 1, "bias": False}
    assert computes(nn.Conv2d(3, 24, **right), images)
    for other in ({"stride": 2}, {"padding": 0}, {"dilation": 2}, {"bias": True}, {"padding_mode": "reflect"}):
        assert not computes(nn.Conv2d(3, 24, **right | other), images), other
    assert not computes(nn.Conv2d(3, 24, 5, 1, 1, bias=False), images)
    assert not computes(nn.Conv2d(3, 24, **right, groups=3), images)
    assert not computes(nn.Conv2d(3, 136, **right), images)
    assert not computes(nn.Conv2d(4, 24, **right), torch.zeros(2, 4, 4, 4))
    convolution = nn.Conv2d(3, 24, **right)
    assert not computes(convolution, images.clone().requires_grad_())
    assert not computes(convolution, images.bfloat16()), "torch says why"
    with torch.autocast("cpu", torch.bfloat16):
        assert computes(convolution, images) and computes(convolution, images.bfloat16())
        assert not computes(convolution, images.double())
    assert add_adapters([convolution], 1, 1.0) == 1 and not computes(convolution, images)


@pytest.mark.gpu
def test_a_card_computes_16_bits_alone():
    images, convolution = torch.zeros(2, 3, 4, 4, device="cuda"), nn.Conv2d(3, 24, 3, 1, 1, bias=False).cuda()
    assert not computes(convolution, images) and computes(convolution.half(), images.half())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_network_under_autocast(channels_last, device, monkeypatch):
    """The stem of a network in bf16, with its kernels and with the convolution of torch: the same but for rounding."""
    plain = build_backbone(BackboneSettings(16, 8, 4)).to(device)
    plain.body, plain.output = plain.body[:1], nn.Sequential(nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(512, 4))
    plain.to(device)
    images = torch.randn(4, 3, 16, 16, device=device).bfloat16().float()  # the interpreter cuts bits off, torch rounds
    weight = plain.stem[0].weight
    weight.data = weight.data.bfloat16().float()
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    called, results = [], []
    monkeypatch.setattr(network, "stem", lambda *given, **named: called.append(1) or stem(*given, **named))
    for kind in ("exact", "ours", "torch's"):
        monkeypatch.setattr(network, "STEM_KERNELS", kind == "ours")
        one = copy.deepcopy(plain).to(torch.float64 if kind == "exact" else torch.float32)
        one.gpu_kernels = kind != "exact"
        with torch.autocast(device, torch.bfloat16, enabled=kind != "exact"):
            made = one(images.double() if kind == "exact" else images).float()
        (made.sigmoid() * torch.linspace(-1, 1, 16, device=device).view(4, 4)).sum().backward()
        gradients = [part.grad for part in one.stem.parameters()]
        results.append([made.detach(), *gradients, *one.stem.buffers()])
    assert len(called) == 1 and all(gradient.dtype == torch.float32 for gradient in gradients)
    for wanted, *found in zip(*results, strict=True):
        ours, torchs = (float((one.double() - wanted).norm() / wanted.double().norm()) for one in found)
        assert ours < 1.5 * torchs + 0.02 and torchs < 0.2, (ours, torchs)
