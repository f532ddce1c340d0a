"""What crossres regimes minimise: the head's margin loss over all views, and the distance between two views of a face.

L = margin loss + lambda * mean over pairs (1 - cos(e_sharp, e_degraded)). With low- and high-resolution identities
disjoint nothing in the margin loss alone penalises an axis of true resolution; the second term does.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConsistencyLoss(nn.Module):
    """The loss of micro-batches whose last ``2 * pairs`` rows are pairs of views: sharp, degraded, sharp, ...

    Args:
        head: (embeddings, labels, step) to the margin loss.
        pairs: of views in each micro-batch, >= 1.
        consistency: lambda, >= 0.
    """

    def __init__(self, head: nn.Module, pairs: int, consistency: float) -> None:
        super().__init__()
        self.head, self.pairs, self.consistency = head, pairs, consistency

    def forward(self, embeddings: Tensor, labels: Tensor, step: int | Tensor = 0) -> Tensor:
        """A float32 scalar; arguments as of the heads."""
        loss = cast(Tensor, self.head(embeddings, labels, step))
        return loss + self.consistency * view_distance(embeddings[-2 * self.pairs :])


def view_distance(embeddings: Tensor) -> Tensor:
    """mean(1 - cos) of rows (0, 1), (2, 3), ... of [2K, D], not normalised; a float32 scalar in [0, 2]."""
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = functional.normalize(embeddings.float())
        return (1 - (directions[0::2] * directions[1::2]).sum(dim=1)).mean()
