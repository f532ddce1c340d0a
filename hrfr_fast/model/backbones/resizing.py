"""A network's weights for another input size: what depends on the size is resampled, everything else stays.

Convolutions take maps of any size. The output layer of a residual network has a weight for each place of the final
maps, a transformer's for each patch, MobileFaceNet's last convolution covers the final maps whole; a transformer's
patches and their positions change, too. Each is resampled as a picture is (bicubic, antialiased), so that the network
computes about the same of the same face; it wants training at the new size.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from hrfr_fast.model.backbones.base import BackboneSettings
from hrfr_fast.model.backbones.table import ImprovedResNet, VisionTransformer
from hrfr_fast.model.backbones.vision_transformer import patch_size


def resized_weights(state: Mapping[str, Tensor], settings: BackboneSettings, input_size: int) -> dict[str, Tensor]:
    """The weights ``state`` of a backbone of ``settings`` for an input of ``input_size`` px, a multiple of 16.

    Raises KeyError or RuntimeError where ``state`` is not of such a backbone.
    """
    resized = dict(state)
    if isinstance(settings.architecture, VisionTransformer):
        _resize_transformer(resized, settings.input_size, input_size)
    else:
        before, after = settings.input_size // 16, input_size // 16
        if isinstance(settings.architecture, ImprovedResNet):
            weight = resized["output.3.weight"]
            maps = weight.view(len(weight), -1, before, before)
            resized["output.3.weight"] = _sums_kept(maps, after).reshape(len(weight), -1)
        else:
            resized["output.0.weight"] = _sums_kept(resized["output.0.weight"], after)
    return resized


def _resize_transformer(state: dict[str, Tensor], before: int, after: int) -> None:
    """Patches, their positions and the output layer's weights for each, in place."""
    sizes = patch_size(before), patch_size(after)
    grid, new_grid = before // sizes[0], after // sizes[1]
    state["stem.projection.weight"] = _sums_kept(state["stem.projection.weight"], sizes[1])
    position = state["stem.position"]
    channels = position.shape[2]
    maps = position.transpose(1, 2).reshape(1, channels, grid, grid)
    state["stem.position"] = _resample(maps, new_grid).flatten(2).transpose(1, 2).contiguous()
    weight = state["output.3.weight"]
    maps = weight.view(len(weight), grid, grid, channels).permute(0, 3, 1, 2)
    state["output.3.weight"] = _sums_kept(maps, new_grid).permute(0, 2, 3, 1).reshape(len(weight), -1)


def _sums_kept(maps: Tensor, size: int) -> Tensor:
    """``maps`` [N, C, S, S] resampled to ``size``, smaller as they are more: a constant input gives what it gave."""
    return (_resample(maps, size) * (maps.shape[-1] / size) ** 2).contiguous()


def _resample(maps: Tensor, size: int) -> Tensor:
    if maps.shape[-1] == size:
        return maps
    return functional.interpolate(maps.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
