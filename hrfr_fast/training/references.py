"""Networks without gradient that a run compares its own with: a slowly moving copy of it, and a frozen teacher.

Both are in evaluation mode: their embeddings do not depend on who else is in the batch, so nothing of the other rows
leaks through batch statistics, and a resumed run gets the same bits. The copy normalises with the moving average of
BatchNorm's running statistics, which are averaged as its weights are.

Each rank has a copy, and with it the faces of its own share of the batch as negatives: nothing is exchanged.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.model.domain_norm import HIGH, domains_of
from hrfr_fast.runtime.device import Compute
from hrfr_fast.training.averaging import WeightAverage
from hrfr_fast.training.objective import ReferenceEmbeddings

EMPTY = -1
"""Label of a place of the queue that no face has taken yet."""


class MovingCopy(nn.Module):
    """A moving average of a network, which embeds native and sharp rows, and a queue of its past embeddings.

    Args:
        backbone: the trained network, on its device.
        decay: of the average, see ``WeightAverage``.
        length: of the queue, >= 0; it holds the newest rows.
        dimension: of embeddings.
    """

    queue: Tensor
    queue_labels: Tensor

    def __init__(self, backbone: nn.Module, decay: float, length: int, dimension: int, device: torch.device) -> None:
        super().__init__()
        self.average = WeightAverage(backbone, nn.Identity(), decay)
        self.backbone = self.average.backbone
        self.register_buffer("queue", torch.zeros(length, dimension, device=device))
        self.register_buffer("queue_labels", torch.full((length,), EMPTY, device=device))

    def embed(self, images: Tensor, labels: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
        """Candidates [L + K + queue, D] and their labels of a micro-batch of L native rows and K pairs.

        The micro-batch's rows go into the queue afterwards.
        """
        native = len(images) - 2 * pairs
        shown = torch.cat([images[:native], images[native::2]])
        names = torch.cat([labels[:native], labels[native::2]])
        domains = domains_of(self.backbone)
        if domains is not None:
            domains.native, domains.pairs, domains.of_all = native, 0, "" if native else HIGH
        embeddings = functional.normalize(self.backbone(shown).float())
        candidates, known = torch.cat([embeddings, self.queue]), torch.cat([names, self.queue_labels])
        if length := len(self.queue):
            self.queue.copy_(torch.cat([self.queue, embeddings])[-length:])
            self.queue_labels.copy_(torch.cat([self.queue_labels, names])[-length:])
        return candidates, known


class References(nn.Module):
    """The networks of a run that get no gradient.

    Args:
        pairs: of views in each micro-batch.
        copy: for contrast; None: none.
        teacher: for distillation, takes sharp views; None: none.
    """

    def __init__(self, pairs: int, copy: MovingCopy | None, teacher: nn.Module | None, compute: Compute) -> None:
        super().__init__()
        self.pairs, self.copy, self.compute = pairs, copy, compute
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        domains = domains_of(teacher) if teacher is not None else None
        if domains is not None:
            domains.of_all = HIGH

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor) -> ReferenceEmbeddings:
        """Embeddings of a micro-batch, [B, 3, S, S] and int64 [B]."""
        candidates = known = goals = None
        with self.compute.autocast():
            if self.copy is not None:
                candidates, known = self.copy.embed(images, labels, self.pairs)
            if self.teacher is not None:
                goals = self.teacher(images[len(images) - 2 * self.pairs :: 2]).float()
        return ReferenceEmbeddings(candidates, known, goals)

    def update(self, step: int) -> None:
        """After step ``step`` (0-based): let the copy follow the network."""
        if self.copy is not None:
            self.copy.average.update(step)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint has to hold: the copy and its queue. The teacher is known by its digest."""
        return self.copy.state_dict() if self.copy is not None else None

    def restore(self, state: dict[str, Any] | None) -> None:
        """What ``state`` gave, written in place."""
        if self.copy is not None and state is not None:
            self.copy.load_state_dict(state)
