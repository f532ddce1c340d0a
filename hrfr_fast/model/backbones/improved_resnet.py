"""Improved residual networks, with and without squeeze-and-excitation: ir18 to ir100, irse18 to irse100.

Blocks: BN - conv3x3 - BN - PReLU - conv3x3(stride) - BN (- SE), added to the shortcut, no activation after the sum
(Deng et al., "ArcFace", CVPR 2019, section 3.2.2; SE: Hu et al., CVPR 2018, reduction 16). Four stages of widths 1, 2,
4 and 8 times the first's, the first block of each with stride 2.
"""

from typing import cast

import torch
from torch import Tensor, nn

from hrfr_fast.model.backbones.base import Backbone, BackboneSettings, initialise_convolutional
from hrfr_fast.model.backbones.subsample import Subsample
from hrfr_fast.model.backbones.table import IR_VARIANTS, ImprovedResNet, IRVariant

REDUCTION = 16


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(
            channels // REDUCTION, 2
        )  # width 16 would get a single hidden unit, through which nothing is learnt
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        gate = self.squeeze(maps.mean((2, 3), keepdim=True)).relu()
        return maps * self.excite(gate).sigmoid()


class IRBlock(nn.Module):
    """One residual block: [B, in, S, S] to [B, out, S / stride, S / stride].

    ``first``: it is the first of its stage, where variants differ in the shortcut.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, variant: IRVariant, *, squeeze_excite: bool, first: bool
    ) -> None:
        super().__init__()
        # conv1x1(stride) is written as subsampling, then conv1x1: the same numbers, but torch 2.13's strided 1x1
        # convolution writes past its buffers on CPUs where channels are fewer than a vector holds (8 on AVX-512).
        self.shortcut: nn.Module = Subsample(stride) if stride > 1 else nn.Identity()
        if channels_in != channels_out or (first and variant.projects_every_stage):
            project = nn.Conv2d(channels_in, channels_out, 1, bias=False)
            self.shortcut = nn.Sequential(self.shortcut, project, nn.BatchNorm2d(channels_out))
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False),
            *([nn.BatchNorm2d(channels_out)] if variant.middle_norm else []),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            *([SqueezeExcite(channels_out)] if squeeze_excite else []),
        )

    @property
    def summed_norm(self) -> nn.Module:
        """The BatchNorm whose result, gated where there is a gate, is added to the shortcut."""
        return [layer for layer in self.residual if isinstance(layer, nn.BatchNorm2d)][-1]

    @property
    def shortcut_norm(self) -> nn.Module | None:
        """The BatchNorm of a projected shortcut."""
        return self.shortcut[-1] if isinstance(self.shortcut, nn.Sequential) else None

    def forward(self, maps: Tensor, factors: Tensor | None = None) -> Tensor:
        residual = self.residual(maps)
        if factors is not None:
            residual = residual * factors[0].view(-1, 1, 1, 1)
        return cast(Tensor, residual + self.shortcut(maps))


class ImprovedResNetBackbone(Backbone):
    """The network that an ``ImprovedResNet`` describes."""

    residual_branches = 1

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__(settings)
        table = settings.architecture
        assert isinstance(table, ImprovedResNet)
        variant, width = IR_VARIANTS[settings.variant or table.variant], settings.width
        activation = nn.PReLU(width) if table.stem_activation == "prelu" else nn.ReLU()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), activation)
        blocks, channels = [], width
        for stage, units in enumerate(table.units):
            for number in range(units):
                first = number == 0
                blocks.append(
                    IRBlock(
                        channels, width << stage, 2 if first else 1, variant,
                        squeeze_excite=table.squeeze_excite, first=first,
                    )
                )  # fmt: skip
                channels = width << stage
        self.body = nn.ModuleList(blocks)
        map_size = settings.input_size // 16
        self.output = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Dropout(settings.dropout),
            nn.Flatten(),
            nn.Linear(channels * map_size * map_size, settings.embedding_size),
            nn.BatchNorm1d(settings.embedding_size),
        )
        self.apply(initialise_convolutional)

    def embedded(self, images: Tensor) -> Tensor:
        if self.gpu_kernels:
            from hrfr_fast.model.kernels.network import embed  # it needs Triton

            return embed(self, self.normalised(images))
        if self.cpu_kernels and images.device.type == "cpu" and not _is_exported():
            from hrfr_fast.model.kernels.cpu_network import embed as embed_on_cpu  # it needs numba: 0.5 s to import

            return embed_on_cpu(self, self.normalised(images))
        return super().embedded(images)


def _is_exported() -> bool:
    """Whether the network is being written down for other programs, which know torch's layers alone."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
