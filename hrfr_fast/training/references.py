"""Networks without gradient that a run compares its own with: a slowly moving copy of it, and a frozen teacher.

Both are in evaluation mode: their embeddings do not depend on who else is in the batch, so nothing of the other rows
leaks through batch statistics, and a resumed run gets the same bits. The copy normalises with the moving average of
BatchNorm's running statistics, which are averaged as its weights are.

Each rank has a copy, and with it the faces of its own share of the batch as negatives: nothing but the copy's running
statistics is exchanged. A checkpoint holds the queues of all ranks, and the ranks that go on from it deal them out
among themselves.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.model.domain_norm import HIGH, domains_of
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.training.averaging import WeightAverage
from hrfr_fast.training.objective import ReferenceEmbeddings

if TYPE_CHECKING:
    from hrfr_fast.training.data_parallel import DataParallel

EMPTY = -1
"""Label of a place of the queue that no face has taken yet."""
QUEUES = ("queue", "queue_labels")
"""Buffers of ``MovingCopy`` that each rank fills by itself."""


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


def in_order_of_age(queues: Tensor) -> Tensor:
    """[ranks * L, ...]: the rows of all ranks' queues [ranks, L, ...], the oldest of every rank first."""
    return queues.transpose(0, 1).flatten(0, 1)


def dealt(rows: Tensor, ranks: Ranks, own: Tensor) -> Tensor:
    """What of ``rows``, as ``in_order_of_age`` gives them, this rank goes on with.

    It is one row of as many as there are ranks, and the newest of these that its queue ``own`` [L, ...] takes. As many
    ranks as before get what each had; more ranks fill theirs in part and keep ``own`` in front of it.
    """
    share = rows[ranks.rank :: ranks.count].to(own)
    share = share[max(0, len(share) - len(own)) :]
    return torch.cat([own[: len(own) - len(share)], share])


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

    def update(self, step: int, parallel: "DataParallel") -> None:
        """After step ``step`` (0-based): let the copy follow the network.

        The ranks' copies stay equal: the next step embeds with their running statistics, which follow those that a rank
        has of its own samples. Else a run would depend on when the network's are averaged, which is when it is saved.
        """
        if self.copy is not None:
            self.copy.average.update(step)
            parallel.average_buffers([self.copy.backbone])

    def state(self, parallel: "DataParallel") -> dict[str, Any] | None:
        """What a checkpoint has to hold: the copy, and the queues of all ranks, each of which calls this.

        The teacher is known by its digest.
        """
        if self.copy is None:
            return None
        queues = {name: in_order_of_age(parallel.of_all(getattr(self.copy, name).cpu())) for name in QUEUES}
        return {**self.copy.state_dict(), **queues}

    def restore(self, state: dict[str, Any] | None, ranks: Ranks = ALONE) -> None:
        """What ``state`` gave, written in place; the queues dealt out among ``ranks``."""
        if self.copy is not None and state is not None:
            own = {name: dealt(state[name], ranks, getattr(self.copy, name)) for name in QUEUES}
            self.copy.load_state_dict({**state, **own})
