"""Checkpoints: weights as safetensors, and the training state to resume from, which is loaded without unpickling.

``last.safetensors`` and ``best.safetensors`` hold the backbone (``backbone.*``) and the head (``head.*``) with their
settings as metadata. ``last.state.pt`` holds all that a bit-exact continuation needs, weights included, so that a
process killed between two writes never leaves the weights of one step beside the momentum of another.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import torch
from torch import nn

from hrfr_fast.format import manifest
from hrfr_fast.model.checkpoint_metadata import metadata_of
from hrfr_fast.model.heads import MarginHead
from hrfr_fast.model.lora import merged_state_dict
from hrfr_fast.model.row_files import write_tensors, write_with_rows
from hrfr_fast.model.sealed_files import read_header, what_helps
from hrfr_fast.model.torch_files import check_parts
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.runtime.files import atomic_write
from hrfr_fast.runtime.names import few

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

FORMAT = "hrfr-fast checkpoint 1"


def save_weights(path: Path, backbone: nn.Module, head: nn.Module, metadata: dict[str, Any]) -> None:
    """Write both modules' tensors and ``metadata`` (JSON) to a safetensors file, atomically; adapters are merged.

    With a sharded head to be called by all ranks: rank 0 writes, and gets the rows of the others in pieces.
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in merged_state_dict(backbone).items()}
    tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    described = {"format": FORMAT, "hrfr": json.dumps(metadata)}
    if isinstance(head, MarginHead) and head.sharded and head.shard:
        rows = {"head.weight": tensors.pop("head.weight")}
        write_with_rows(path, tensors, rows, head.shard, described)
        return
    write_tensors(path, tensors, described)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a weights file.

    Raises UsageError when hrfr-fast has not written it, DamageFound when they are not what was written.
    """
    try:
        with open(path, "rb") as file:
            metadata = read_header(file, path).metadata
    except OSError as error:
        raise UsageError(f"{path}: not a readable safetensors file: {error.strerror}") from None
    except DamageFound:
        raise
    except HrfrError as error:
        raise UsageError(str(error)) from None
    if metadata.get("format") != FORMAT:
        raise UsageError(
            f"{path}: not written by hrfr-fast (format {metadata.get('format')!r}); `hrfr-fast adopt` takes those of"
            " other programs"
        )
    try:
        return metadata_of(metadata.get("hrfr", ""))
    except (ValueError, UsageError) as error:
        raise UsageError(f"{path}: what it says of itself is damaged: {error}") from None


def require_network(path: Path, metadata: dict[str, Any]) -> None:
    """Raise UsageError where the ``metadata`` of a weights file do not describe its network."""
    if "backbone" not in metadata:
        raise UsageError(f"{path}: what it says of itself is damaged: backbone is missing")


Weights = dict[str, torch.Tensor]


def load_module(
    path: Path, prefix: str, module: nn.Module, adapt: Callable[[Weights], Weights] = lambda state: state
) -> None:
    """Load the tensors ``prefix.*`` of a weights file, as ``adapt`` makes them, into ``module``, strictly.

    Raises UsageError where they do not fit, DamageFound where they are not what was written.
    """
    tensors = _whole(path)
    state = {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
    try:
        module.load_state_dict(adapt(state))
    except (RuntimeError, KeyError) as error:
        raise UsageError(f"{path}: {prefix} does not fit: {error}") from None


def load_tensor(path: Path, name: str) -> torch.Tensor:
    """One tensor of a weights file, on the CPU.

    Raises UsageError where there is none of that name, DamageFound where it is not what was written.
    """
    tensors = _whole(path)
    if name not in tensors:
        raise UsageError(f"{path}: it holds no {name}")
    return tensors[name]


def _whole(path: Path) -> Weights:
    """All tensors of a weights file. Raises UsageError where it is none, DamageFound where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    with open(path, "rb") as file:
        header = read_header(file, path)
        file.seek(0)
        content = file.read()  # load_file takes only file names that are UTF-8
    header.check(memoryview(content)[header.begin :])
    try:
        return load(content)
    except SafetensorError as error:
        raise UsageError(f"{path}: not a readable safetensors file: {error}") from None


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values with torch.save, atomically."""
    with atomic_write(path) as file:
        recorder = _ErrorRecorder(file)
        try:
            torch.save(state, cast(IO[bytes], recorder))
        except RuntimeError:
            if recorder.error:
                raise recorder.error from None
            raise


class _ErrorRecorder:
    """A file that keeps the error of a failed write: torch.save raises a RuntimeError without it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: "Buffer") -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what ``save_state`` wrote, without unpickling code. Raises DamageFound when it is not that any more."""
    try:
        check_parts(path)
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many classes for a damaged file
        raise DamageFound(f"{path}: cannot be read, it is damaged: {error}. {what_helps(path)}") from None
    return state


def weights_path(run_or_checkpoint: str | os.PathLike[str]) -> Path:
    """The weights file of a run directory (its ``last``), or the checkpoint itself."""
    given = path = Path(run_or_checkpoint)
    if path.is_dir():
        path = path / "checkpoints" / "last.safetensors"
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint; {_what_it_is(given)}give a run directory or a .safetensors file")
    return path


def _what_it_is(folder: Path) -> str:
    """What ``folder`` is where it is no run, as the middle of a sentence; "" where that is not known."""
    if (folder / manifest.NAME).is_file():
        return f"{folder} holds packed faces: "
    runs = sorted(str(path.parents[1]) for path in folder.glob("*/checkpoints/last.safetensors"))
    return f"there are the runs {few(runs)}: " if runs else ""
