"""The FFCV engine: stock FFCV reads and decodes our shards, the shared CPU kernel executes the augmentation.

FFCV's loader gets our order as ``traversal_order.indices``, a stretch of the stream at a time, so it is built (and
compiled, seconds) once. Decoded pictures are views of its ring of buffers: they are copied at once. Its own random
augmentations ignore the seed and are not used.

JPEG is decoded with libjpeg-turbo's fast DCT, which no setting changes: against the exact DCT of every other engine
its pixels are off by up to 7 levels, 1.1 on average (measured on 36-px faces and noise at quality 90). Raw pixels are
exact.
"""

import importlib.util
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.base import Batch, FirstUse
from hrfr_fast.engines.pixels import BatchMemory, pinned_empty, to_model_input
from hrfr_fast.engines.prefetch import prefetch
from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.sampling.stream import BatchSpec, BatchStream, single_view_stream

if TYPE_CHECKING:
    import torch

READ = 256  # pictures FFCV decodes at a time
_COMPILED: dict[int, Any] = {}  # by number of threads
STRETCH = 65536  # samples whose order is handed over at once; a new order costs FFCV about 6 ms


def require_ffcv() -> None:
    """Raises UsageError, with the fix, where FFCV is missing or numba's threads cannot serve two callers."""
    if importlib.util.find_spec("ffcv") is None:
        raise UsageError(
            "engine ffcv: FFCV is not installed; `tools/install_ffcv.sh VENV` builds it (or `pip install"
            " 'hrfr-fast[ffcv]'` where OpenCV's and libjpeg-turbo's headers are), or use --engine resident"
        )
    if threading_layer() == "workqueue":
        raise UsageError(
            "engine ffcv: numba has only its workqueue threads here, which abort when FFCV and the resampling kernel"
            " use them at once; `pip install tbb` (or install OpenMP, libgomp1), or use --engine resident"
        )


def threading_layer() -> str:
    """numba's threading layer: tbb, omp or workqueue. Starts it."""
    import numba

    from hrfr_fast.resampling.cpu import resample
    from hrfr_fast.sampling.augmentation import no_augmentation

    pixel = np.zeros((1, 1, 1, 3), np.uint8)
    resample(pixel.reshape(-1), np.zeros(1, np.int64), 1, no_augmentation(1), pixel.copy())
    return str(numba.threading_layer())


class FFCV:
    """Batches whose pictures FFCV reads; made on the CPU and, for a CUDA ``device``, copied from pinned memory.

    Args:
        stream: what to feed.
        device: where batches go.
        dtype: of the images, see Batch.
        verify: compare each record with its checksum when it is first used (DamageFound on a mismatch).

    Raises:
        UsageError: FFCV is missing, or its threads would not go with ours; says what to install.
    """

    name = "ffcv"

    def __init__(
        self, stream: BatchStream, device: "torch.device", dtype: "torch.dtype", *, verify: bool = True
    ) -> None:
        require_ffcv()
        self.stream, self.device, self.dtype = single_view_stream(stream, self.name), device, dtype
        self.checksums = FirstUse(stream.splits, verify)
        self.memory = BatchMemory(dtype)
        self.loaders = {split.name: _build_loader(split) for split in stream.splits}
        self._running: list[Generator[Batch, None, None]] = []

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        batches = self._batches(start, stop)
        self._running.append(batches)
        return batches

    def _batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        import torch

        made = self._made(start, stop)
        if self.device.type != "cuda":
            for work, pixels in made:
                yield Batch(self.memory.images(pixels), torch.from_numpy(work.labels), work.start)
            return
        made = prefetch(made)  # while this thread launches the step on the batch before
        try:
            for work, pixels in made:
                levels = torch.from_numpy(pixels).to(self.device, non_blocking=True)
                labels = torch.from_numpy(work.labels).pin_memory().to(self.device, non_blocking=True)
                yield Batch(to_model_input(levels, self.dtype), labels, work.start)
        finally:
            made.close()

    def _made(self, start: int, stop: int) -> Iterator[tuple[BatchSpec, NDArray[Any]]]:
        """Batches in host memory, [B, S, S, 3]: uint8 for a GPU, else as BatchMemory has it."""
        from hrfr_fast.resampling.cpu import resample

        size = self.stream.size
        readers = [
            _Reader(self.loaders[split.name], split, self._stretches(source, start, stop))
            for source, split in enumerate(self.stream.splits)
        ]
        by_name = {reader.split.name: reader for reader in readers}
        try:
            for at in range(start, stop, self.stream.batch_size):
                work = self.stream.batch_spec(at)
                shape = (len(work.labels), size, size, 3)
                pixels = pinned_empty(shape) if self.device.type == "cuda" else self.memory.empty(*shape[:2])
                for part in work.parts:
                    self.checksums.check(part.split, part.records)
                    source = by_name[part.split.name].take(len(part.rows))
                    offsets = np.arange(len(source), dtype=np.int64) * source[0].size
                    resample(source.reshape(-1), offsets, part.split.size, part.augmentation, pixels, part.rows)
                yield work, pixels
        finally:
            for reader in readers:
                reader.close()

    def _stretches(self, source: int, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """This rank's records of one source, in the stream's order, a stretch at a time."""
        batch, share = self.stream.batch_size, self.stream.batch_size // self.stream.ranks
        starts = range(start, stop, batch)
        most = self.stream.splits[source].samples  # FFCV cuts a longer order than it was built with, silently
        per = max(STRETCH // batch, 1)
        for first in range(0, len(starts), per):
            count = min(per, len(starts) - first) * batch
            draws = self.stream.sampler.samples(starts[first], count)
            mine = (np.arange(count) % batch) // share == self.stream.rank
            records = draws.record[mine & (draws.source == source)]
            for cut in range(0, len(records), most):
                yield records[cut : cut + most]

    def close(self) -> None:
        """End FFCV's threads and give up its files."""
        for batches in self._running:
            batches.close()
        self._running.clear()
        self.loaders.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def thread_counts_kept() -> Iterator[None]:
    """A context in which FFCV may set the number of threads of torch and numba; afterwards both are as before.

    Importing FFCV sets both to 1 for the whole process, so everything after it would train on one core; building a
    Loader and starting one set both to the Loader's number.
    """
    import numba
    import torch

    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)


def load_ffcv() -> None:
    """Import FFCV without its side effects. Raises what the import raises."""
    with thread_counts_kept():
        importlib.import_module("ffcv.loader")


def _reading_threads() -> int:
    """How many threads a Loader gets: torch's number, since FFCV sets that to its own, or the most that numba has."""
    import numba
    import torch

    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def _build_loader(split: Split) -> Any:
    load_ffcv()
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.graph import Node

    threads = _reading_threads()
    _ = split.labels  # FFCV trusts what it opens: let our reader refuse a damaged table first

    class SharedCodeLoader(Loader):  # type: ignore[misc]
        """Compiled once a process: the code knows no file. Saves 1 s and 6 MB of code, never freed, a loader."""

        def generate_code(self) -> None:
            if threads not in _COMPILED:
                super().generate_code()
                _COMPILED[threads] = self.code  # type: ignore[has-type]
            self.code = _COMPILED[threads]

    Node.last_node_id = 0  # the code names its arguments by it
    with thread_counts_kept():
        loader = SharedCodeLoader(
            str(split.path), READ, num_workers=threads, os_cache=True, drop_last=False, order=OrderOption.SEQUENTIAL,
            pipelines={"image": [SimpleRGBImageDecoder()], "label": None},
            seed=0,  # it is not used, but without one FFCV draws it from NumPy's global numbers
        )  # fmt: skip
    loader.memory_manager.context.mmap = split.data  # watched for becoming shorter, as a map of its own is not
    return loader


class _Reader:
    """Decoded pictures of one split in a given order, as many at a time as are asked for."""

    def __init__(self, loader: Any, split: Split, stretches: Iterator[NDArray[np.int64]]) -> None:
        self.loader, self.split, self.stretches = loader, split, stretches
        self._iterator: Any = None
        self._rest: NDArray[np.uint8] = np.empty((0, split.size, split.size, 3), np.uint8)

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` pictures, uint8 [count, size, size, 3], copied out of FFCV's ring."""
        out = np.empty((count, *self._rest.shape[1:]), np.uint8)
        filled = 0
        while filled < count:
            if not len(self._rest):
                self._rest = self._next()
            some = self._rest[: count - filled]
            out[filled : filled + len(some)] = some
            filled, self._rest = filled + len(some), self._rest[len(some) :]
        return out

    def _next(self) -> NDArray[np.uint8]:
        """FFCV's next batch: a view that is valid until the next call."""
        while True:
            if self._iterator is None:
                self.loader.traversal_order.indices = next(self.stretches)
                with thread_counts_kept():
                    self._iterator = iter(self.loader)
            while self._iterator.output_queue.empty():
                # FFCV's thread prints its exception and dies; its queue would then be waited for forever.
                if not self._iterator.is_alive() and self._iterator.output_queue.empty():
                    raise HrfrError(f"engine ffcv: FFCV failed while reading {self.split.path}, see above")
                time.sleep(0.0002)
            try:
                return np.asarray(next(self._iterator)[0])
            except StopIteration:
                self.close()

    def close(self) -> None:
        """End FFCV's thread, which waits for room in its queue and looks at its flag twice a second."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        iterator.close()
        while iterator.is_alive():
            try:
                iterator.output_queue.get(timeout=0.01)
            except Empty:
                continue
        iterator.join()
