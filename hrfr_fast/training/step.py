"""One optimiser step: forward, backward, update.

The trainer decides what is trained and how long; this file decides how a step is executed, and nothing else. The loss
stays on the device: reading it would make the host wait.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hrfr_fast.engines.base import Batch
from hrfr_fast.training.device import Compute

if TYPE_CHECKING:
    from torch import Tensor, nn, optim
    from torch.amp import GradScaler

    Objective = Callable[[Tensor, Tensor, int], Tensor]


class TrainStep:
    """Takes steps on batches, one call each.

    Args:
        backbone: [B, 3, S, S] images to [B, D] embeddings.
        objective: (embeddings, int64 labels [B], steps taken so far) to a scalar float32 loss, the batch's mean.
        optimizer: over every parameter that is to move.
        scaler: of gradients, for fp16; disabled otherwise.
        compute: device and autocast type.
        accumulate: micro-batches a step, which divide the batch; BatchNorm sees each alone.
        clip_gradient: largest norm of all gradients together; 0: no clipping.
    """

    def __init__(
        self,
        backbone: "nn.Module",
        objective: "Objective",
        optimizer: "optim.Optimizer",
        scaler: "GradScaler",
        compute: Compute,
        *,
        accumulate: int = 1,
        clip_gradient: float = 0.0,
    ) -> None:
        self.backbone, self.objective, self.optimizer = backbone, objective, optimizer
        self.scaler, self.compute = scaler, compute
        self.accumulate, self.clip_gradient = accumulate, clip_gradient

    def __call__(self, batch: Batch, number: int) -> "Tensor":
        """Take step ``number`` (0-based) on ``batch``; returns the loss, a float32 scalar on the device."""
        import torch

        total = torch.zeros((), device=self.compute.device)
        parts = self.accumulate
        for images, labels in zip(batch.images.chunk(parts), batch.labels.chunk(parts), strict=True):
            with self.compute.autocast():
                embeddings = self.backbone(images)
            loss = self.objective(embeddings, labels, number) / parts
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self._update()
        return total

    def _update(self) -> None:
        import torch

        if self.clip_gradient:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
