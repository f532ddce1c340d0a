"""MobileFaceNet: inverted bottlenecks of depthwise convolutions, and a depthwise convolution over the final maps.

Chen et al., "MobileFaceNets", CCBR 2018, section 3.3, with the channels of arcface_torch's "mbf": 2 times the width in
the first stages, 4 times in the later ones, 8 times before the output.
"""

from typing import cast

from torch import Tensor, nn

from hrfr_fast.model.backbones import table
from hrfr_fast.model.backbones.base import Backbone, BackboneSettings, initialise_convolutional


class Bottleneck(nn.Module):
    """conv1x1 - depthwise conv3x3(stride) - conv1x1, added to its input where the stride is 1.

    [B, in, S, S] to [B, out, S / stride, S / stride], with ``hidden`` channels between; BN and PReLU after the first
    two convolutions, BN after the last.
    """

    def __init__(self, channels_in: int, hidden: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1
        self.layers = nn.Sequential(
            *convolution(channels_in, hidden, 1), *convolution(hidden, hidden, 3, stride, groups=hidden),
            *convolution(hidden, channels_out, 1)[:2],
        )  # fmt: skip

    @property
    def summed_norm(self) -> nn.Module | None:
        """The BatchNorm whose result is added to the input, where it is."""
        return self.layers[-1] if self.adds else None

    def forward(self, maps: Tensor) -> Tensor:
        made = cast(Tensor, self.layers(maps))
        return maps + made if self.adds else made


def convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, groups: int = 1
) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, BatchNorm and PReLU."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.PReLU(channels_out),
    ]


class MobileFaceNetBackbone(Backbone):
    """The network that a ``MobileFaceNet`` describes. ``stem`` halves the maps, three blocks of ``body`` do again."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__(settings)
        shape = settings.architecture
        assert isinstance(shape, table.MobileFaceNet)
        width, narrow, wide, last = (times * settings.width for times in (1, 2, 4, 8))
        self.stem = nn.Sequential(*convolution(3, narrow, 3, stride=2), *convolution(narrow, narrow, 3, groups=width))
        blocks: list[nn.Module] = []
        # Hidden channels of the block that halves the maps, of the residual ones, and channels out.
        stages = ((narrow, narrow, narrow), (wide, wide, wide), (last, wide, wide))
        channels = narrow
        for units, (first, hidden, channels_out) in zip(shape.units, stages, strict=True):
            blocks.append(Bottleneck(channels, first, channels_out, 2))
            blocks += [Bottleneck(channels_out, hidden, channels_out, 1) for _ in range(units)]
            channels = channels_out
        self.body = nn.ModuleList([*blocks, nn.Sequential(*convolution(channels, last, 1))])
        map_size = settings.input_size // 16
        self.output = nn.Sequential(
            nn.Conv2d(last, last, map_size, groups=last, bias=False),
            nn.BatchNorm2d(last),
            nn.Dropout(settings.dropout),
            nn.Flatten(),
            nn.Linear(last, settings.embedding_size, bias=False),
            nn.BatchNorm1d(settings.embedding_size),
        )
        self.apply(initialise_convolutional)
