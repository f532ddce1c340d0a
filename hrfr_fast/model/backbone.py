"""The backbone "IR-SE-18": an improved residual network with squeeze-and-excitation.

Blocks: BN - conv3x3 - BN - PReLU - conv3x3(stride) - BN - SE, added to the shortcut, no activation after the sum
(Deng et al., "ArcFace", CVPR 2019, section 3.2.2; SE: Hu et al., CVPR 2018, reduction 16). Eight blocks, two of each
width 64, 128, 256, 512, the first of each with stride 2.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrfr_fast.runtime.errors import UsageError

REDUCTION = 16
BLOCKS_PER_WIDTH = 2


@dataclass(frozen=True)
class BackboneSettings:
    """Shape of the network. Raises UsageError for values out of range.

    ``input_size``: width and height of the input in pixels, a multiple of 16 (32 gives 2x2 final maps, 144 gives 9x9).
    ``width``: channels of the first stage, a multiple of 8; later stages have 2, 4 and 8 times as many.
    """

    input_size: int = 144
    width: int = 64
    embedding_size: int = 512
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.input_size < 16 or self.input_size % 16:
            raise UsageError(f"input_size is {self.input_size}; it must be a positive multiple of 16")
        if self.width < 8 or self.width % 8:
            raise UsageError(f"width is {self.width}; it must be a positive multiple of 8")
        if self.embedding_size < 2:
            raise UsageError(f"embedding_size is {self.embedding_size}; at least 2 dimensions are needed")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}; it must lie in [0, 1)")


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


class IRSEBlock(nn.Module):
    """One residual block: [B, in, S, S] to [B, out, S / stride, S / stride]."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        # conv1x1(stride) is written as subsampling, then conv1x1: the same numbers, but torch 2.13's strided 1x1
        # convolution writes past its buffers on CPUs where channels are fewer than a vector holds (8 on AVX-512).
        self.shortcut: nn.Module = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        if channels_in != channels_out:
            project = nn.Conv2d(channels_in, channels_out, 1, bias=False)
            self.shortcut = nn.Sequential(self.shortcut, project, nn.BatchNorm2d(channels_out))
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            SqueezeExcite(channels_out),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return cast(Tensor, self.residual(maps) + self.shortcut(maps))


class IRSE18(nn.Module):
    """[B, 3, S, S] images in [-1, 1] to [B, embedding_size] embeddings, not normalised.

    ``activation_checkpointing``: recompute each block's activations in the backward pass instead of keeping them.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self.settings = settings
        self.activation_checkpointing = False
        width = settings.width
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks, channels = [], width
        for stage in range(4):
            for number in range(BLOCKS_PER_WIDTH):
                blocks.append(IRSEBlock(channels, width << stage, stride=2 if number == 0 else 1))
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
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for block in self.body:
            if self.activation_checkpointing and self.training:
                # BatchNorm's running statistics would move twice, once more in the recomputation. Blocks draw no
                # random numbers: not keeping the generator's state spares a host synchronisation on CUDA.
                maps = checkpoint(
                    block, maps, use_reentrant=False, preserve_rng_state=False, context_fn=_frozen_statistics(block)
                )
            else:
                maps = block(maps)
        return cast(Tensor, self.output(maps))

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """Parts that can be frozen by themselves: everything up to the final feature maps, and the output layer."""
        return {"body": [self.stem, self.body], "output": [self.output]}


def build_backbone(settings: BackboneSettings) -> IRSE18:
    """A freshly initialised network; torch's global generator decides the weights."""
    return IRSE18(settings)


class _FrozenStatistics(AbstractContextManager[None]):
    """Context of the recomputation: BatchNorm uses the batch's statistics but leaves the running ones alone."""

    def __init__(self, module: nn.Module) -> None:
        self.norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        self.saved = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, counter) in zip(self.norms, self.saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def _frozen_statistics(block: nn.Module) -> Callable[[], Contexts]:
    """Contexts for ``checkpoint``: of the forward pass and of the recomputation."""
    return lambda: (nullcontext(), _FrozenStatistics(block))


def _initialise(module: nn.Module) -> None:
    """Kaiming (fan out) for convolutions, Xavier for the linear layer, PReLU at 0.25."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
