"""The GPU's kernels between two convolutions, interpreted on a CPU or run on a card, against torch in float64."""

import pytest
import torch
from kernel_cases import close, norm_and_activation
from torch.nn import functional

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.model.kernels import gate as gate_launch  # noqa: E402
from hrfr_fast.model.kernels import norm_launch  # noqa: E402
from hrfr_fast.model.kernels.batch_norm import BatchNorm  # noqa: E402
from hrfr_fast.model.kernels.norm import gated_sum, normalise  # noqa: E402

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
ROUNDING = {torch.float64: 1e-6, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
"""Largest relative error of maps: a rounding of the result (2^-9 in bf16), and of sums in float32. In float64 the
interpreter takes 1 / n and eps as float32."""
SUMS = 3e-6
"""Of statistics and weights' gradients, which are float32 whatever the maps are."""


def tensors(shape, dtype, device, offset=2.0):
    """Maps, weight, bias, slope, running mean and running variance."""
    maps = (torch.randn(shape, dtype=torch.float64) + offset).to(device, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias, slope, mean, variance = (torch.rand(shape[1], dtype=wide, device=device) + 0.2 for _ in range(5))
    maps = maps.contiguous(memory_format=torch.channels_last)
    return [*(t.requires_grad_() for t in (maps, weight, bias, slope)), mean, variance]


def doubled(*given):
    return [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in given]


def layer(weight, bias, mean, variance, training, counter=None):
    return BatchNorm(weight, bias, mean, variance, counter, 0.1, 1e-5, training)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "shape,dtype,activation,training,step",
    [
        pytest.param((3, 24, 5, 5), torch.float32, "prelu", True, 2, id="channels between powers of two"),
        pytest.param((3, 24, 5, 4), torch.bfloat16, "prelu", True, 1, id="bf16"),
        pytest.param((2, 8, 2, 1), torch.float16, "relu", True, 2, id="fp16"),
        pytest.param((5, 8, 1, 1), torch.float32, "none", True, 1, id="one pixel"),
        pytest.param((3, 24, 7, 4), torch.bfloat16, "prelu", False, 3, id="frozen statistics"),
    ],
)
def test_norm_and_activation(shape, dtype, activation, training, step, device):
    maps, weight, bias, slope, mean, variance = tensors(shape, dtype, device)
    wanted_from = doubled(maps, weight, bias, slope, mean, variance)
    counter = torch.zeros((), dtype=torch.int64, device=device)
    given = (maps, weight, bias, *([slope] if activation == "prelu" else []))
    norm = layer(weight, bias, mean, variance, training, counter)
    made, passed, following = normalise(
        maps, norm, activation, slope if activation == "prelu" else None, measure=True, bypass=step
    )
    assert torch.equal(passed, maps[:, :, ::step, ::step])
    gradients = [torch.randn(one.shape, device=device).to(dtype) for one in (made, passed)]
    found = torch.autograd.grad([made, passed], given, gradients, retain_graph=True)
    wanted = norm_and_activation(*wanted_from, activation, training)
    ways = [wanted, wanted_from[0][:, :, ::step, ::step]]
    expected = torch.autograd.grad(ways, wanted_from[: len(given)], [one.double() for one in gradients])
    (alone,) = torch.autograd.grad(passed, maps, gradients[1])
    assert torch.equal(alone[:, :, ::step, ::step], gradients[1]) and alone.count_nonzero() <= gradients[1].numel()
    assert made.dtype == dtype and made.is_contiguous(memory_format=torch.channels_last)
    for value, right in ((made, wanted), (found[0], expected[0])):
        close(value, right, ROUNDING[dtype])
    for value, right in zip((*found[1:], mean, variance), (*expected[1:], *wanted_from[4:]), strict=True):
        close(value, right, SUMS)
    assert counter == int(training)
    next_mean, next_inverse = norm_launch.merged(following, 1e-5, None)
    close(next_mean, made.double().mean((0, 2, 3)), SUMS)  # of what was written, rounding included
    close(next_inverse, (made.double().var((0, 2, 3), unbiased=False) + 1e-5).rsqrt(), SUMS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "shape,dtype,gated,factored,training",
    [
        pytest.param((3, 24, 5, 5), torch.float32, True, True, True, id="gate and stochastic depth"),
        pytest.param((3, 24, 5, 5), torch.bfloat16, True, False, True, id="gate, bf16"),
        pytest.param((3, 64, 8, 4), torch.bfloat16, True, True, True, id="images of whole tiles"),
        pytest.param((4, 8, 3, 3), torch.float32, False, False, True, id="no gate"),
        pytest.param((3, 8, 1, 1), torch.float32, False, True, False, id="stochastic depth, frozen statistics"),
        pytest.param((3, 24, 5, 5), torch.bfloat16, True, False, False, id="gate, frozen statistics"),
    ],
)
def test_gate_and_sum(shape, dtype, gated, factored, training, device):
    maps, weight, bias, _, mean, variance = tensors(shape, dtype, device)
    shortcut = tensors(shape, dtype, device)[0]
    if training and gated:  # every second line and pixel of larger maps
        larger = tensors((*shape[:2], 2 * shape[2], 2 * shape[3] - 1), dtype, device)[0].detach()
        shortcut = larger[:, :, ::2, ::2].requires_grad_()
    squeeze, excite = torch.randn(2, 2, shape[1], device=device).unbind()
    squeeze, excite = squeeze.requires_grad_(), excite.t().contiguous().requires_grad_()
    factor = torch.tensor([0.0, 1.25, 1.25, 0.0][: shape[0]], device=device) if factored else None
    given = [maps, weight, bias, shortcut, *([squeeze, excite] if gated else [])]
    wanted_from = doubled(*given, mean, variance)
    norm = layer(weight, bias, mean, variance, training)
    made, following = gated_sum(maps, norm, shortcut, *given[4:], factor=factor, measure=True)
    gradient = torch.randn(shape, device=device).to(dtype)
    found = torch.autograd.grad(made, given, gradient)
    residual = functional.batch_norm(
        wanted_from[0], *wanted_from[-2:], wanted_from[1], wanted_from[2], training, 0.1, 1e-5
    )
    if gated:
        gate = ((residual.mean((2, 3)) @ wanted_from[4].t()).relu() @ wanted_from[5].t()).sigmoid()
        residual = residual * gate[:, :, None, None]
    if factored:
        residual = residual * factor[:, None, None, None]
    wanted = residual + wanted_from[3]
    expected = torch.autograd.grad(wanted, wanted_from[: len(given)], gradient.double())
    for value, right in ((made, wanted), (found[0], expected[0]), (found[3], expected[3])):
        close(value, right, ROUNDING[dtype])
    for place in (1, 2, *range(4, len(given))):
        close(found[place], expected[place], 10 * SUMS)
    close(mean, wanted_from[-2], SUMS)
    close(variance, wanted_from[-1], SUMS)
    close(norm_launch.merged(following, 1e-5, None)[0], made.double().mean((0, 2, 3)), SUMS)


@pytest.mark.parametrize("device", DEVICES)
def test_many_groups_and_tails(device, monkeypatch):
    """Maps with more channels than a tile, groups of several tiles (the last in part), images of three groups.

    A tile has two slots of two rows each; six groups are read in two goes.
    """
    sizes = dict.fromkeys(("TILE", "SUM_TILE", "STATISTICS_TILE"), 32) | {"WIDEST": 4, "SPAN": 16, "PROGRAMS": 12}
    sizes |= {"MOST_TILES": 2, "WAVE": 18, "MERGED_ROWS": 4, "MERGED_EACH": 8}
    for name, value in sizes.items():
        monkeypatch.setattr(norm_launch, name, value)
    monkeypatch.setattr(gate_launch, "TILE", 8)  # two hidden values, one at a time
    maps, weight, bias, slope, mean, variance = tensors((2, 8, 5, 7), torch.float32, device, offset=1000.0)
    rows = norm_launch.as_rows(maps)
    assert norm_launch.groups_of_batch(rows, 12)[2:] == (6, 12), "70 rows in groups of three tiles of 4"
    assert norm_launch.groups_of_batch(rows, 0)[2:] == (9, 8), "of two tiles"
    assert norm_launch.groups_of_images(rows)[2:] == (3, 12)
    wanted_from = doubled(maps, weight, bias, slope, mean, variance)
    norm, gradient = layer(weight, bias, mean, variance, True), torch.randn(maps.shape, device=device)
    made = normalise(maps, norm, "prelu", slope)[0]
    wanted = norm_and_activation(*wanted_from, "prelu", True)
    close(made, wanted, 1e-4)  # a float32 near 1000 is rounded by 3e-5
    close(variance, wanted_from[5], SUMS)
    found = torch.autograd.grad(made, (maps, slope), gradient)
    for value, right in zip(found, torch.autograd.grad(wanted, wanted_from[:4:3], gradient.double()), strict=True):
        close(value, right, 1e-3)
    squeeze, excite = torch.randn(2, 8, device=device), torch.randn(8, 2, device=device)
    made, _ = gated_sum(maps, norm, maps, squeeze, excite)
    residual = functional.batch_norm(wanted_from[0], None, None, *wanted_from[1:3], True)
    gate = ((residual.mean((2, 3)) @ squeeze.double().t()).relu() @ excite.double().t()).sigmoid()
    close(made, residual * gate[:, :, None, None] + wanted_from[0], SUMS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sides", [(16, 20), (15, 20)], ids=["tiles of one image", "tiles of several"])
def test_programs_of_many_tiles(sides, device, monkeypatch):
    """As large maps have them: the next tile is copied while one is computed. Equal inputs give equal bits."""
    for name, value in {"PROGRAMS": 4, "WAVE": 3}.items():
        monkeypatch.setattr(norm_launch, name, value)
    maps, weight, bias, slope, mean, variance = tensors((2, 64, *sides), torch.bfloat16, device)
    rows, staged = norm_launch.as_rows(maps), norm_launch.STAGED_TILES
    assert norm_launch.groups_of_batch(rows, 4).length >= staged * norm_launch.STATISTICS_TILE // 64
    assert norm_launch.groups_of_batch(rows, 0).length >= staged * norm_launch.TILE // 64
    squeeze, excite = (torch.randn(shape, device=device).requires_grad_() for shape in ((4, 64), (64, 4)))
    given = (maps, weight, bias, slope, squeeze, excite)
    gradient = torch.randn(maps.shape, device=device).to(torch.bfloat16)

    def results():
        norm = layer(weight, bias, mean.clone(), variance.clone(), True)
        made, passed, known = normalise(maps, norm, "prelu", slope, measure=True, bypass=1)
        whole, following = gated_sum(made, norm, passed, squeeze, excite, measure=True)
        measured = [norm_launch.merged(one, 1e-5, None) for one in (known, following)]
        return [made, whole, *measured[0], *measured[1], *torch.autograd.grad(whole, given, gradient)]

    found = results()
    assert all(torch.equal(one, other) for one, other in zip(found, results(), strict=True))
    exact = doubled(*given)
    made = norm_and_activation(*exact[:4], None, None, "prelu", True)
    residual = functional.batch_norm(made, None, None, *exact[1:3], True)
    gate = ((residual.mean((2, 3)) @ exact[4].t()).relu() @ exact[5].t()).sigmoid()
    whole = residual * gate[:, :, None, None] + exact[0]
    for value, right in zip(found[:2], (made, whole), strict=True):
        close(value, right, 2 * ROUNDING[torch.bfloat16])
    for place, value in enumerate(found[:2]):
        close(found[2 + 2 * place], value.double().mean((0, 2, 3)), SUMS)
    for value, right in zip(found[6:], torch.autograd.grad(whole, exact, gradient.double()), strict=True):
        close(value, right, 0.02)  # through two maps of bfloat16


@pytest.mark.parametrize("device", DEVICES)
def test_gates_of_many_images(device, monkeypatch):
    """In programs of four, the last of two; matrices of several tiles, their gradients from three shares of a batch."""
    for name, value in {"TILE": 512, "ROWS": 16, "COLUMNS": 16, "IMAGES_EACH": 16, "MOST_SHARES": 3}.items():
        monkeypatch.setattr(gate_launch, name, value)
    maps, weight, bias, _, mean, variance = tensors((70, 40, 2, 1), torch.float32, device)
    squeeze, excite = (torch.randn(shape, device=device).requires_grad_() for shape in ((20, 40), (40, 20)))
    wanted_from = doubled(weight, bias, squeeze, excite)
    made, _ = gated_sum(maps, layer(weight, bias, mean, variance, True), maps, squeeze, excite)
    gradient = torch.randn(maps.shape, device=device)
    found = torch.autograd.grad(made, (weight, bias, squeeze, excite), gradient)
    residual = functional.batch_norm(maps.detach().double(), None, None, *wanted_from[:2], True)
    gate = ((residual.mean((2, 3)) @ wanted_from[2].t()).relu() @ wanted_from[3].t()).sigmoid()
    wanted = residual * gate[:, :, None, None] + maps.detach().double()
    close(made, wanted, SUMS)
    for value, right in zip(found, torch.autograd.grad(wanted, wanted_from, gradient.double()), strict=True):
        close(value, right, 10 * SUMS)
    measured = norm_launch.statistics(rows := norm_launch.as_rows(maps), norm_launch.groups_of_images(rows))
    numbers = norm_launch.Norm(*norm_launch.merged(measured, 1e-5, None), weight, bias)
    whole = gate_launch.gates(measured, numbers, squeeze, excite)
    few = norm_launch.Statistics(measured.means[3:8], measured.squares[3:8], measured.groups._replace(images=5))
    for value, right in zip(gate_launch.gates(few, numbers, squeeze, excite), whole, strict=True):
        assert torch.equal(value, right[3:8]), "an image's gate does not depend on the others"


@pytest.mark.parametrize("device", DEVICES)
def test_gradcheck(device):
    maps, weight, bias, slope, mean, variance = tensors((2, 3, 2, 2), torch.float64, device)
    norm = layer(weight, bias, mean, variance, True)

    def activated(maps, weight, bias, slope):
        return normalise(maps, norm._replace(weight=weight, bias=bias), "prelu", slope, bypass=2)[:2]

    def summed(maps, weight, bias, shortcut, squeeze, excite):
        return gated_sum(maps, norm._replace(weight=weight, bias=bias), shortcut, squeeze, excite)[0]

    assert torch.autograd.gradcheck(activated, (maps, weight, bias, slope), fast_mode=True)
    shortcut = tensors((2, 3, 2, 2), torch.float64, device)[0]
    squeeze, excite = (torch.rand(2, 3, dtype=torch.float64, device=device).requires_grad_() for _ in range(2))
    given = (maps, weight, bias, shortcut, squeeze, excite.t().contiguous().detach().requires_grad_())
    assert torch.autograd.gradcheck(summed, given, fast_mode=True)


def test_one_value_a_channel_is_refused_in_training():
    maps, weight, bias, _, mean, variance = tensors((1, 8, 1, 1), torch.float32, "cpu")
    for function, more in ((normalise, ()), (gated_sum, (maps,))):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            function(maps, layer(weight, bias, mean, variance, True), *more)
