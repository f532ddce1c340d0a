"""Losses collected on the device and read in stretches, without draining it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class LossBuffer:
    """The losses of a run's steps, cut into stretches of one log line each.

    On CUDA ``read`` keeps the newest stretch back: the device still has those steps to do while the host writes the
    line of the ones before. Reading the newest would let the device run dry at every line, for 1 to 2 ms of the 70 ms
    that ten steps at 32 px are meant to take.
    """

    def __init__(self) -> None:
        self._open: list[Tensor] = []
        self._closed: list[_Stretch] = []

    def __len__(self) -> int:
        """Losses of the stretch that is open."""
        return len(self._open)

    def add(self, loss: "Tensor") -> None:
        """Keep a step's loss, a scalar on the device."""
        self._open.append(loss)

    def close(self, line: dict[str, Any], over_ranks: "Callable[[Tensor], Tensor]" = lambda losses: losses) -> None:
        """End the open stretch, which ``line`` describes, and send its losses on their way to the host.

        ``over_ranks``: gives the means over ranks of losses on the device.
        """
        import torch

        losses, copied = over_ranks(torch.stack(self._open)), None
        self._open = []
        if losses.device.type == "cuda":
            losses = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._closed.append(_Stretch(line, losses, copied))

    def read(self, everything: bool = False) -> list[tuple[dict[str, Any], NDArray[np.float32]]]:
        """Line and losses, float32 [n], of each closed stretch that was not read yet.

        ``everything``: the newest too; waits for the device.
        """
        ready = [stretch for stretch in self._closed if everything or stretch.copied is None]
        ready = ready or self._closed[:-1]
        self._closed = self._closed[len(ready) :]
        return [(stretch.line, stretch.values()) for stretch in ready]


class _Stretch(NamedTuple):
    line: dict[str, Any]
    losses: "Tensor"
    copied: Any
    """A CUDA event after which ``losses`` may be read; None: at once."""

    def values(self) -> NDArray[np.float32]:
        if self.copied is not None:
            self.copied.synchronize()
        array: NDArray[np.float32] = self.losses.numpy()
        return array
