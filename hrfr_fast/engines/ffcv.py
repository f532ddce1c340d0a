"""The FFCV engine: stock FFCV reads and decodes our shards, the shared CPU kernel executes the augmentation.

FFCV's loader gets our order as ``traversal_order.indices``, a chunk of the stream at a time, so it is built (and
compiled, seconds) once. Decoded images are views of its ring of buffers: they are copied at once. Its own random
augmentations ignore the seed and are not used.

JPEG is decoded with libjpeg-turbo's fast DCT, which no setting changes: against the exact DCT of every other engine
its pixel values are off by up to 7, 1.1 on average (measured on 36-px faces and noise at quality 90). Raw pixels are
exact.
"""

import importlib.util
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hrfr_fast.engines.base import Batch, Engine, FirstUseChecksums
from hrfr_fast.engines.ffcv_files import tables_of_all_files
from hrfr_fast.engines.pixels import BatchMemory, pinned_empty, to_model_input
from hrfr_fast.engines.prefetch import prefetch
from hrfr_fast.format.reader import Split
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.sampling.stream import BatchSpec, BatchStream, single_view_stream

READ_CHUNK = 256  # images that FFCV decodes at a time
ORDER_CHUNK = 65536  # samples whose order is handed over at once; a new order costs FFCV about 6 ms
_COMPILED: dict[int, Any] = {}  # number of threads -> code of a loader


def require_ffcv() -> None:
    """Raises UsageError, with the fix, where FFCV is missing, or numba's threads cannot serve two callers."""
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
    """numba's threading layer, which this starts: tbb, omp or workqueue."""
    import numba

    from hrfr_fast.resampling.cpu import resample
    from hrfr_fast.sampling.augmentation import no_augmentation

    pixel = np.zeros((1, 1, 1, 3), np.uint8)
    resample(pixel.reshape(-1), np.zeros(1, np.int64), 1, no_augmentation(1), pixel.copy())
    return str(numba.threading_layer())


class FFCV(Engine):
    """Batches whose images FFCV reads; made on the CPU and, for a CUDA ``device``, copied from pinned memory.

    Args:
        stream: the batch specifications.
        device: where batches go.
        dtype: of the images, see Batch.
        verify: compare each record with its checksum when it is first used (DamageFound on a mismatch).

    Raises:
        UsageError: FFCV is missing, or its threads would collide with the kernel's; says what to install.
    """

    name = "ffcv"

    def __init__(self, stream: BatchStream, device: torch.device, dtype: torch.dtype, *, verify: bool = True) -> None:
        require_ffcv()
        self.stream, self.device, self.dtype = single_view_stream(stream, self.name), device, dtype
        self.checksums = FirstUseChecksums(stream.splits, verify)
        self.memory = BatchMemory(dtype)
        self.loaders = {split.name: _build_loader(split) for split in stream.splits}
        self._running: list[Generator[Batch, None, None]] = []

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        batches = self._batches(start, stop)
        self._running.append(batches)
        return batches

    def _batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        made = self._made(start, stop)
        if self.device.type != "cuda":
            for batch_spec, pixels in made:
                yield Batch(self.memory.images(pixels), torch.from_numpy(batch_spec.labels), batch_spec.start)
            return
        made = prefetch(made)  # while this thread launches the step on the batch before
        try:
            for batch_spec, pixels in made:
                values = torch.from_numpy(pixels).to(self.device, non_blocking=True)
                labels = torch.from_numpy(batch_spec.labels).pin_memory().to(self.device, non_blocking=True)
                yield Batch(to_model_input(values, self.dtype), labels, batch_spec.start)
        finally:
            made.close()

    def _made(self, start: int, stop: int) -> Iterator[tuple[BatchSpec, NDArray[Any]]]:
        """Batches in host memory, [B, S, S, 3]: uint8 for a GPU, else as BatchMemory has it."""
        from hrfr_fast.resampling.cpu import resample

        size = self.stream.size
        readers = [
            _Reader(self.loaders[split.name], split, self._record_chunks(number, start, stop))
            for number, split in enumerate(self.stream.splits)
        ]
        by_name = {reader.split.name: reader for reader in readers}
        try:
            for batch_start in range(start, stop, self.stream.batch_size):
                batch_spec = self.stream.batch_spec(batch_start)
                shape = (len(batch_spec.labels), size, size, 3)
                pixels = pinned_empty(shape) if self.device.type == "cuda" else self.memory.empty(*shape[:2])
                for part in batch_spec.parts:
                    self.checksums.check(part.split, part.records)
                    decoded = by_name[part.split.name].take(len(part.rows))
                    offsets = np.arange(len(decoded), dtype=np.int64) * decoded[0].size
                    resample(decoded.reshape(-1), offsets, part.split.size, part.augmentation, pixels, part.rows)
                yield batch_spec, pixels
        finally:
            for reader in readers:
                reader.close()

    def _record_chunks(self, number: int, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """This rank's records of split ``number``, in the stream's order, a chunk at a time."""
        batch, share = self.stream.batch_size, self.stream.batch_size // self.stream.ranks
        starts = range(start, stop, batch)
        largest = self.stream.splits[number].samples  # FFCV cuts a longer order than it was built with, silently
        batches_a_chunk = max(ORDER_CHUNK // batch, 1)
        for first in range(0, len(starts), batches_a_chunk):
            count = min(batches_a_chunk, len(starts) - first) * batch
            samples = self.stream.sampler.samples(starts[first], count)
            of_this_rank = (np.arange(count) % batch) // share == self.stream.rank
            records = samples.record[of_this_rank & (samples.split == number)]
            for begin in range(0, len(records), largest):
                yield records[begin : begin + largest]

    def close(self) -> None:
        """End FFCV's threads and close its files."""
        for batches in self._running:
            batches.close()
        self._running.clear()
        self.loaders.clear()


@contextmanager
def thread_counts_kept() -> Iterator[None]:
    """A context in which FFCV may set the number of threads of torch and numba; afterwards both are as before.

    Importing FFCV sets both to 1 for the whole process, so everything after it would train on one core; building a
    Loader and starting one set both to the Loader's number.
    """
    import numba

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
    _keep_numba_types()


def _keep_numba_types() -> None:
    """Make FFCV compile the function that finds a record without changing numba's types.

    FFCV sets ``mutable = False`` on ``numba.uint8[::1]``, an object that every compiled function of the process
    shares: its hash changes while it is a key of numba's tables. A kernel compiled afterwards then ends in a KeyError
    inside numba, or its type inference never ends. With no types given, numba takes them from the first call.
    """
    from ffcv.memory_managers.os_cache import OSCacheManager
    from ffcv.pipeline.compiler import Compiler

    def record_bytes(pointer, state):  # type: ignore[no-untyped-def]
        file, pointers, sizes = state
        return file[pointer : pointer + sizes[np.searchsorted(pointers, pointer)]]

    OSCacheManager.compile_reader = lambda manager: Compiler.compile(record_bytes)


def _reading_threads() -> int:
    """Threads of a Loader: torch's number, to which FFCV sets it anyway, but no more than numba has."""
    import numba

    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def _build_loader(split: Split) -> Any:
    load_ffcv()
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.graph import Node

    threads = _reading_threads()
    _ = split.labels  # FFCV trusts what it opens: let our reader refuse a damaged table first

    class SharedCodeLoader(Loader):  # type: ignore[misc]
        """Loader whose code, the same for every file, is compiled once a process: saves 1 s and 6 MB a loader."""

        def generate_code(self) -> None:
            if threads not in _COMPILED:
                super().generate_code()
                _COMPILED[threads] = self.code  # type: ignore[has-type]
            self.code = _COMPILED[threads]

    Node.last_node_id = 0  # the code's arguments are named after it
    with thread_counts_kept(), tables_of_all_files(split):
        loader = SharedCodeLoader(
            str(split.path), READ_CHUNK, num_workers=threads, os_cache=True, drop_last=False,
            order=OrderOption.SEQUENTIAL, pipelines={"image": [SimpleRGBImageDecoder()], "label": None},
            seed=0,  # not used, but without one FFCV draws it from NumPy's global generator
        )  # fmt: skip
    loader.memory_manager.context.mmap = split.data  # which is watched for the file becoming shorter
    return loader


class _Reader:
    """Decoded images of one split in a given order, as many at a time as are asked for."""

    def __init__(self, loader: Any, split: Split, record_chunks: Iterator[NDArray[np.int64]]) -> None:
        self.loader, self.split, self.record_chunks = loader, split, record_chunks
        self._iterator: Any = None
        self._rest: NDArray[np.uint8] = np.empty((0, split.size, split.size, 3), np.uint8)

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` images, uint8 [count, size, size, 3], copied out of FFCV's ring."""
        out = np.empty((count, *self._rest.shape[1:]), np.uint8)
        filled = 0
        while filled < count:
            if not len(self._rest):
                self._rest = self._next()
            chunk = self._rest[: count - filled]
            out[filled : filled + len(chunk)] = chunk
            filled, self._rest = filled + len(chunk), self._rest[len(chunk) :]
        return out

    def _next(self) -> NDArray[np.uint8]:
        """FFCV's next batch: a view that is valid until the next call."""
        while True:
            if self._iterator is None:
                self.loader.traversal_order.indices = next(self.record_chunks)
                with thread_counts_kept():
                    self._iterator = iter(self.loader)
            while self._iterator.output_queue.empty():
                # Where FFCV's thread fails it prints its exception and ends, and nothing more comes into the queue.
                if not self._iterator.is_alive() and self._iterator.output_queue.empty():
                    raise HrfrError(f"engine ffcv: FFCV failed while reading {self.split.path}, see above")
                time.sleep(0.0002)
            try:
                return np.asarray(next(self._iterator)[0])
            except StopIteration:
                self.close()

    def close(self) -> None:
        """End FFCV's thread, which waits for a free place in its queue and checks its flag twice a second."""
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
