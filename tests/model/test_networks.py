"""Every network of the table: size and arithmetic as published, and one training step at 32 and 112 px."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.backbones.improved_resnet import IRBlock
from hrfr_fast.model.backbones.resizing import resized_weights
from hrfr_fast.model.backbones.table import BACKBONES, IR_VARIANTS
from hrfr_fast.model.backbones.vision_transformer import patch_size
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import choices


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def on_meta(name, size=112, **more):
    with torch.device("meta"):
        return build_backbone(BackboneSettings(size, name=name, **more))


def multiply_adds(network, size):
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2


# Parameters were counted on the public code itself (arcface_torch iresnet.py, mobilefacenet.py and vit.py, AdaFace
# net.py, face.evoLVe model_irse.py; embeddings agree too), and are in millions what their authors print:
# 24.0, 34.1, 43.6 and 65.2 for iresnet18 to 100, 43.8 for IR_SE_50. Differences are named: AdaFace's last BatchNorm has
# neither scale nor shift (2 x 512 fewer); vit.py keeps a vector for masked patches (512 more).
# Multiply-adds: 5.7 and 11.4 G of vit-s and vit-b are the README's of arcface_torch; 6.3 and 12.1 G of 50 and 100
# layers are those of CVLface's and AdaFace's counters; 0.45 G of "mbf" counts BatchNorm and PReLU too.
PUBLISHED = [
    ("ir18", "", 24_025_600, 2.6),
    ("ir34", "", 34_139_328, 4.5),
    ("ir50", "", 43_590_848, 6.3),
    ("ir100", "", 65_156_160, 12.1),
    ("ir50", "adaface", 43_590_848 - 64 * 64 - 2 * 64, 6.3),
    ("irse50", "", 43_809_344, 6.3),
    ("irse50", "evolve", 43_797_696, 6.3),
    ("irse100", "", 65_524_160, 12.1),
    ("mobilefacenet", "", 2_059_520, 0.44),
    ("vit-s", "", 76_022_784, 5.7),
    ("vit-b", "", 113_832_960, 11.4),
]


@pytest.mark.parametrize("name,variant,parameters,giga", PUBLISHED)
def test_size_and_arithmetic_are_the_published_ones(name, variant, parameters, giga):
    network = on_meta(name, variant=variant)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert multiply_adds(network, 112) / 1e9 == pytest.approx(giga, rel=0.015)


def test_every_network_can_be_chosen():
    assert choices("backbone") == tuple(BACKBONES)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [32, 112])
def test_one_training_step(name, size):
    """Narrow, whole and in half of its parts: every parameter gets a finite gradient, and a step lowers the loss."""
    network = build_backbone(BackboneSettings(size, width=8, embedding_size=8, name=name)).train()
    images, target = torch.randn(4, 3, size, size).clamp(-1, 1), torch.randn(4, 8)
    loss = (network(images) - target).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 1e-3 * parameter.grad / (parameter.grad.norm() + 1e-12) * parameter.norm().clamp(min=0.1)
    assert (network(images) - target).square().mean() < loss
    owned = [p for part in network.parts.values() for module in part for p in module.parameters()]
    assert {id(p) for p in owned} == {id(p) for p in network.parameters()} and set(network.parts) == {"body", "output"}


@pytest.mark.parametrize("name", ["ir18", "mobilefacenet", "vit-s"])
def test_sizes_in_between(name):
    for size in (16, 80, 144):
        network = on_meta(name, size, width=16, embedding_size=24)
        assert network(torch.empty(2, 3, size, size, device="meta")).shape == (2, 24)


@pytest.mark.parametrize("size,patch", [(16, 2), (32, 4), (48, 4), (96, 8), (112, 9), (128, 16), (144, 12), (160, 16)])
def test_patches_of_each_size(size, patch):
    assert patch_size(size) == patch and on_meta("vit-s", size, width=8).stem.patches == size // patch <= 12


@pytest.mark.parametrize("variant", IR_VARIANTS)
def test_variants_differ_in_what_the_table_says(variant):
    network, table = on_meta("ir18", variant=variant, width=16), IR_VARIANTS[variant]
    blocks = list(network.body)
    assert [isinstance(block.shortcut, nn.Sequential) for block in blocks[::2]] == [
        table.projects_every_stage, True, True, True,
    ]  # fmt: skip
    kinds = [type(layer) for layer in blocks[0].residual]
    middle = [nn.BatchNorm2d] if table.middle_norm else []
    assert kinds == [nn.BatchNorm2d, nn.Conv2d, *middle, nn.PReLU, nn.Conv2d, nn.BatchNorm2d]
    assert isinstance(network.stem[2], nn.PReLU) and all(isinstance(block, IRBlock) for block in blocks)


def test_a_transformer_equals_its_formula():
    """Attention and perceptron written out from the network's own weights, in float64."""
    network = build_backbone(BackboneSettings(32, width=16, embedding_size=8, name="vit-s")).double().eval()
    network.stem.position.data.normal_()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 64, 48)
    projection = network.stem.projection
    tokens = patches @ projection.weight.reshape(128, 48).T + projection.bias + network.stem.position

    def normed(norm, x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()

    for block in network.body:
        query, key, value = (normed(block.norm1, tokens) @ block.attention.qkv.weight.T).chunk(3, dim=-1)
        heads = []
        for head in (slice(0, 64), slice(64, 128)):
            weights = (query[..., head] @ key[..., head].transpose(1, 2) / 8).softmax(-1)
            heads.append(weights @ value[..., head])
        mixed, first, last = block.attention.projection, block.perceptron[0], block.perceptron[2]
        tokens = tokens + torch.cat(heads, -1) @ mixed.weight.T + mixed.bias
        hidden = (normed(block.norm2, tokens) @ first.weight.T + first.bias).clamp(0, 6)
        tokens = tokens + hidden @ last.weight.T + last.bias
    _, _, _, wide, norm, narrow, final = network.output
    features = normed(None, tokens).reshape(2, -1) @ wide.weight.T / (1 + norm.eps) ** 0.5
    expected = features @ narrow.weight.T / (1 + final.eps) ** 0.5
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("name", ["ir18", "vit-s"])
def test_stochastic_depth_keeps_the_expectation(name):
    """Each block's factors: 0 or 1 / P(kept) a sample, as often as the settings say, more the deeper the block."""
    network = build_backbone(BackboneSettings(16, width=8, embedding_size=8, name=name, drop_path=0.6)).train()
    maps, last = torch.zeros(20_000, 1), len(network.body) - 1
    assert network.branch_factors(0, maps) == ()
    for number in (1, last):
        (factors,) = network.branch_factors(number, maps)
        share = 0.6 * number / last
        assert factors.shape == (network.residual_branches, 20_000)
        assert set(factors.unique().tolist()) == {0, torch.tensor(1 / (1 - share)).item()}
        assert (factors == 0).float().mean().item() == pytest.approx(share, abs=0.015)
        assert factors.mean().item() == pytest.approx(1, abs=0.04)
    network.eval()
    assert network.branch_factors(last, maps) == ()


def test_a_branch_that_is_left_out_leaves_the_shortcut():
    for name, shape in (("ir18", (2, 8, 4, 4)), ("vit-s", (2, 4, 64))):
        network = build_backbone(BackboneSettings(16, width=8, embedding_size=8, name=name)).eval()
        block, maps = network.body[1], torch.randn(shape)
        none, whole = torch.zeros(network.residual_branches, 2), torch.ones(network.residual_branches, 2)
        none[:, 1] = 1
        made = block(maps, none)
        assert torch.equal(made[0], maps[0]) and torch.equal(made[1], block(maps)[1])
        assert torch.equal(block(maps, whole), block(maps))


@pytest.mark.parametrize("name", ["ir18", "mobilefacenet", "vit-s"])
def test_checkpointing_and_the_memory_format_change_no_result(name):
    drop = 0 if name == "mobilefacenet" else 0.5
    plain = build_backbone(BackboneSettings(32, width=8, embedding_size=8, name=name, drop_path=drop)).train()
    saving, results = copy.deepcopy(plain), []
    saving.activation_checkpointing = True
    images = torch.randn(4, 3, 32, 32)
    for network in (plain, saving):
        torch.manual_seed(3)
        network(images).square().sum().backward()
        results.append([*(p.grad for p in network.parameters()), *network.buffers()])
    assert all(map(torch.equal, *results))
    last = plain.eval().to(memory_format=torch.channels_last)
    given = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(given), saving.eval()(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["ir18", "mobilefacenet", "vit-s"])
@pytest.mark.parametrize("before,after", [(112, 144), (144, 112)])
def test_resampled_weights_compute_about_the_same_of_the_same_picture(name, before, after):
    settings = BackboneSettings(before, width=16, embedding_size=32, name=name)
    one, other = (build_backbone(replace(settings, input_size=size)).eval() for size in (before, after))
    coarse = torch.randn(4, 3, 6, 6)
    images = [functional.interpolate(coarse, (size, size), mode="bicubic") for size in (before, after)]

    def similarity():
        return functional.cosine_similarity(one(images[0]), other(images[1])).min().item()

    assert similarity() < 0.6
    other.load_state_dict(resized_weights(one.state_dict(), settings, after))
    assert similarity() > 0.75
    assert one(images[0]).norm().item() == pytest.approx(other(images[1]).norm().item(), rel=0.3)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"name": "ir51"}, "there is no 'ir51'; there are ir100"),
        ({"name": "vit-s", "variant": "adaface"}, "vit-s has no variant 'adaface'"),
        ({"variant": "caffe"}, "irse18 has no variant 'caffe'"),
        ({"drop_path": 1.0}, r"drop_path is 1.0.*\[0, 1\)"),
        ({"name": "mobilefacenet", "drop_path": 0.1}, "mobilefacenet has no stochastic depth"),
    ],
)
def test_settings_that_fit_no_network_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        BackboneSettings(**changes)
