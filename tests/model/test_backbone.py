import copy

import pytest
import torch
from network_size import flops_per_image, parameter_count
from torch import nn
from torch.nn import functional

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.backbones.improved_resnet import IRBlock
from hrfr_fast.model.backbones.table import IR_VARIANTS
from hrfr_fast.runtime.errors import UsageError


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(**changes):
    return build_backbone(BackboneSettings(**({"input_size": 32, "width": 8, "embedding_size": 8} | changes)))


@pytest.mark.parametrize("size,final", [(32, 2), (112, 7), (144, 9)])
@pytest.mark.parametrize("embedding", [512, 3])
def test_shapes(size, final, embedding):
    network = small(input_size=size, embedding_size=embedding)
    assert network(torch.randn(2, 3, size, size)).shape == (2, embedding)
    assert network.output[3].in_features == 8 * 8 * final**2


def test_the_whole_network_is_the_one_described():
    """8 blocks, widths 1, 2, 4, 8 times the first, two of each, the first of each with stride 2."""
    network = small()
    maps, shapes = network.stem(torch.randn(2, 3, 32, 32)), []
    for block in network.body:
        maps = block(maps)
        shapes.append(tuple(maps.shape[1:3]))
    assert shapes == [(8, 16), (8, 16), (16, 8), (16, 8), (32, 4), (32, 4), (64, 2), (64, 2)]
    assert [type(layer) for layer in network.stem] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(layer) for layer in network.output] == [
        nn.BatchNorm2d, nn.Dropout, nn.Flatten, nn.Linear, nn.BatchNorm1d,
    ]  # fmt: skip
    biases = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d) and part.bias is not None]
    assert biases == []


def ir_se_block(*shape):
    return IRBlock(*shape, IR_VARIANTS["adaface"], squeeze_excite=True, first=shape[-1] == 2)


def written_out(block, maps, stride):
    """A block in eval mode from its own weights, layer by layer, in the order of the paper's figure."""
    first, conv1, second, prelu, conv2, third, gate = block.residual

    def normed(norm, x):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]

    x = functional.conv2d(normed(first, maps), conv1.weight, padding=1)
    x = normed(second, x)
    x = torch.where(x > 0, x, x * prelu.weight[:, None, None])
    x = normed(third, functional.conv2d(x, conv2.weight, stride=stride, padding=1))
    hidden = torch.relu(x.mean((2, 3)) @ gate.squeeze.weight[:, :, 0, 0].T)
    x = x * torch.sigmoid(hidden @ gate.excite.weight[:, :, 0, 0].T)[:, :, None, None]
    if isinstance(block.shortcut, nn.Sequential):
        _, conv, norm = block.shortcut
        return x + normed(norm, functional.conv2d(maps, conv.weight, stride=stride))
    return x + maps[:, :, ::stride, ::stride]


@pytest.mark.parametrize("channels,stride", [((8, 8), 1), ((8, 8), 2), ((8, 16), 2)])
def test_a_block_equals_its_formula(channels, stride):
    block = ir_se_block(*channels, stride)
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.bias.data, part.running_mean):
                tensor.normal_()
            part.running_var.uniform_(0.5, 2)
    block.eval()
    maps = torch.randn(2, 8, 12, 12)
    torch.testing.assert_close(block(maps), written_out(block, maps, stride), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width,hidden", [(8, 2), (16, 2), (64, 4), (128, 8)])
def test_the_squeeze_never_ends_in_a_single_unit(width, hidden):
    assert ir_se_block(width, width, 1).residual[-1].squeeze.out_channels == hidden


@pytest.mark.parametrize("size,gigaflop", [(32, 1.27), (144, 25.7)])
def test_operations_at_full_width(size, gigaflop):
    """The published cost of a training image: forward, and twice that backward."""
    assert 3 * flops_per_image(BackboneSettings(size)) / 1e9 == pytest.approx(gigaflop, rel=0.01)


def test_operations_are_those_of_the_layers():
    """Counted once more, from what the layers of a real network are given and make."""
    settings, counted = BackboneSettings(48, width=8, embedding_size=16), []
    network = build_backbone(settings).eval()

    def count(layer, inputs, output):
        if output.ndim == 4 and output.shape[-1] == 1:
            return  # squeeze and excitation work on single pixels; not counted
        fan_in = layer.weight[0].numel()
        counted.append(2 * fan_in * output.numel())

    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(count)
    network(torch.randn(1, 3, 48, 48))
    assert sum(counted) == flops_per_image(settings)


def test_parameters():
    # by hand for width 8, embedding 8, at 32 px
    def block(a, b, projected):
        norms = 2 * a + 2 * b + 2 * b
        hidden = max(b // 16, 2)
        return 9 * a * b + 9 * b * b + norms + b + 2 * b * hidden + (a * b + 2 * b if projected else 0)

    blocks = block(8, 8, False) * 2
    for a, b in [(8, 16), (16, 32), (32, 64)]:
        blocks += block(a, b, True) + block(b, b, False)
    stem = 3 * 9 * 8 + 2 * 8
    output = 2 * 64 + (64 * 4 * 8 + 8) + 2 * 8
    assert parameter_count(small()) == stem + blocks + output
    frozen = small().requires_grad_(False)
    assert parameter_count(frozen) == 0


def test_initial_weights():
    """Kaiming over fan-out for convolutions, nothing in biases; activations neither die nor explode."""
    network = small(width=16)
    weight = network.body[4].residual[1].weight
    assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.05)
    assert network.output[3].bias.abs().max() == 0
    linear = network.output[3].weight
    assert linear.std().item() == pytest.approx((2 / sum(linear.shape)) ** 0.5, rel=0.1)
    maps = network.stem(torch.randn(8, 3, 32, 32))
    for block in network.body:
        maps = block(maps)
    assert 0.3 < maps.std() < 10


def test_the_same_seed_gives_the_same_network():
    torch.manual_seed(5)
    one = small().state_dict()
    torch.manual_seed(5)
    other = small().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_channels_last_computes_the_same():
    network, images = small().train(), torch.randn(4, 3, 32, 32)
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    seen = []
    for block in other.body:
        block.register_forward_hook(
            lambda _, __, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    result = other(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(result, network(images), atol=1e-4, rtol=1e-4)
    assert seen == [True] * 8, "no block falls back to the other layout"


def run(network, images):
    output = network(images)
    output.square().mean().add(output[:, 0].sum()).backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return output.detach(), gradients, dict(network.named_buffers())


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_nothing_but_memory(autocast):
    """Outputs, gradients and BatchNorm's statistics, counters and momentum included, to the last bit."""
    plain, saving = small(dropout=0.3).train(), None
    saving = copy.deepcopy(plain)
    saving.activation_checkpointing = True
    calls = []
    for block in saving.body:
        block.register_forward_hook(lambda *_: calls.append(1))
    images, results = torch.randn(6, 3, 32, 32), []
    for network in (plain, saving):
        torch.manual_seed(1)  # the dropout's
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results.append(run(network, images))
    (out, grads, buffers), (other_out, other_grads, other_buffers) = results
    assert len(calls) >= 8 and torch.equal(out, other_out)
    assert all(torch.equal(grads[name], other_grads[name]) for name in grads)
    assert buffers.keys() == other_buffers.keys() and len(buffers) > 60
    assert all(torch.equal(buffers[name], other_buffers[name]) for name in buffers)
    assert other_buffers["body.0.residual.0.num_batches_tracked"] == 1
    momenta = {part.momentum for part in saving.modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d)}
    assert momenta == {0.1}, "the recomputation leaves the layers as they were"


def test_checkpointing_keeps_fewer_activations():
    def kept(checkpointing):
        network, total = small().train(), []
        network.activation_checkpointing = checkpointing
        keep = lambda tensor: total.append(tensor.numel()) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.randn(4, 3, 32, 32))
        return sum(total)

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"input_size": 36}, "input_size is 36.*multiple of 16"),
        ({"input_size": 0}, "input_size is 0"),
        ({"width": 4}, "width is 4.*multiple of 8"),
        ({"embedding_size": 1}, "embedding_size is 1.*at least 2"),
        ({"dropout": 1.0}, r"dropout is 1.0.*\[0, 1\)"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        BackboneSettings(**changes)
