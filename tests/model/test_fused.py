"""The fused model: what it sees, what it computes, what its settings refuse."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from reference import matrix, separable
from torch.nn import functional

from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.model.fused import Fused, FusedSettings, build_model, model_settings
from hrfr_fast.runtime.errors import UsageError

LARGE, SMALL = BackboneSettings(144, 8, 16), BackboneSettings(32, 16, 24)
SETTINGS = FusedSettings((LARGE, SMALL), embedding_size=20)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 0.01), (torch.bfloat16, 0.8)])
def test_the_small_input_is_the_resampling_definition(dtype, tolerance):
    """On noise, where antialiasing overshoots, and on a flat image. bfloat16 itself is exact to half a value."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 144, 144, 3), dtype=np.uint8)
    pictures[1] = 255 * (pictures[1] > 250)
    pictures[2] = 200
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(dtype).sub(127.5).mul(1 / 127.5)
    model = Fused(SETTINGS)
    with torch.autocast("cpu", torch.bfloat16):
        small = model.downsample(images)
    assert small.dtype == dtype and small.shape == (3, 3, 32, 32)
    values = small.float().permute(0, 2, 3, 1).numpy() * 127.5 + 127.5
    weights = matrix(0.0, 1.0, 144, 32)
    for picture, value in zip(pictures, values, strict=True):
        expected = np.clip(separable(picture.astype(np.float64), weights, weights), 0, 255)
        assert np.abs(value - expected).max() < tolerance


def test_the_embedding_is_the_formula():
    torch.manual_seed(0)
    model = Fused(SETTINGS).eval()
    linear, norm = model.fusion[0], model.fusion[1]
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    images = torch.rand(2, 3, 144, 144) * 2 - 1
    with torch.inference_mode():
        large, small = model.large(images), model.small(model.downsample(images))
        joined = torch.cat([large / large.norm(dim=1, keepdim=True), small / small.norm(dim=1, keepdim=True)], dim=1)
        mixed = joined @ linear.weight.t() + linear.bias
        expected = (mixed - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_every_parameter_belongs_to_one_part():
    model = Fused(SETTINGS)
    parts = [p for modules in model.parts.values() for module in modules for p in module.parameters()]
    assert {id(p) for p in parts} == {id(p) for p in model.parameters()} and len(parts) == len(list(model.parameters()))
    assert [type(layer).__name__ for layer in model.parts["output"][0]][::3] == ["BatchNorm2d", "Linear"]


def test_metadata_says_what_to_build():
    assert model_settings(asdict(SETTINGS)) == SETTINGS and model_settings(asdict(LARGE)) == LARGE
    side_by_side = FusedSettings((LARGE, SMALL), embedding_size=40, fusion=False)
    model = build_model(side_by_side).eval()
    with torch.inference_mode():
        embedding = model(torch.zeros(1, 3, 144, 144))
    assert embedding.shape == (1, 40)
    torch.testing.assert_close(functional.normalize(embedding[:, :16]), embedding[:, :16])


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"branches": (SMALL, LARGE)}, "branches of 144 px and of at most that; these are of 32 and 144 px"),
        ({"branches": (LARGE, SMALL), "fusion": False}, "embedding_size is 40, not 512"),
        ({"branches": (LARGE, SMALL), "embedding_size": 1}, "at least 2 dimensions"),
    ],
)
def test_branches_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        FusedSettings(**settings)
