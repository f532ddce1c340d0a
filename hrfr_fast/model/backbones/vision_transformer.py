"""Vision transformers for faces: vit-s and vit-b.

Dosovitskiy et al., ICLR 2021, with arcface_torch's choices (An et al., "Killing Two Birds with One Stone", CVPR 2022):
no class token, ReLU6, no biases of queries, keys and values, and an output layer over all patches' features.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.model.backbones.base import Backbone, BackboneSettings
from hrfr_fast.model.backbones.table import VisionTransformer

HEAD_CHANNELS = 64
MOST_PATCHES = 12
PUBLISHED_PATCHES = {112: 9}
"""Pixels a side of a patch where they do not divide the input's: at 112 px the published networks take 12 x 12 patches
of 9 px, and leave the last four rows and columns out."""


def patch_size(input_size: int) -> int:
    """Pixels a side of a patch: the smallest divisor that gives at most 12 x 12 patches, or the published size.

    32 px: 8 x 8 patches of 4; 112: 12 x 12 of 9; 144: 12 x 12 of 12.
    """
    published = PUBLISHED_PATCHES.get(input_size)
    return published or next(
        size for size in range(1, input_size + 1) if input_size % size == 0 and input_size // size <= MOST_PATCHES
    )


class PatchEmbedding(nn.Module):
    """[B, 3, S, S] images to [B, patches, channels]: a linear map of each patch, plus its position's vector."""

    undecayed = ("position",)
    """Parameters that weight decay leaves alone, though they are no vectors."""

    def __init__(self, input_size: int, channels: int) -> None:
        super().__init__()
        size = patch_size(input_size)
        self.patches = input_size // size
        """Patches a side."""
        self.projection = nn.Conv2d(3, channels, size, size)
        self.position = nn.Parameter(torch.zeros(1, self.patches**2, channels))

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images).flatten(2).transpose(1, 2) + self.position


class Attention(nn.Module):
    """Self-attention of several heads: [B, patches, channels] to the same shape."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.projection = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, channels = tokens.shape
        split = self.qkv(tokens).view(batch, count, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*split.unbind(0))
        return cast(Tensor, self.projection(mixed.transpose(1, 2).reshape(batch, count, channels)))


class TransformerBlock(nn.Module):
    """tokens + attention(LN(tokens)), then tokens + perceptron(LN(tokens)): [B, patches, channels] to the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.ReLU6(), nn.Linear(4 * channels, channels)
        )

    def forward(self, tokens: Tensor, factors: Tensor | None = None) -> Tensor:
        branches = [(self.norm1, self.attention), (self.norm2, self.perceptron)]
        for number, (norm, layer) in enumerate(branches):
            made = layer(norm(tokens))
            tokens = tokens + (made if factors is None else made * factors[number].view(-1, 1, 1))
        return tokens


class VisionTransformerBackbone(Backbone):
    """The network that a ``VisionTransformer`` describes, of 8 times the width in channels, in heads of 64."""

    residual_branches = 2

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__(settings)
        table = settings.architecture
        assert isinstance(table, VisionTransformer)
        channels = 8 * settings.width
        stem = PatchEmbedding(settings.input_size, channels)
        self.stem = stem
        self.body = nn.ModuleList(TransformerBlock(channels, channels // HEAD_CHANNELS) for _ in range(table.depth))
        self.output = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Dropout(settings.dropout),
            nn.Flatten(),
            nn.Linear(channels * stem.patches**2, channels, bias=False),
            nn.BatchNorm1d(channels, eps=2e-5),
            nn.Linear(channels, settings.embedding_size, bias=False),
            nn.BatchNorm1d(settings.embedding_size, eps=2e-5),
        )
        nn.init.trunc_normal_(stem.position, std=0.02)
        self.apply(_initialise)


def _initialise(module: nn.Module) -> None:
    """A truncated normal distribution of 0.02 for linear layers, no biases; patches keep torch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
