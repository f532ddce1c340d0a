"""BatchNorm kernels for CPUs beside torch's own layers: results, gradients, running statistics, threads."""

import os
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hrfr_fast.model.backbones.improved_resnet import SqueezeExcite
from hrfr_fast.model.kernels import cpu_threads
from hrfr_fast.model.kernels.batch_norm import as_tensors
from hrfr_fast.model.kernels.cpu_norm import gated_sum, normalise
from hrfr_fast.model.kernels.cpu_threads import over_segments

SHAPES = {
    "a vector's channels": (3, 16, 5, 7),
    "odd channels": (4, 11, 3, 3),
    "one pixel": (6, 8, 1, 1),
    "one image": (1, 3, 6, 2),
    "more channels than a row": (2, 600, 2, 2),
    "several segments": (4, 33, 40, 20),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.06}


def layer(channels: int, training: bool = True) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return norm.train(training)


def maps_of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    maps = torch.randn(shape) * 2 + 3
    return maps.to(dtype).to(memory_format=torch.channels_last).requires_grad_()


def compare(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], maps: list[Tensor], weights: list[Tensor],
    dtype: torch.dtype,
) -> None:  # fmt: skip
    """Both functions on ``maps``: results, and gradients by maps and weights, agree within rounding."""
    made, expected = ours(*maps), theirs(*(each.double() for each in maps))
    assert made.dtype == dtype and made.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(made.shape).to(dtype)  # not channels-last
    for got, wanted in zip(
        [made, *torch.autograd.grad(made, [*maps, *weights], gradient)],
        [expected, *torch.autograd.grad(expected, [*maps, *weights], gradient.double())],
        strict=True,
    ):
        scale = wanted.abs().max().item() + 1e-12
        assert (got.double() - wanted.double()).abs().max() <= TOLERANCE[dtype] * scale


def exact(norm: nn.BatchNorm2d, maps: Tensor) -> Tensor:
    """torch's BatchNorm in float64."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    return nn.functional.batch_norm(
        maps, mean, variance, norm.weight.double(), norm.bias.double(), norm.training, norm.momentum or 0.0, norm.eps
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen"])
def test_normalise_is_batchnorm_and_prelu(shape: tuple[int, ...], dtype: torch.dtype, training: bool) -> None:
    maps, norm = maps_of(shape, dtype), layer(shape[1], training)
    slope = torch.rand(shape[1], requires_grad=True)

    def ours(maps: Tensor) -> Tensor:
        made, shortcut = normalise(maps, as_tensors(norm), slope, bypass=True)
        return made + shortcut

    def theirs(maps: Tensor) -> Tensor:
        return nn.functional.prelu(exact(norm, maps), slope.double()) + maps

    compare(ours, theirs, [maps], [norm.weight, norm.bias, slope], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen"])
@pytest.mark.parametrize("gated", [True, False], ids=["gate", "no gate"])
def test_gated_sum_is_batchnorm_gate_and_sum(
    shape: tuple[int, ...], dtype: torch.dtype, training: bool, gated: bool
) -> None:
    maps, shortcut, norm = maps_of(shape, dtype), maps_of(shape, dtype), layer(shape[1], training)
    gate = SqueezeExcite(shape[1])
    weights = [gate.squeeze.weight, gate.excite.weight] if gated else []

    def theirs(maps: Tensor, shortcut: Tensor) -> Tensor:
        made = exact(norm, maps)
        if gated:
            hidden = nn.functional.conv2d(made.mean((2, 3), keepdim=True), weights[0].double()).relu()
            made = made * nn.functional.conv2d(hidden, weights[1].double()).sigmoid()
        return made + shortcut

    def ours(maps: Tensor, shortcut: Tensor) -> Tensor:
        return gated_sum(maps, as_tensors(norm), shortcut, *(weight.flatten(1) for weight in weights))

    compare(ours, theirs, [maps, shortcut], [norm.weight, norm.bias, *weights], dtype)


def test_without_an_activation_and_with_relu() -> None:
    maps, norm = maps_of((2, 5, 6, 6), torch.float32), layer(5)
    compare(lambda maps: normalise(maps, as_tensors(norm))[0], partial(exact, norm), [maps], [norm.weight], maps.dtype)
    relu = torch.zeros(5)
    compare(
        lambda maps: normalise(maps, as_tensors(norm), relu)[0], lambda maps: exact(norm, maps).relu(),
        [maps], [norm.bias], maps.dtype,
    )  # fmt: skip


def test_running_statistics_move_as_torch_moves_them() -> None:
    ours, theirs = layer(7), nn.BatchNorm2d(7)
    theirs.load_state_dict(ours.state_dict())
    for seed in range(3):
        torch.manual_seed(seed)
        maps = maps_of((2, 7, 9, 9), torch.float32)
        normalise(maps, as_tensors(ours)), theirs(maps)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    frozen = layer(7, training=False)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    normalise(maps, as_tensors(frozen))
    assert all(torch.equal(value, frozen.state_dict()[name]) for name, value in before.items())


def test_one_value_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalise(torch.ones(1, 3, 1, 1), as_tensors(layer(3)))


def test_maps_far_from_zero_lose_nothing() -> None:
    maps = (torch.randn(4, 3, 50, 50) + 1000).to(memory_format=torch.channels_last)
    made, _ = normalise(maps, as_tensors(nn.BatchNorm2d(3).train()))
    assert made.std((0, 2, 3)).sub(1).abs().max() < 1e-3


def test_nan_and_infinity_are_seen() -> None:
    for number in (torch.nan, torch.inf):
        maps = torch.randn(2, 3, 4, 4)
        maps[0, 0, 0, 0] = number
        norm = layer(3)
        made, _ = normalise(maps, as_tensors(norm), torch.full((3,), 0.25))
        assert made[:, 0].isnan().any() and made[:, 1:].isfinite().all()
        assert norm.running_var[0].isnan() and norm.running_var[1:].isfinite().all()  # type: ignore[index]


def test_threads_change_no_bit() -> None:
    maps, norm, slope = maps_of((4, 64, 48, 48), torch.bfloat16), layer(64), torch.rand(64, requires_grad=True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made, _ = normalise(maps, as_tensors(norm), slope)
            results.append([made, *torch.autograd.grad(made, [maps, norm.weight, norm.bias, slope], made.detach())])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_threads_do_each_segment_once_and_pass_errors_on() -> None:
    done: list[int] = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        over_segments(lambda first, last: done.extend(range(first, last)), 37, 1 << 20)
        assert sorted(done) == list(range(37))
        with pytest.raises(ZeroDivisionError):
            over_segments(lambda first, last: first // (first - first), 37, 1 << 20)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_forked_child_waits_for_no_thread_that_it_does_not_have() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        over_segments(lambda first, last: None, 8, 1 << 20)
        assert cpu_threads._pool.cache_info().currsize
        if (child := os.fork()) == 0:
            os._exit(cpu_threads._pool.cache_info().currsize)  # a pool without threads would keep each step's maps
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
