"""The DALI engine: pixels stream from the memory maps through DALI pipelines that execute the augmentation.

One pipeline a split. Its input is an ``external_source`` with a callable of the batch's number alone, so order, rank
slices and resuming are those of every other engine; DALI's readers shuffle only inside a buffer. With
``device_id=None`` the same graph runs on a CPU.

The graph: JPEG is decoded (by nvJPEG on a GPU), raw pixels are copied once; then degradation, box resampling, blur,
colour and erasing as DALI operators in float32, one clamp and one rounding or cast at the end. DALI lacks three things:

* an interpolation with a *box* filter: the few images degraded with it are downsampled on the host, as are those of
  the filters nearest and lanczos, and those that undergo the whole chain of a native degradation: DALI's JPEG
  distortion has other numbers (chroma halved, its own DCT), and its noise a generator of its own;
* blur with sigma 0, which means "choose one" to DALI: images without blur bypass the operator;
* bfloat16: float16 leaves the pipeline and is converted on the device, one cheap pass.
"""

import importlib.metadata
import importlib.util
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hrfr_fast.engines.base import Batch, Engine, FirstUseChecksums, refuse_damaged
from hrfr_fast.engines.dali_feed import INPUTS, PREFETCH, ExternalSource, HostBatches, argument_names
from hrfr_fast.engines.pace import Pace
from hrfr_fast.resampling.spec import BOX, CUBIC, ERASE_VALUE, LINEAR
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.gpu_software import DALI_WHEELS, replace_dali
from hrfr_fast.runtime.system import threads_per_rank
from hrfr_fast.sampling.stream import BatchSpec, BatchStream

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


def require_dali() -> None:
    """Raises UsageError, with the fix, where DALI is missing or two of its wheels overwrite one another."""
    installed = [name for name in DALI_WHEELS if _is_installed(name)]
    if len(installed) > 1:
        raise UsageError(
            f"engine dali: {' and '.join(installed)} are both installed and own the same files; keep one:\n"
            f"  {replace_dali(installed)}"
        )
    if not dali_is_installed():
        raise UsageError(
            "engine dali: NVIDIA DALI is not installed; `pip install nvidia-dali-cuda120`, Linux only;"
            " or use --engine resident"
        )


def dali_is_installed() -> bool:
    """Whether ``nvidia.dali`` can be found; imports nothing of it."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def pipeline(
    stream: BatchStream,
    part: int = 0,
    *,
    device_id: int | None = None,
    dtype: str = "float16",
    start: int = 0,
    stop: int | None = None,
    threads: int = 0,
    verify: bool = True,
) -> "Pipeline":
    """A DALI pipeline over one split of ``stream``, for use without the rest of hrfr-fast.

    ::

        packed = hrfr_fast.open_packed("packed")
        split = packed.splits["lowres"]
        sampler = Sampler(seed=0, first=split.samples)
        stream = SingleViewStream((split,), sampler, AugmentSettings(), size=144, batch_size=256)
        pipe = pipeline(stream, device_id=0)
        images, labels = pipe.run()

    Each run gives the images of one batch that come from ``stream.splits[part]``, in the batch's order: images
    [n, S, S, 3] in ``dtype`` on the device, labels int64 [n], offset by split, in host memory. In a stream of one
    split n is the rank's share of the batch; in a mixed one it varies, and a batch without an image of this split
    gives the split's record 0 with label -1, since DALI knows no empty batch.

    Args:
        stream: the batch specifications.
        part: which of the stream's splits.
        device_id: the GPU; None for a CPU.
        dtype: "uint8" (pixel values), "float16" or "float32" (both (value - 127.5) / 127.5).
        start: samples consumed before the first batch.
        stop: no batch begins at or after this sample (``run`` then raises StopIteration); None: endless.
        threads: CPU threads; 0: one a core.
        verify: compare each record with its checksum when it is first used.

    Raises:
        UsageError: DALI is missing, or ``dtype`` is none of the three.
        DamageFound: from ``run``, when a record does not match its checksum.
    """
    require_dali()
    host = HostBatches(stream, start, stop, FirstUseChecksums(stream.splits, verify), pinned=device_id is not None)
    return _build(host, part, device_id, dtype, threads or threads_per_rank())


class Dali(Engine):
    """Batches made by DALI pipelines, one a split, on ``device`` (CUDA or CPU).

    Args:
        stream: the batch specifications.
        device: where batches are made.
        dtype: of the images, see Batch: uint8, float16 and float32 leave DALI without a copy, bfloat16 is converted.
        verify: compare each record with its checksum when it is first used (DamageFound on a mismatch).

    Raises:
        UsageError: DALI is missing.
    """

    name = "dali"

    def __init__(self, stream: BatchStream, device: torch.device, dtype: torch.dtype, *, verify: bool = True) -> None:
        require_dali()
        self.stream, self.device, self.dtype = stream, device, dtype
        self.checksums = FirstUseChecksums(stream.splits, verify)
        self._running: list[Generator[Batch, None, None]] = []

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        batches = self._batches(start, stop)
        self._running.append(batches)
        return batches

    def _batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        on_cuda = self.device.type == "cuda"
        device_id = None
        if on_cuda:  # "cuda" without an index means the current device
            device_id = torch.cuda.current_device() if self.device.index is None else self.device.index
        kind = {torch.uint8: "uint8", torch.float32: "float32"}.get(self.dtype, "float16")
        host = HostBatches(self.stream, start, stop, self.checksums, pinned=on_cuda)
        pipes: list[Pipeline] = []
        pace = Pace(self.device)
        try:
            for part in range(len(self.stream.splits)):
                pipes.append(_build(host, part, device_id, kind, threads_per_rank()))
            for number in range(host.count):
                parts = [self._run(pipe, host, number) for pipe in pipes]
                yield self._join(host.batch_spec(number), parts)
                pace.step()
        finally:
            # Shutting down ends DALI's threads; the garbage collector would do it at an unknown time.
            for pipe in pipes:
                pipe._shutdown()
            host.close()

    def _run(self, pipe: "Pipeline", host: HostBatches, number: int) -> Tensor:
        """The next images of one pipeline, [n, S, S, 3], ready on the current stream and freed in its order."""
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        try:
            images, _ = pipe.run(stream)
            return torch.from_dlpack(images.as_tensor())
        except RuntimeError as error:
            raise self._explained(error, host, number) from error

    def _explained(self, error: RuntimeError, host: HostBatches, number: int) -> HrfrError:
        """The error with its sample; raises DamageFound for a damaged record among those in flight: DALI names none."""
        for in_flight in range(number, min(number + PREFETCH + 1, host.count)):
            for part in host.batch_spec(in_flight).parts:
                refuse_damaged(part.split, part.records)
        return HrfrError(f"engine dali failed at sample {host.batch_spec(number).start}: {error}")

    def _join(self, batch_spec: BatchSpec, parts: list[Tensor]) -> Batch:
        labels = torch.from_numpy(batch_spec.labels)
        if self.device.type == "cuda":
            labels = labels.pin_memory().to(self.device, non_blocking=True)
        if len(parts) == 1:
            images = parts[0].to(self.dtype)
        else:
            size = self.stream.size
            images = torch.empty(len(batch_spec.labels), size, size, 3, dtype=self.dtype, device=self.device)
            for number, split in enumerate(self.stream.splits):
                for part in batch_spec.parts:
                    if part.split is split:
                        rows = torch.from_numpy(part.rows).to(self.device, non_blocking=True)
                        images.index_copy_(0, rows, parts[number].to(self.dtype))
        return Batch(images.permute(0, 3, 1, 2), labels, batch_spec.start)

    def close(self) -> None:
        """End the pipelines and their threads, and give back the memory of GPU and host that DALI keeps for others."""
        for batches in self._running:
            batches.close()
        if self._running and self.device.type == "cuda":
            from nvidia.dali import backend

            backend.ReleaseUnusedMemory()  # type: ignore[attr-defined]
        self._running.clear()


def _build(host: HostBatches, part: int, device_id: int | None, dtype: str, threads: int) -> "Pipeline":
    pipe = _define(host, part, device_id, dtype, threads)
    pipe.build()
    return pipe


def _define(host: HostBatches, part: int, device_id: int | None, dtype: str, threads: int) -> "Pipeline":
    from nvidia.dali import pipeline_def, types

    kinds = {"uint8": types.UINT8, "float16": types.FLOAT16, "float32": types.FLOAT}
    if dtype not in kinds:
        raise UsageError(f"engine dali: dtype is {dtype!r}; DALI gives {', '.join(kinds)}")
    stream, split = host.stream, host.stream.splits[part]
    make = pipeline_def(
        batch_size=stream.batch_size // stream.ranks, num_threads=threads, device_id=device_id,
        prefetch_queue_depth=PREFETCH, enable_conditionals=True,
    )(_graph)  # fmt: skip
    jpeg, names = split.encoding == "jpeg", argument_names(stream.augment)
    inputs = [("UINT8", 1, "") if jpeg else ("UINT8", 3, "HWC"), ("INT64", 0, ""), *(INPUTS[name] for name in names)]
    external_source = {
        "source": ExternalSource(host, part), "batch": True, "batch_info": True, "no_copy": True,
        "num_outputs": len(inputs),
        "dtype": [getattr(types, kind) for kind, _, _ in inputs],
        "ndim": [ndim for _, ndim, _ in inputs], "layout": [layout for _, _, layout in inputs],
    }  # fmt: skip
    pipe: Pipeline = make(external_source, names, jpeg, split.size, stream.size, kinds[dtype], device_id is not None)
    return pipe


def _graph(external_source, names, jpeg, size, out_size, dtype, on_gpu):  # type: ignore[no-untyped-def]
    """Augmentation as DALI operators. DALI's AutoGraph splits the batch where an ``if`` depends on a sample's value."""
    from nvidia.dali import fn, math, types

    frame, labels, *rest = fn.external_source(**external_source)
    given = {name: rest[number] for number, name in enumerate(names)}
    if jpeg:
        device = "mixed" if on_gpu else "cpu"
        # Chroma is interpolated as on a CPU. The hardware decoder would take a share of the batch: an image's pixels
        # would depend on where in the batch it lies, and so on the number of ranks.
        frame = fn.decoders.image(
            frame, device=device, output_type=types.RGB, jpeg_fancy_upsampling=True, hw_decoder_load=0.0
        )
    elif on_gpu:
        frame = frame.gpu()
    if "small" in names:
        frame = fn.cast(frame, dtype=types.FLOAT)
        small, filter = given["small"], given["filter"]
        if filter == BOX:
            frame = given["degraded"].gpu() if on_gpu else given["degraded"]
        elif filter == LINEAR:
            frame = fn.resize(frame, resize_x=small, resize_y=small, interp_type=types.INTERP_LINEAR)
        elif filter == CUBIC:
            frame = fn.resize(frame, resize_x=small, resize_y=small, interp_type=types.INTERP_CUBIC)
    # Colour is linear and every later weight sums to 1, so it may come first: on 36 px it costs a sixteenth of 144 px.
    if "colour" in names and size < out_size:
        frame = fn.coord_transform(frame, MT=given["colour"])
    frame = fn.resize(
        frame, size=(out_size, out_size), roi_start=given["roi_start"], roi_end=given["roi_end"], roi_relative=True,
        interp_type=types.INTERP_CUBIC, antialias=True, dtype=types.FLOAT,
    )  # fmt: skip
    if "sigma" in names:  # noqa: SIM102 (the outer condition is Python's, the inner one each sample's)
        if given["sigma"] > 0:
            frame = fn.gaussian_blur(frame, sigma=given["sigma"])
    if "colour" in names and size >= out_size:
        frame = fn.coord_transform(frame, MT=given["colour"])
    if "shape" in names:
        frame = math.clamp(frame, 0.0, 255.0)
        frame = fn.erase(frame, anchor=given["anchor"], shape=given["shape"], axis_names="HW", fill_value=ERASE_VALUE)
    if dtype == types.UINT8:
        return fn.cast(frame, dtype=dtype), labels  # clamps and rounds
    return fn.cast((math.clamp(frame, 0.0, 255.0) - 127.5) * (1 / 127.5), dtype=dtype), labels
