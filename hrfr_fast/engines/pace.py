"""Keeping the host close to the device it feeds."""

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STEPS_AHEAD = 2  # steps that may wait on the device: enough to hide the host, few enough to hold little memory


class Pace:
    """Call ``step()`` when all work on a batch is launched: on CUDA it waits for that on the batch STEPS_AHEAD before it.

    Launching a captured step takes the host 1 ms, computing it the device many: without a bound the host would be
    tens of batches ahead, each of which holds its memory (127 MB at 1,024 x 144 px) until its step has run, and arrays
    that are read without a copy would be written anew while they are still to be read.
    """

    def __init__(self, device: "torch.device") -> None:
        self._device = device if device.type == "cuda" else None
        self._steps: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """Note what was launched on the current stream so far, and wait for what was launched STEPS_AHEAD calls ago."""
        if self._device is None:
            return
        import torch

        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._steps.append(event)
        if len(self._steps) > STEPS_AHEAD:
            self._steps.popleft().synchronize()
