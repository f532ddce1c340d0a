"""Tensors of a public checkpoint: from what torch.save or safetensors wrote, without running any code in the file."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrfr_fast.model.adoption.layouts import CONTAINERS
from hrfr_fast.model.checkpoint import FORMAT
from hrfr_fast.model.checkpoint_metadata import MOST_BYTES
from hrfr_fast.model.torch_files import check_parts, is_zip
from hrfr_fast.runtime.errors import UsageError

PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".tar")
ADVICE = (
    "Where you trust the file, load it with the code it comes from and save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Key -> tensor on the CPU; where the file holds more than a state dict, that of the likeliest entry.

    Raises:
        UsageError: no such file, not a checkpoint, one that needs code to be read, or one without tensors.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLED:
        raise UsageError(f"{path}: a checkpoint ends in {', '.join((*PICKLED, '.safetensors'))} or .onnx")
    _refuse_script(path)
    content = _unpickled(path)
    _refuse_damage(path)
    tensors = _state_dict(content)
    if tensors is None:
        held = ", ".join(list(map(str, content))[:6]) if isinstance(content, dict) else type(content).__name__
        raise UsageError(f"{path}: no state dict in it; it holds {held or 'nothing'}")
    if name := next((name for name, tensor in tensors.items() if not _holds_its_numbers(tensor)), None):
        raise UsageError(f"{path}: {name} is a sparse, quantised or repeated tensor; plain ones are needed. {ADVICE}")
    return tensors


def _holds_its_numbers(tensor: Tensor) -> bool:
    """Whether every number of ``tensor`` is in the file: a few bytes can claim a shape of any size by strides of 0."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    return plain and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        if json.dumps(FORMAT).encode() in content[:MOST_BYTES]:  # in its header
            raise UsageError(f"{path}: hrfr-fast has written it; evaluate, train --init and export take it as it is")
        return load(content)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: not a readable safetensors file: {error}") from None


def _refuse_script(path: Path) -> None:
    """Raise UsageError for what torch.jit.save wrote, which torch.load would advise to read with all the code in it."""
    try:
        if not is_zip(path):
            return
        with zipfile.ZipFile(path) as archive:
            is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises many classes for what it did not write; reading says what is wrong
        return
    if is_script:
        raise UsageError(
            f"{path}: a TorchScript archive, which holds code. Where you trust it, save its weights alone: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"
        )


def _unpickled(path: Path) -> Any:
    """What torch.save wrote, from a memory map where the file's format allows one."""
    for mapped in (True, False):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
                raise UsageError(
                    f"{path}: it holds an object of {named[1]} beside its weights, and reading that would run code "
                    f"from the file. {ADVICE}"
                ) from None
            raise UsageError(
                f"{path}: torch.save did not write it, it is damaged, or reading it would run code from it. {ADVICE}"
            ) from None
        except Exception as error:  # torch raises many classes for what it did not write
            reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise UsageError(f"{path}: torch.save did not write it, or it is damaged: {reason}")


def _refuse_damage(path: Path) -> None:
    """Raise UsageError where what torch.load has read is not what torch.save wrote."""
    try:
        if is_zip(path):
            check_parts(path)
    except Exception as error:  # zipfile raises many classes for what it did not write
        raise UsageError(
            f"{path}: it is damaged, or another program has packed it anew: {error}. Take another copy of it"
        ) from None


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    """``content`` where it maps names to tensors, else the first such entry of it; other entries are left out."""
    if not isinstance(content, dict):
        return None
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) > 1:
        return tensors
    nested = [content[name] for name in CONTAINERS if name in content]
    return next((found for found in map(_state_dict, nested) if found), None)
