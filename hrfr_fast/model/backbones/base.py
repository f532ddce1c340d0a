"""What every backbone is: a stem, a body of blocks and an output layer, with the settings that a checkpoint stores."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrfr_fast.model.backbones.table import (
    BACKBONES,
    IR_VARIANTS,
    NORMALISATIONS,
    Architecture,
    ImprovedResNet,
    MobileFaceNet,
    VisionTransformer,
)
from hrfr_fast.model.domain_norm import KINDS, Domains
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.validation import unknown_name


@dataclass(frozen=True)
class BackboneSettings:
    """Shape of the network. Raises UsageError for values out of range.

    ``input_size``: width and height of the input in pixels, a multiple of 16 (32 gives 2x2 final maps, 144 gives 9x9).
    ``width``: a multiple of 8; every number of channels is in proportion to it, and 64 gives the published networks.
    In an improved residual network it is the first stage's channels; later stages have 2, 4 and 8 times as many.
    ``dropout``: of the output layer's input.
    ``name``: of the network, among ``BACKBONES``.
    ``variant``: one of ``IR_VARIANTS`` for weights of an implementation other than the network's own; "" for its own.
    ``drop_path``: stochastic depth, the probability with which the last block's residual branch is left out for a
    sample in training; it rises linearly from 0 at the first block (Huang et al., ECCV 2016).
    ``normalisation``: among ``NORMALISATIONS``, of weights that were trained with another one than half.
    ``domain_norm``: among ``domain_norm.KINDS``, whether BatchNorm has statistics of its own for low and high
    resolution; then ``domain_limit`` is the largest side in pixels of a picture of low resolution.
    """

    input_size: int = 144
    width: int = 64
    embedding_size: int = 512
    dropout: float = 0.0
    name: str = "irse18"
    variant: str = ""
    drop_path: float = 0.0
    normalisation: str = "half"
    domain_norm: str = "shared"
    domain_limit: int = 0

    def __post_init__(self) -> None:
        if self.input_size < 16 or self.input_size % 16:
            raise UsageError(f"input_size is {self.input_size}; it must be a positive multiple of 16")
        if self.width < 8 or self.width % 8:
            raise UsageError(f"width is {self.width}; it must be a positive multiple of 8")
        if self.embedding_size < 2:
            raise UsageError(f"embedding_size is {self.embedding_size}; at least 2 dimensions are needed")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}; it must lie in [0, 1)")
        if self.name not in BACKBONES:
            raise UsageError(unknown_name(self.name, BACKBONES))
        if self.variant and not (isinstance(self.architecture, ImprovedResNet) and self.variant in IR_VARIANTS):
            raise UsageError(f"backbone {self.name} has no variant {self.variant!r}; ir networks: {[*IR_VARIANTS]}")
        if self.normalisation not in NORMALISATIONS:
            raise UsageError(unknown_name(self.normalisation, NORMALISATIONS))
        if self.domain_norm not in KINDS:
            raise UsageError(unknown_name(self.domain_norm, KINDS))
        if self.domain_norm != "shared" and isinstance(self.architecture, VisionTransformer):
            raise UsageError(f"domain_norm is {self.domain_norm!r}; {self.name} has no BatchNorm in its blocks")
        if not 0 <= self.drop_path < 1:
            raise UsageError(f"drop_path is {self.drop_path}; it must lie in [0, 1)")
        if self.drop_path and isinstance(self.architecture, MobileFaceNet):
            raise UsageError(f"drop_path is {self.drop_path}; {self.name} has no stochastic depth, ir and vit have")

    @property
    def architecture(self) -> Architecture:
        """The network's entry in ``BACKBONES``."""
        return BACKBONES[self.name]


class Backbone(nn.Module):
    """[B, 3, S, S] images in [-1, 1] to [B, embedding_size] embeddings, not normalised.

    A subclass makes ``stem``, ``body`` and ``output``. ``activation_checkpointing``: recompute each block's activations
    in the backward pass instead of keeping them. ``gpu_kernels`` and ``cpu_kernels``: compute what stands between
    convolutions with kernels of our own, where the kind of network has them: on a GPU, with Triton, and on a CPU,
    with numba. ``domains``: which rows are of low resolution, where BatchNorm asks.
    """

    stem: nn.Module
    body: nn.ModuleList
    output: nn.Module
    input_factor: Tensor
    input_offset: Tensor
    residual_branches = 0
    """Branches of a block that stochastic depth may leave out; the block then takes factors for them, [branches, B]."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self.settings = settings
        self.activation_checkpointing = False
        self.gpu_kernels = False
        self.cpu_kernels = False
        self.domains: Domains | None = None
        factor, offset = _from_half(settings.normalisation)
        self.register_buffer("input_factor", factor, persistent=False)
        self.register_buffer("input_offset", offset, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        with counted_together(self) if counts_one_by_one(images) else nullcontext():
            if self.domains is None:
                return self.embedded(images)
            return self.domains.restored(self.embedded(self.domains.ordered(images)))

    def embedded(self, images: Tensor) -> Tensor:
        """The embeddings of ``images``, in their order."""
        maps = self.stem(self.normalised(images))
        for number, block in enumerate(self.body):
            given = (maps, *self.branch_factors(number, maps))
            if self.activation_checkpointing and self.training:
                # BatchNorm's running statistics would move twice, once more in the recomputation. Blocks draw no
                # random numbers: not keeping the generator's state spares a host synchronisation on CUDA.
                maps = checkpoint(
                    block, *given, use_reentrant=False, preserve_rng_state=False, context_fn=frozen_statistics(block)
                )
            else:
                maps = block(*given)
        return cast(Tensor, self.output(maps))

    def normalised(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as the network's weights expect them."""
        if self.settings.normalisation == "half":
            return images
        return (images * self.input_factor + self.input_offset).to(images.dtype)

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """Parts that can be frozen by themselves: everything up to the final features, and the output layer."""
        return {"body": [self.stem, self.body], "output": [self.output]}

    def branch_factors(self, number: int, maps: Tensor) -> tuple[Tensor, ...]:
        """What the residual branches of block ``number`` are multiplied with, a factor a sample: 0 where the branch is
        left out, else 1 / P(kept), so that the expectation stays. Nothing where all are kept.

        Drawn here from torch's generator, as dropout is: a checkpoint holds its state, so a resumed run draws the same.
        """
        share = self.settings.drop_path * number / max(1, len(self.body) - 1)
        if not share or not self.body[number].training:
            return ()
        kept = torch.rand(self.residual_branches, maps.shape[0], device=maps.device) >= share
        return (kept.to(maps.dtype) / (1 - share),)


def _from_half(normalisation: str) -> tuple[Tensor, Tensor]:
    """Factor and offset, [3, 1, 1], that turn images in [-1, 1] into normalised ones: ((x + 1) / 2 - mean) / std.

    It cannot be part of the first convolution's weights: the zeros around the picture would be another colour.
    """
    mean, std = (torch.tensor(values) for values in NORMALISATIONS[normalisation] or ((0.5,) * 3, (0.5,) * 3))
    return (0.5 / std).view(3, 1, 1), ((0.5 - mean) / std).view(3, 1, 1)


def counts_one_by_one(images: Tensor) -> bool:
    """Whether each BatchNorm's counter would be a launch of its own: on CUDA, where no compiler joins them."""
    return images.device.type == "cuda" and not torch.compiler.is_compiling()


@contextmanager
def counted_together(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms do not count their batches; afterwards all counters of those in training go up in one launch.

    A step of irse18 at 32 px would spend 1 to 2 % of its time on some forty launches that each add 1 to a number.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    trained = [cast(nn.BatchNorm2d, part) for part in module.modules() if type(part) in kinds and part.training]
    norms = [norm for norm in trained if norm.momentum is not None and norm.num_batches_tracked is not None]
    counters = [cast(Tensor, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter
    if counters:
        torch._foreach_add_(counters, 1)


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


def frozen_statistics(block: nn.Module) -> Callable[[], Contexts]:
    """Contexts for ``checkpoint``: of the forward pass and of the recomputation."""
    return lambda: (nullcontext(), _FrozenStatistics(block))


def initialise_convolutional(module: nn.Module) -> None:
    """Kaiming (fan out) for convolutions, Xavier for the linear layer, PReLU at 0.25."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
