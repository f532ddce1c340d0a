"""How fast a run is and what holds it back: the data path, the host, or the device.

The host runs ahead of a GPU, so a host clock around a step says nothing. Events on the training stream do: the time
between the end of one step and the moment the next batch is there is time in which the device had nothing to do.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from hrfr_fast.engines.base import Batch
from hrfr_fast.engines.pace import Pace
from hrfr_fast.runtime.device import Compute
from hrfr_fast.training.compiling import use_lasting_cache

if TYPE_CHECKING:
    import torch
    from torch import nn

STARVED = 0.05  # share of the time a device may wait for batches before the data path is what limits
UNBLOCKED = 0.02  # share of the time the host waits for the device; below it, the host is never ahead


class Throughput(NamedTuple):
    """What was reached over some steps."""

    images_per_second: float
    waiting: float
    """Share of the time in which the device (on a CPU: the step) waited for its next batch, 0 to 1."""
    utilisation: float | None
    """Share of the device's measured matrix rate that the network's operations make up; None: rate not measured."""
    limit: str
    """data, host or device."""

    def to_json(self) -> dict[str, float]:
        """The numbers that were measured, for a line of metrics."""
        numbers = (self.images_per_second, self.waiting, self.utilisation)
        named = zip(("images_per_second", "waiting", "utilisation"), numbers, strict=True)
        return {name: value for name, value in named if value is not None and math.isfinite(value)}

    def __str__(self) -> str:
        use = f", {self.utilisation:.0%} of the device's matrix rate" if self.utilisation is not None else ""
        return f"{self.images_per_second:,.0f} images/s{use}, limited by the {self.limit}"


def limiting_factor(on_cuda: bool, waiting: float, stepping: float, blocked: float) -> str:
    """data, host or device, from shares of the time (0 to 1).

    Args:
        on_cuda: data, host and device work at the same time; on a CPU one after the other.
        waiting: the device, or on a CPU the step, waits for a batch.
        stepping: on a CPU, the step computes; elsewhere not used.
        blocked: the host waits for the device to finish; on a CPU not used.

    On CUDA a device that waits is starved by the data path. One that does not is either the limit itself, and then
    the host has to wait for it now and then, or is fed with launches just as fast as the host can make them.
    """
    if not on_cuda:
        shares = {"data": waiting, "device": stepping, "host": 1 - waiting - stepping}
        return max(shares, key=lambda name: shares[name])
    if waiting >= STARVED:
        return "data"
    return "host" if blocked < UNBLOCKED else "device"


class StepTimer:
    """Measures a training loop from its outside.

    Args:
        compute: device of the run.
        batch_size: images a step.
        training_flops: floating-point operations an image, forward and backward.
        peak: the device's measured FLOP/s in matrix products, or None.
    """

    def __init__(self, compute: Compute, batch_size: int, training_flops: float, peak: float | None) -> None:
        self.device, self.on_cuda = compute.device, compute.device.type == "cuda"
        self.batch_size, self.training_flops, self.peak = batch_size, training_flops, peak
        self._total, self._part = _Tally(), _Tally()
        self._marks: list[tuple[Any, Any]] = []  # when the device became free, and when it had its next batch
        self._began: float | None = None
        self.last: Throughput | None = None

    def batches(self, source: Iterable[Batch]) -> Iterator[Batch]:
        """``source``, with the time that each batch lets the device wait noted."""
        self._began = time.perf_counter()
        iterator, pace = iter(source), Pace(self.device)
        while True:
            free = self._mark()
            with self.blocked():
                pace.step()  # engines do the same; here it is seen to be a wait for the device and not for data
            batch = next(iterator, None)
            if batch is None:
                return
            self._marks.append((free, self._mark()))
            yield batch

    def step(self) -> None:
        """Tell that a step was taken: a batch that is there may still wait for a verification, or never be used."""
        self._part.steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside (verification, compilation, saving) is no training time."""
        self._advance()
        self._began = None
        try:
            yield
        finally:
            self._began = time.perf_counter()

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Inside, the host waits for the device."""
        began = time.perf_counter()
        yield
        self._part.blocked += time.perf_counter() - began

    def read(self) -> Throughput:
        """Over the steps since the last reading; the device is not waited for."""
        self._advance()
        self._part.add_waits(self._marks, self.on_cuda)
        self.last = self._speed(self._part)
        self._total.add(self._part)
        self._part = _Tally()
        return self.last

    def whole(self) -> Throughput:
        """Over the whole run, up to the last reading."""
        return self._speed(self._total)

    def _mark(self) -> "float | torch.cuda.Event":
        if not self.on_cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _advance(self) -> None:
        now = time.perf_counter()
        if self._began is not None:
            self._part.seconds += now - self._began
            self._began = now

    def _speed(self, tally: "_Tally") -> Throughput:
        if not tally.seconds:
            return Throughput(math.nan, math.nan, None, "nothing")
        rate = tally.steps * self.batch_size / tally.seconds
        waiting = min(tally.waiting / tally.seconds, 1.0)
        use = rate * self.training_flops / self.peak if self.peak else None
        limit = limiting_factor(self.on_cuda, waiting, 1 - waiting, tally.blocked / tally.seconds)
        return Throughput(rate, waiting, use, limit)


class _Tally:
    """Seconds of a stretch of training, and how they were spent."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.waiting, self.blocked = 0, 0.0, 0.0, 0.0

    def add(self, other: "_Tally") -> None:
        self.steps += other.steps
        self.seconds += other.seconds
        self.waiting += other.waiting
        self.blocked += other.blocked

    def add_waits(self, marks: list[tuple[Any, Any]], on_cuda: bool) -> None:
        """Take the waits that are over out of ``marks``: events still ahead of the device stay for the next time."""
        while marks and (not on_cuda or marks[0][1].query()):
            free, there = marks.pop(0)
            self.waiting += free.elapsed_time(there) / 1000 if on_cuda else there - free


def matrix_rate(compute: Compute, size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of a ``size`` x ``size`` matrix product of random numbers in the run's number format, measured."""
    import torch

    device = compute.device
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    a, b = (torch.randn(size, size, device=device).to(compute.image_dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    wait()
    return 2.0 * size**3 * repeats / (time.perf_counter() - began)


def training_flops(backbone: "nn.Module", size: int) -> float:
    """Operations an image of ``backbone``'s forward and backward pass at ``size`` px, frozen parts left out backwards.

    Counted by torch on a copy without memory (the meta device), so it holds for any network, whatever is frozen.
    """
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from hrfr_fast.model.backbone import Backbone
    from hrfr_fast.model.domain_norm import LOW, in_domain

    use_lasting_cache()  # counting loads torch's compiler, which would settle for a directory in /tmp
    network = copy.deepcopy(backbone).to("meta")
    for part in network.modules():
        if isinstance(part, Backbone):
            part.activation_checkpointing = False  # what is computed twice is no more work done
            part.gpu_kernels = False  # the same operations, which torch can count
    counted = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=counted) as counter, in_domain(network, LOW):
        embeddings = network(torch.empty(2, 3, size, size, device="meta"))
        if embeddings.requires_grad:
            embeddings.sum().backward()
    return counter.get_total_flops() / 2


def _convolution_backward_flops(
    gradient: "torch.Size", maps: "torch.Size", weights: "torch.Size", *more: Any, out_shape: Any = None, **_: Any
) -> int:
    """Operations of a convolution's gradients by input and weights, from the shapes that torch's counter hands over.

    Each is as many as the forward pass has. Torch's own formula takes every convolution to be without groups.
    """
    wanted = more[-1][:2]  # output_mask: by input, by weights, by bias
    return 2 * math.prod(gradient) * math.prod(weights[1:]) * sum(wanted)
