"""The fused model: two trained backbones of different input sizes, z = BN1d(Linear([e_large; e_small])), e normalised.

Both branches see the same face: the small one's input is downsampled from the large one's inside the model, by the
antialiased cubic matrix of the resampling definition, so engines and evaluation treat a fused model like any other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.model.backbone import Backbone, BackboneSettings, build_backbone
from hrfr_fast.resampling.matmul import downsample_matrix
from hrfr_fast.runtime.errors import UsageError


@dataclass(frozen=True)
class FusedSettings:
    """Shape of a fused model. Raises UsageError when the branches do not fit each other.

    ``branches``: of the large and of the small input. ``fusion``: whether there is a trained fusion layer; without one
    the two embeddings are concatenated, and ``embedding_size`` is the sum of their sizes.
    """

    branches: tuple[BackboneSettings, BackboneSettings]
    embedding_size: int = 512
    fusion: bool = True
    input_size: int = 144

    def __post_init__(self) -> None:
        large, small = self.branches
        if large.input_size != self.input_size or small.input_size > large.input_size:
            raise UsageError(
                f"a fused model of {self.input_size} px needs branches of {self.input_size} px and of at most that; "
                f"these are of {large.input_size} and {small.input_size} px"
            )
        if any(branch.domain_norm != "shared" for branch in self.branches):
            raise UsageError(
                "a fused model's branches need one BatchNorm for all pictures; these have one a resolution"
            )
        combined_size = large.embedding_size + small.embedding_size
        if not self.fusion and self.embedding_size != combined_size:
            raise UsageError(f"without a fusion layer embedding_size is {combined_size}, not {self.embedding_size}")
        if self.embedding_size < 2:
            raise UsageError(f"embedding_size is {self.embedding_size}; at least 2 dimensions are needed")


class Fused(nn.Module):
    """[B, 3, S, S] images in [-1, 1] to [B, embedding_size] embeddings, not normalised."""

    downsampling: Tensor

    def __init__(self, settings: FusedSettings) -> None:
        super().__init__()
        self.settings = settings
        self.large, self.small = (build_backbone(branch) for branch in settings.branches)
        combined_size = sum(branch.embedding_size for branch in settings.branches)
        self.fusion: nn.Module = nn.Identity()
        if settings.fusion:
            linear = nn.Linear(combined_size, settings.embedding_size)
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
            self.fusion = nn.Sequential(linear, nn.BatchNorm1d(settings.embedding_size))
        input_sizes = (settings.branches[0].input_size, settings.branches[1].input_size)
        self.register_buffer("downsampling", downsample_matrix(*input_sizes), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        large = functional.normalize(self.large(images).float())
        small = functional.normalize(self.small(self.downsample(images)).float())
        return cast(Tensor, self.fusion(torch.cat([large, small], dim=1)))

    def downsample(self, images: Tensor) -> Tensor:
        """[B, 3, s, s] of the same type: two products with the matrix, in float32, clamped as pixel values are.

        The weights sum to 1, so downsampling normalised images is downsampling their pixel values.
        """
        device = "cpu" if images.is_meta else images.device.type  # on the meta device operations are only counted
        with torch.autocast(device, enabled=False):
            small = self.downsampling @ images.float() @ self.downsampling.t()
        small = small.clamp(-1, 1).to(images.dtype)
        return small.contiguous(memory_format=torch.channels_last)

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """Parts that can be frozen by themselves: body and output of both branches together, and the fusion layer."""
        branches = (self.large.parts, self.small.parts)
        joined = {name: [module for parts in branches for module in parts[name]] for name in ("body", "output")}
        return joined | {"fusion": [self.fusion]}


def model_settings(values: dict[str, Any]) -> BackboneSettings | FusedSettings:
    """A model's settings from the entry ``backbone`` of a checkpoint's metadata; those of a fused one have branches."""
    try:
        if "branches" not in values:
            return BackboneSettings(**values)
        large, small = (BackboneSettings(**branch) for branch in values["branches"])
        return FusedSettings(**{**values, "branches": (large, small)})
    except (TypeError, ValueError) as error:  # other names, or another number of branches
        raise UsageError(f"a network that this version of hrfr-fast does not know: {error}") from None


def refuse_larger_model(path: Path, settings: BackboneSettings | FusedSettings) -> None:
    """Raise UsageError where the weights file at ``path`` is too small to hold the model that it describes.

    A few bytes can describe a network of any size, which would be made before its weights are missed.
    """
    try:
        with torch.device("meta"):
            tensors = build_model(settings).state_dict()
        needed = sum(tensor.nbytes for tensor in tensors.values())
    except (RuntimeError, TypeError, OverflowError) as error:
        raise UsageError(f"{path}: it describes a network that cannot be made: {error}") from None
    if needed > path.stat().st_size:
        raise UsageError(f"{path}: it describes a network of {needed:,} bytes and has {path.stat().st_size:,}")


def build_model(settings: BackboneSettings | FusedSettings) -> Backbone | Fused:
    """A freshly initialised model; torch's global generator decides the weights."""
    return Fused(settings) if isinstance(settings, FusedSettings) else build_backbone(settings)
