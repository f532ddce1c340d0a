"""A whole training step as one CUDA graph: one launch instead of about a thousand.

At 32 px the device needs about 3 us an image while the host needs about 10 us to launch a kernel: a step of 1,000
kernels is bound by the host for any batch below some thousand images.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, optim

WARM_UP = 3  # steps before the capture: cuDNN chooses, workspaces and momenta are made
WARM_UP_OF_RANKS = 11  # DDP times and logs its first ten iterations with events, which a capture cannot hold


def graphs_choice(choice: str, compute: Compute) -> str:
    """``auto | on | off``, with auto turned into off without CUDA. Raises UsageError for ``on`` there."""
    if compute.device.type == "cuda":
        return choice
    if choice == "on":
        raise UsageError("--graphs on: CUDA graphs need an NVIDIA GPU; use --graphs auto or off")
    return "off"


class StepGraph:
    """One step, captured on batches of one shape and replayed on copies of others.

    Args:
        take: takes a step on (images, labels, step number as an int64 scalar on the device) and gives its loss. It
            must have been warmed up on another stream, and may not make the host wait.
        images, labels: an example batch, whose shapes, types and memory format stay.

    Raises:
        Exception: what ``take`` or the end of the capture raised: something cannot be captured, or memory ran out.
            The current stream, the allocator and the random generator are then as without a capture.
    """

    def __init__(self, take: "Callable[[Tensor, Tensor, Tensor], Tensor]", images: "Tensor", labels: "Tensor") -> None:
        import torch

        self.images, self.labels = images.clone(), labels.clone()  # clone keeps channels-last
        self.number = torch.zeros((), dtype=torch.int64, device=images.device)
        self.graph = torch.cuda.CUDAGraph()
        self.loss = self._capture(take)

    def _capture(self, take: "Callable[[Tensor, Tensor, Tensor], Tensor]") -> "Tensor":
        import torch

        stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
        ended, first = False, None
        try:
            # thread_local: a data thread of DALI's or ours may allocate while this one captures.
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                try:
                    loss = take(self.images, self.labels, self.number)
                except Exception as error:
                    first = error
                    raise
            ended = True
            return loss
        except Exception as error:
            raise first or error from None  # leaving a capture that failed raises too, and says less
        finally:
            first = None  # an error and this frame would keep each other, and what the step held, in memory
            torch.cuda.set_stream(stream)  # torch.cuda.graph leaves its own current where its end fails
            if not ended:
                _clear_up(self.graph, pool, stream.device.index)

    def fits(self, images: "Tensor", labels: "Tensor") -> bool:
        """Whether the batch has the captured shapes and type."""
        same_type = images.dtype == self.images.dtype
        return same_type and images.shape == self.images.shape and labels.shape == self.labels.shape

    def replay(self, images: "Tensor", labels: "Tensor", number: int) -> "Tensor":
        """Take step ``number``; the loss, a float32 scalar of its own."""
        self.images.copy_(images, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.number.fill_(number)
        self.graph.replay()
        return self.loss.clone()  # the next replay overwrites it


# Graphs whose capture failed: torch's allocator for pinned memory goes on asking them whether it is theirs to serve.
_failed: "list[torch.cuda.CUDAGraph]" = []


def _clear_up(graph: "torch.cuda.CUDAGraph", pool: "tuple[int, int]", device: int) -> None:
    """Undo in torch what a capture begins and ends only if CUDA ends it well.

    While its allocator takes a capture to be underway, no block that another stream used is handed out again, and the
    memory pool of the graph is kept for ever. A generator that takes itself to be captured refuses to draw.
    """
    import torch

    try:
        graph.pool()  # there only after a capture that ended; the graph's destructor gives it back
    except RuntimeError:
        _failed.append(graph)
        for give_back in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
            with suppress(RuntimeError):  # what did not begin, or has ended
                give_back(device, pool)
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())


def warm_up(
    take: "Callable[[Tensor, Tensor, Tensor], Tensor]", images: "Tensor", labels: "Tensor", times: int = WARM_UP
) -> None:
    """Run ``take`` ``times`` times on a side stream, as capture asks; whatever happens, the current stream waits."""
    import torch

    number = torch.zeros((), dtype=torch.int64, device=images.device)
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    try:
        with torch.cuda.stream(side):
            for _ in range(times):
                take(images, labels, number)
    finally:
        current.wait_stream(side)


def learning_rates_on_device(optimizer: "optim.Optimizer", like: "Tensor") -> None:
    """Make each group's learning rate a tensor: a number would be captured as a constant.

    An optimiser built on CUDA has them already; one restored from a CPU's checkpoint does not.
    """
    import torch

    for group in optimizer.param_groups:
        if not isinstance(group["lr"], torch.Tensor) or group["lr"].device != like.device:
            group["lr"] = torch.tensor(float(group["lr"]), device=like.device)
