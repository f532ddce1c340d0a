"""What a DALI pipeline is fed: pictures, labels and augmentation as argument inputs, made on the host a batch ahead."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.base import FirstUse
from hrfr_fast.engines.pace import STEPS_AHEAD
from hrfr_fast.engines.pixels import fetch
from hrfr_fast.format.reader import Split
from hrfr_fast.sampling.augmentation import FILTERS, no_augmentation
from hrfr_fast.sampling.stream import BatchPart, BatchSpec, BatchStream
from hrfr_fast.settings import AugmentSettings

if TYPE_CHECKING:
    from nvidia.dali.types import BatchInfo

PREFETCH = 2  # batches DALI works on ahead of the one in use
# Batches whose arrays stay alive, since DALI reads them without a copy: those it works on, those whose step may still
# wait on the device (pace.STEPS_AHEAD), and two to spare.
KEPT = PREFETCH + STEPS_AHEAD + 2
CUBIC, LINEAR, BOX = (FILTERS.index(name) for name in ("cubic", "linear", "box"))
NOT_DEGRADED = -1

# Argument inputs of the graph: their DALI type, dimensions a sample, and layout.
INPUTS = {
    "roi_start": ("FLOAT", 1, ""),  # y, x as shares of the frame
    "roi_end": ("FLOAT", 1, ""),
    "colour": ("FLOAT", 2, ""),
    "small": ("FLOAT", 0, ""),  # pixels a side to degrade to
    "kernel": ("INT32", 0, ""),
    "boxed": ("FLOAT", 3, "HWC"),  # the picture already degraded, where the kernel is BOX
    "sigma": ("FLOAT", 0, ""),  # of the blur, in pixels
    "anchor": ("FLOAT", 1, ""),  # y, x of the erased rectangle, in pixels
    "shape": ("FLOAT", 1, ""),
}


def argument_names(augment: AugmentSettings) -> list[str]:
    """The argument inputs that these settings need."""
    names = ["roi_start", "roi_end"]
    if augment.brightness or augment.contrast or augment.saturation or augment.grey:
        names.append("colour")
    if augment.degrade:
        names += ["small", "kernel", "boxed"]
    if augment.blur:
        names.append("sigma")
    if augment.erase:
        names += ["anchor", "shape"]
    return names


class Fed(NamedTuple):
    """One batch of one split, as the pipeline takes it; every entry has n samples."""

    pictures: NDArray[np.uint8] | list[NDArray[np.uint8]]
    """uint8 [n, size, size, 3], or n JPEG files."""
    labels: NDArray[np.int64]
    arguments: dict[str, Any]
    """What the operators are driven by: see INPUTS."""


class Host:
    """Host arrays of batch number 0, 1, ... of ``start .. stop``, made once each, one batch ahead, in a thread."""

    def __init__(self, stream: BatchStream, start: int, stop: int | None, checksums: FirstUse, *, pinned: bool) -> None:
        self.stream, self.start, self.checksums, self.pinned = stream, start, checksums, pinned
        self.count = 2**62 if stop is None else len(range(start, stop, stream.batch_size))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hrfr-dali")
        self._made: dict[int, Future[tuple[BatchSpec, list[Fed]]]] = {}

    def work(self, number: int) -> BatchSpec:
        """What batch ``number`` is made of."""
        return self._result(number)[0]

    def fed(self, number: int, part: int) -> "Fed":
        """Batch ``number`` of split ``part``; the next one is begun. Raises StopIteration past the last."""
        if number >= self.count:
            raise StopIteration
        made = self._result(number)[1][part]
        self._request(number + 1)
        for old in [one for one in self._made if one < number - KEPT]:
            del self._made[old]
        return made

    def _result(self, number: int) -> "tuple[BatchSpec, list[Fed]]":
        self._request(number)
        return self._made[number].result()

    def _request(self, number: int) -> None:
        if number < self.count and number not in self._made:
            self._made[number] = self._thread.submit(self._make, number)

    def _make(self, number: int) -> "tuple[BatchSpec, list[Fed]]":
        work = self.stream.batch_spec(self.start + number * self.stream.batch_size)
        parts = {part.split.name: part for part in work.parts}
        for part in work.parts:
            self.checksums.check(part.split, part.records)
        fed = []
        for split in self.stream.splits:
            if split.name in parts:
                part = parts[split.name]
                fed.append(_feed(part, work.labels[part.rows], self.stream, self.pinned))
            else:
                fed.append(_feed(_placeholder(split), np.array([-1]), self.stream, self.pinned))
        return work, fed

    def close(self) -> None:
        """End the thread and let go of all arrays."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._made.clear()


def _placeholder(split: Split) -> BatchPart:
    zero = np.zeros(1, np.int64)
    return BatchPart(split, zero, zero, no_augmentation(1))


def _feed(part: BatchPart, labels: NDArray[np.int64], stream: BatchStream, pinned: bool) -> Fed:
    split, augmentation, side = part.split, part.augmentation, stream.size
    if split.encoding == "jpeg":
        data, begins = split.data.view(np.ndarray), split.offsets[part.records]
        ends = begins + split.lengths[part.records]
        pictures: Any = [data[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    else:  # raw; or mixed, which is decoded here
        pictures = fetch(split, part.records, pinned=pinned)
    names = argument_names(stream.augment)
    given: dict[str, Any] = {
        "roi_start": augmentation.box[:, [1, 0]],
        "roi_end": augmentation.box[:, [3, 2]],
        "colour": augmentation.colour,
    }
    if "small" in names:
        given["small"] = augmentation.degrade.astype(np.float32)
        given["kernel"] = np.where(augmentation.degrade > 0, augmentation.filter, np.int32(NOT_DEGRADED))
        given["boxed"] = _box_degraded(part)
    if "sigma" in names:
        given["sigma"] = augmentation.blur * np.float32(side)
    if "shape" in names:
        given["anchor"] = np.floor(augmentation.erase[:, [1, 0]] * side)
        given["shape"] = np.maximum(np.ceil(augmentation.erase[:, [3, 2]] * side) - given["anchor"], 0)
    arguments = {name: given[name] if name == "boxed" else np.ascontiguousarray(given[name]) for name in names}
    return Fed(pictures, labels, arguments)


def _box_degraded(part: BatchPart) -> list[NDArray[np.float32]]:
    """Each picture that is degraded with the box kernel, shrunk; a black pixel in place of every other."""
    from hrfr_fast.resampling.cpu import shrink

    augmentation, nothing = part.augmentation, np.zeros((1, 1, 3), np.float32)
    rows = np.flatnonzero((augmentation.degrade > 0) & (augmentation.filter == BOX))
    degraded = [nothing] * len(augmentation.degrade)
    for row, picture in zip(rows.tolist(), fetch(part.split, part.records[rows]), strict=True):
        degraded[row] = shrink(picture, int(augmentation.degrade[row]), BOX)
    return degraded


class Source:
    """The callable DALI asks for batches: a function of the batch's number alone."""

    def __init__(self, host: Host, part: int) -> None:
        self.host, self.part = host, part

    def __call__(self, info: "BatchInfo") -> list[Any]:
        fed = self.host.fed(info.iteration, self.part)
        return [fed.pictures, fed.labels, *fed.arguments.values()]
