"""Inputs of a DALI pipeline: records, labels and augmentation as argument inputs, made on the host a batch ahead."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.base import FirstUseChecksums
from hrfr_fast.engines.pace import STEPS_AHEAD
from hrfr_fast.engines.pixels import fetch
from hrfr_fast.format.reader import Split
from hrfr_fast.resampling.spec import BOX, LANCZOS, NEAREST
from hrfr_fast.sampling.augmentation import Augmentation, no_augmentation
from hrfr_fast.sampling.stream import BatchPart, BatchSpec, BatchStream
from hrfr_fast.settings import AugmentSettings

if TYPE_CHECKING:
    from nvidia.dali.types import BatchInfo

PREFETCH = 2  # batches that DALI works on ahead of the one in use
# Batches whose arrays are kept, since DALI reads them without a copy: those it works on, those whose step may still
# wait on the device, and two to spare.
KEPT = PREFETCH + STEPS_AHEAD + 2
NOT_DEGRADED = -1

INPUTS = {
    "roi_start": ("FLOAT", 1, ""),  # y, x as shares of the frame
    "roi_end": ("FLOAT", 1, ""),
    "colour": ("FLOAT", 2, ""),
    "small": ("FLOAT", 0, ""),  # size in pixels to degrade to
    "filter": ("INT32", 0, ""),
    "degraded": ("FLOAT", 3, "HWC"),  # the image already degraded, where that was done on the host
    "sigma": ("FLOAT", 0, ""),  # of the blur, in pixels
    "anchor": ("FLOAT", 1, ""),  # y, x of the erased rectangle, in pixels
    "shape": ("FLOAT", 1, ""),
}
"""Argument inputs of the graph: their DALI type, dimensions a sample, and layout."""


def argument_names(augment: AugmentSettings) -> list[str]:
    """The argument inputs that these settings need."""
    names = ["roi_start", "roi_end"]
    if augment.brightness or augment.contrast or augment.saturation or augment.grey:
        names.append("colour")
    if augment.degrade:
        names += ["small", "filter", "degraded"]
    if augment.blur:
        names.append("sigma")
    if augment.erase:
        names += ["anchor", "shape"]
    return names


class PipelineInput(NamedTuple):
    """One batch of one split, as the pipeline takes it; every entry has n samples."""

    images: NDArray[np.uint8] | list[NDArray[np.uint8]]
    """uint8 [n, size, size, 3], or n JPEG files."""
    labels: NDArray[np.int64]
    arguments: dict[str, Any]
    """Argument inputs of the operators, see INPUTS."""


class HostBatches:
    """Inputs of batch number 0, 1, ... of ``start .. stop`` in host memory, each made once, one ahead, in a thread."""

    def __init__(
        self, stream: BatchStream, start: int, stop: int | None, checksums: FirstUseChecksums, *, pinned: bool
    ) -> None:
        self.stream, self.start, self.checksums, self.pinned = stream, start, checksums, pinned
        self.count = 2**62 if stop is None else len(range(start, stop, stream.batch_size))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hrfr-dali")
        self._made: dict[int, Future[tuple[BatchSpec, list[PipelineInput]]]] = {}

    def batch_spec(self, number: int) -> BatchSpec:
        """The specification of batch ``number``."""
        return self._result(number)[0]

    def input(self, number: int, part: int) -> PipelineInput:
        """Batch ``number`` of split ``part``; the next one is begun. Raises StopIteration past the last."""
        if number >= self.count:
            raise StopIteration
        made = self._result(number)[1][part]
        self._request(number + 1)
        for old_number in [key for key in self._made if key < number - KEPT]:
            del self._made[old_number]
        return made

    def _result(self, number: int) -> tuple[BatchSpec, list[PipelineInput]]:
        self._request(number)
        return self._made[number].result()

    def _request(self, number: int) -> None:
        if number < self.count and number not in self._made:
            self._made[number] = self._thread.submit(self._make, number)

    def _make(self, number: int) -> tuple[BatchSpec, list[PipelineInput]]:
        batch_spec = self.stream.batch_spec(self.start + number * self.stream.batch_size)
        parts = {part.split.name: part for part in batch_spec.parts}
        for part in batch_spec.parts:
            self.checksums.check(part.split, part.records)
        inputs = []
        for split in self.stream.splits:
            if split.name in parts:
                part = parts[split.name]
                inputs.append(_input(part, batch_spec.labels[part.rows], self.stream, self.pinned))
            else:
                inputs.append(_input(_placeholder(split), np.array([-1]), self.stream, self.pinned))
        return batch_spec, inputs

    def close(self) -> None:
        """End the thread and drop all arrays."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._made.clear()


def _placeholder(split: Split) -> BatchPart:
    """The split's record 0, for a batch without any record of it: DALI knows no empty batch."""
    zero = np.zeros(1, np.int64)
    return BatchPart(split, zero, zero, no_augmentation(1))


def _input(part: BatchPart, labels: NDArray[np.int64], stream: BatchStream, pinned: bool) -> PipelineInput:
    split, augmentation, size = part.split, part.augmentation, stream.size
    if split.encoding == "jpeg":
        data, begins = split.data.view(np.ndarray), split.offsets[part.records]
        ends = begins + split.lengths[part.records]
        images: Any = [data[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    else:  # raw; or mixed, which is decoded here
        images = fetch(split, part.records, pinned=pinned)
    names = argument_names(stream.augment)
    chained = augmentation.order[:, None] >= 0  # the host has already cut out the box
    box = np.where(chained, np.array([0, 0, 1, 1], np.float32), augmentation.box)
    given: dict[str, Any] = {"roi_start": box[:, [1, 0]], "roi_end": box[:, [3, 2]], "colour": augmentation.colour}
    if "small" in names:
        on_host = _degraded_on_host(augmentation)
        given["small"] = augmentation.degrade.astype(np.float32)
        filter = np.where(on_host, np.int32(BOX), augmentation.filter)
        given["filter"] = np.where(augmentation.degrade > 0, filter, np.int32(NOT_DEGRADED))
        given["degraded"] = _host_degraded(part, np.flatnonzero(on_host), size)
    if "sigma" in names:
        given["sigma"] = augmentation.blur * np.float32(size)
    if "shape" in names:
        given["anchor"] = np.floor(augmentation.erase[:, [1, 0]] * size)
        given["shape"] = np.maximum(np.ceil(augmentation.erase[:, [3, 2]] * size) - given["anchor"], 0)
    arguments = {name: given[name] if name == "degraded" else np.ascontiguousarray(given[name]) for name in names}
    return PipelineInput(images, labels, arguments)


def _degraded_on_host(augmentation: Augmentation) -> NDArray[np.bool_]:
    """Which images are degraded by what DALI lacks: some filters, and the chain, whose JPEG differs from its own."""
    lacking = np.isin(augmentation.filter, (BOX, NEAREST, LANCZOS))
    return np.asarray((augmentation.degrade > 0) & (lacking | (augmentation.order >= 0)))


def _host_degraded(part: BatchPart, rows: NDArray[np.int64], size: int) -> list[NDArray[np.float32]]:
    """The images at ``rows`` downsampled, after the chain their boxes at ``size``; a black pixel for every other."""
    from hrfr_fast.resampling.cpu import crop, downsample  # numba: 0.5 s to import
    from hrfr_fast.resampling.low_resolution import low_resolution_images

    augmentation, black_pixel = part.augmentation, np.zeros((1, 1, 3), np.float32)
    degraded = [black_pixel] * len(augmentation.degrade)
    if not len(rows):
        return degraded
    pixels, chosen = fetch(part.split, part.records[rows]), augmentation.take(rows)
    begins = np.arange(len(rows), dtype=np.int64) * pixels[0].size
    small = low_resolution_images(pixels.reshape(-1), begins, part.split.size, chosen)
    for number, row in enumerate(rows.tolist()):
        picture = small[number]
        if picture is None:
            degraded[row] = downsample(pixels[number], int(chosen.degrade[number]), int(chosen.filter[number]))
        else:
            degraded[row] = crop(picture, chosen.box[number], size, int(chosen.up[number]))
    return degraded


class ExternalSource:
    """Callable that DALI asks for batches: a function of the batch's number alone."""

    def __init__(self, host: HostBatches, part: int) -> None:
        self.host, self.part = host, part

    def __call__(self, info: "BatchInfo") -> list[Any]:
        batch = self.host.input(info.iteration, self.part)
        return [batch.images, batch.labels, *batch.arguments.values()]
