"""State dicts as public implementations save them, made from our tables in reverse, with numbers from a formula."""

import math
import zlib

import torch
from torch import Tensor

from hrfr_fast.model.adoption.layouts import candidates
from hrfr_fast.model.adoption.translation import expected_shapes
from hrfr_fast.model.backbone import BackboneSettings


def public_state_dict(
    layout: str, backbone: str, *, input_size: int = 32, width: int = 8, embedding_size: int = 16, prefix: str = ""
) -> dict[str, Tensor]:
    """``backbone`` under the names of ``layout``, each tensor filled by ``values_of`` its name without the prefix."""
    candidate = next(one for one in candidates(layout) if one.backbone == backbone)
    settings = BackboneSettings(input_size, width, embedding_size, name=backbone, variant=candidate.names.variant)
    theirs = {ours: name for name, ours in candidate.modules.items()}
    tensors = {}
    for name, shape in expected_shapes(settings).items():
        module, _, leaf = name.rpartition(".")
        if module in candidate.names.without_affine and leaf in ("weight", "bias"):
            continue
        key = theirs[name] if name in theirs else f"{theirs[module]}.{leaf}"
        tensors[prefix + key] = values_of(key, shape)
    return tensors


def values_of(key: str, shape: torch.Size) -> Tensor:
    """A wave over the entries, whose phase is the name's checksum; so large that activations keep their size."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    phase = zlib.crc32(key.encode()) % 1000 / 100
    period, count = torch.sin(torch.arange(9973, dtype=torch.float32) * 1.7 + phase), math.prod(shape)
    wave = period.repeat(-(-count // len(period)))[:count].reshape(shape)
    if len(shape) > 1:
        return wave * math.sqrt(4 / math.prod(shape[1:]))
    if key.endswith("running_var"):
        return 1 + 0.5 * wave
    return 0.4 + 0.2 * wave if key.endswith("weight") else 0.1 * wave


def picture(size: int) -> Tensor:
    """One image, [1, 3, size, size] in [-1, 1]."""
    wave = torch.sin(torch.arange(3 * size * size, dtype=torch.float32) * 0.37)
    return wave.reshape(1, 3, size, size)
