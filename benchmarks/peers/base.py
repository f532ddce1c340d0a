"""The loading task that is measured, and the interface of every loader that is measured on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.regimes import regime_named

if TYPE_CHECKING:
    import torch

FLIP = 0.5


@dataclass(frozen=True)
class Task:
    """A loading task: which pictures, and the batches that must be made of them.

    Every batch is images [batch_size, 3, size, size] of ``dtype``, channels-last in memory, on ``device`` (uint8:
    pixel values; else (value - 127.5) / 127.5) and int64 labels, numbered from 0 over the regime's splits.
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
    """The picture files of a task and their labels, int64 [N]."""

    paths: list[str]
    labels: NDArray[np.int64]


class Peer:
    """A loader. Its batches are endless, shuffled, flipped at random, and all of full size."""

    name: str
    work = "no shift, no brightness"
    """What it does to a picture, where that differs from decode, bicubic resize, flip, normalise."""
    modules: tuple[str, ...] = ()
    """What it imports beside PyTorch."""

    def unavailable(self, task: Task) -> str | None:
        """Why it cannot do this task here, or None. Imports what it needs; touches no device."""
        return self.unsuited(task) or missing("torch", *self.modules)

    def unsuited(self, task: Task) -> str | None:
        """Why the task is none for this loader, whatever is installed, or None."""
        return None

    def prepare(self, task: Task) -> None:
        """Write its own format, once and not timed. Most loaders read the files or shards as they are."""

    def prefetched(self, task: Task) -> int:
        """Largest number of batches that it may have made in advance."""
        return 3

    def batches(self, task: Task) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """Images and labels of one batch after the other."""
        raise NotImplementedError


class DataLoaderPeer(Peer):
    """A peer with the worker processes of PyTorch's DataLoader."""

    def prefetched(self, task: Task) -> int:
        return 2 * task.workers

    def worker_options(self, task: Task) -> dict[str, Any]:
        """Options of the DataLoader and of the loaders derived from it."""
        return {
            "num_workers": task.workers, "persistent_workers": True, "pin_memory": task.device != "cpu",
            "multiprocessing_context": "fork",
        }  # fmt: skip


def listing(task: Task) -> Listed:
    """All picture files of the task, by split, identity and name, as `hrfr-fast pack` numbers them."""
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
    """The pictures of a raw task as the peers read them: one memory map of pixels for each split."""

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
        place = 0 if number < self._first[1] else 1
        split = self.splits[place]
        return split.payload(number - int(self._first[place])).reshape(split.size, split.size, 3)


def finish(pixels: "torch.Tensor | NDArray[np.uint8]", task: Task) -> "torch.Tensor":
    """The task's images of uint8 [B, S, S, 3] pixels: moved as uint8 and normalised on the device, as is fastest."""
    import torch

    tensor = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
    images = tensor.to(task.device, non_blocking=True).permute(0, 3, 1, 2)
    if task.dtype == "uint8":
        return images
    return images.to(getattr(torch, task.dtype)).sub_(127.5).mul_(1 / 127.5)


def shuffled(count: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Picture numbers of one batch after the other, endlessly, in a new order every epoch."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def resized_by_opencv(picture: "NDArray[np.uint8]", size: int) -> Any:
    """uint8 [size, size, 3]: cubic when enlarging; area, OpenCV's only antialiased filter, when shrinking."""
    import cv2

    if len(picture) == size:
        return picture
    method = cv2.INTER_CUBIC if len(picture) < size else cv2.INTER_AREA
    return cv2.resize(picture, (size, size), interpolation=method)


def missing(*modules: str) -> str | None:
    """Why these cannot be imported, or None."""
    from importlib import import_module

    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            return f"{module} cannot be imported ({error}); pip install -e '.[bench]'"
    return None
