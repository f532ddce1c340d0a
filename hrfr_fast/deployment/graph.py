"""The module that is exported: pictures in, embeddings out, with preprocessing and the flip sum inside on request."""

from typing import cast

import torch
from torch import Tensor, nn

from hrfr_fast.engines.pixels import to_model_input


class ExportedEmbedder(nn.Module):
    """[B, S, S, 3] uint8 pixel values, or [B, 3, S, S] float32 in [-1, 1], to float32 [B, embedding_size].

    Embeddings are f(x), or f(x) + f(flip x) with ``flip_sum``, and not normalised.
    """

    def __init__(self, backbone: nn.Module, *, pixels: bool, flip_sum: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixels, self.flip_sum = pixels, flip_sum

    def forward(self, images: Tensor) -> Tensor:
        if self.pixels:
            images = to_model_input(images, torch.float32)
        if not self.flip_sum:
            return cast(Tensor, self.backbone(images)).float()
        # Both sides in one pass: the graph holds the network once.
        both: Tensor = self.backbone(torch.cat([images, images.flip(3)])).float()
        return both.unflatten(0, (2, -1)).sum(0)

    def example(self, count: int, size: int) -> Tensor:
        """Input of the right type and shape, all of one value."""
        if self.pixels:
            return torch.full((count, size, size, 3), 128, dtype=torch.uint8)
        return torch.zeros(count, 3, size, size)
