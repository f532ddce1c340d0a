"""Bound on the number of steps that the host may launch ahead of the device."""

from collections import deque

import torch

STEPS_AHEAD = 2  # enough to hide the time that launching takes, few enough to hold little memory


class Pace:
    """Waits on CUDA, at each ``step()``, for the work launched before the call STEPS_AHEAD steps ago.

    Launching a captured step takes the host 1 ms, computing it the device many: without a bound the host would be
    tens of batches ahead, each of which holds its memory (127 MB at 1,024 x 144 px) until its step has run, and arrays
    that are read without a copy would be overwritten before they are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._steps: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """Mark the work launched on the current stream so far, and wait for that of STEPS_AHEAD calls ago."""
        if self._device is None:
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._steps.append(event)
        if len(self._steps) > STEPS_AHEAD:
            self._steps.popleft().synchronize()
