"""What is measured, as data, and what every peer offers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.regimes import regime_named

if TYPE_CHECKING:
    import torch

SIZES = {"lowres": 36, "highres": 144}
FLIP = 0.5


@dataclass(frozen=True)
class Task:
    """One column of the table: which pictures, and what must become of them.

    Every batch is images [batch_size, 3, side, side] of ``dtype``, channels-last in memory, on ``device`` (uint8:
    levels; else (level - 127.5) / 127.5) and int64 labels, numbered from 0 over the regime's splits.
    """

    data: str
    """The tree of picture files."""
    packed: str
    """Holds ``jpeg/`` and ``raw/``, the same pictures as shards."""
    cache: str
    """Where a peer keeps its own format."""
    regime: str
    encoding: str
    """jpeg: encoded files; raw: decoded pixels."""
    batch_size: int = 256
    dtype: str = "float32"
    device: str = "cpu"
    workers: int = 1

    @property
    def side(self) -> int:
        return regime_named(self.regime).input_size

    @property
    def splits(self) -> tuple[str, ...]:
        return regime_named(self.regime).sources

    @property
    def shards(self) -> Path:
        return Path(self.packed) / self.encoding

    def own_format(self, name: str) -> Path:
        """Where the peer ``name`` keeps these splits in its own format."""
        return Path(self.cache) / f"{name}-{self.encoding}-{'-'.join(self.splits)}"


class Listed(NamedTuple):
    """The files of a task and their labels, int64."""

    paths: list[str]
    labels: NDArray[np.int64]


class Peer(Protocol):
    """``batches`` is endless, shuffles, flips at random and gives only full batches."""

    name: str
    work: str
    """What it does to a picture, where that differs from decode, bicubic resize, flip, normalise."""
    extra: str
    """The optional dependency it needs, or nothing."""

    def unavailable(self, task: Task) -> str | None:
        """Why it cannot do this task here, or None. Imports what it needs; touches no device."""
        ...

    def prepare(self, task: Task) -> None:
        """Write its own format, once. Not timed."""
        ...

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]": ...

    def ahead(self, task: Task) -> int:
        """Batches it may have made in advance."""
        ...


def listing(task: Task) -> Listed:
    """All files of the task, by split, identity and name, as `hrfr-fast pack` numbers them."""
    paths: list[str] = []
    labels: list[int] = []
    offset = 0
    for split in task.splits:
        identities = sorted(p for p in (Path(task.data) / split).iterdir() if p.is_dir())
        for number, identity in enumerate(identities):
            files = sorted(str(p) for p in identity.iterdir())
            paths += files
            labels += [offset + number] * len(files)
        offset += len(identities)
    return Listed(paths, np.array(labels))


class Decoded:
    """The pictures of a raw task as the peers read them: one memory map of pixels a split."""

    def __init__(self, task: Task) -> None:
        from hrfr_fast.format.reader import open_packed

        packed = open_packed(task.shards)
        self.splits = [packed.splits[name] for name in task.splits]
        starts = np.cumsum([0] + [split.identities for split in self.splits])
        self.labels = np.concatenate([s.labels + start for s, start in zip(self.splits, starts[:-1], strict=True)])
        self._first = np.cumsum([0] + [split.samples for split in self.splits])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """uint8 [s, s, 3], a view of the mapping."""
        which = 0 if number < self._first[1] else 1
        split = self.splits[which]
        return split.payload(number - int(self._first[which])).reshape(split.size, split.size, 3)


def finish(pixels: "torch.Tensor | NDArray[np.uint8]", task: Task) -> "torch.Tensor":
    """uint8 [B, S, S, 3] to the task's images: moved as uint8, normalised on the device, as a careful user would."""
    import torch

    tensor = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
    images = tensor.to(task.device, non_blocking=True).permute(0, 3, 1, 2)
    if task.dtype == "uint8":
        return images
    return images.to(getattr(torch, task.dtype)).sub_(127.5).mul_(1 / 127.5)


def missing(*modules: str) -> str | None:
    """Why these cannot be imported, or None."""
    from importlib import import_module

    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            return f"{module} cannot be imported ({error}); pip install -e '.[bench]'"
    return None
