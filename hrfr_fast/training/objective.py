"""What two-view regimes minimise: the head's margin loss over all rows, and weighted terms between views of a face.

L = margin loss + sum of weight * term. With low- and high-resolution identities disjoint nothing in the margin loss
alone penalises an axis of true resolution; the terms do. Each term's value is kept for the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from hrfr_fast.training.two_view_losses import contrast_loss, feature_distance, relation_distance, view_distance


class ReferenceEmbeddings(NamedTuple):
    """What networks without gradient make of a micro-batch (``references.py``); None where there is no such network."""

    candidates: Tensor | None = None
    """[M, D]: by the moving copy, rows of native low resolution, sharp views, then the queue."""
    candidate_labels: Tensor | None = None
    """int64 [M]; -1: a place of the queue that is still empty."""
    teacher: Tensor | None = None
    """[K, D]: the sharp views by the teacher."""


class ViewRows(NamedTuple):
    """The rows of a micro-batch, and what else is known of them."""

    embeddings: Tensor
    """[B, D]."""
    labels: Tensor
    """int64 [B]."""
    pairs: int
    references: ReferenceEmbeddings

    @property
    def views(self) -> Tensor:
        """[2K, D]: sharp, degraded, sharp, ..."""
        return self.embeddings[-2 * self.pairs :]


@dataclass(frozen=True)
class Consistency:
    """The symmetric pull of both views: mean(1 - cos)."""

    weight: float
    name = "consistency"

    def __call__(self, rows: ViewRows) -> Tensor:
        return view_distance(rows.views)


@dataclass(frozen=True)
class Contrast:
    """Stop-gradient contrast of the degraded view, with scale ``scale``."""

    weight: float
    scale: float
    name = "contrast"

    def __call__(self, rows: ViewRows) -> Tensor:
        found = rows.references
        assert found.candidates is not None and found.candidate_labels is not None
        first = len(rows.labels) - 2 * rows.pairs
        labels = rows.labels[first + 1 :: 2]
        return contrast_loss(rows.views[1::2], labels, found.candidates, found.candidate_labels, first, self.scale)


@dataclass(frozen=True)
class Features:
    """Distance of both views to the teacher's embedding of the sharp one."""

    weight: float
    name = "distillation"

    def __call__(self, rows: ViewRows) -> Tensor:
        assert rows.references.teacher is not None
        return feature_distance(rows.views, rows.references.teacher)


@dataclass(frozen=True)
class Relations:
    """Distance of the degraded views' relations to the teacher's."""

    weight: float
    name = "relations"

    def __call__(self, rows: ViewRows) -> Tensor:
        assert rows.references.teacher is not None
        return relation_distance(rows.views, rows.references.teacher)


Term = Consistency | Contrast | Features | Relations


class TwoViewLoss(nn.Module):
    """The loss of micro-batches whose last ``2 * pairs`` rows are pairs of views: sharp, degraded, sharp, ...

    Args:
        head: (embeddings, labels, step) to the margin loss.
        pairs: of views in each micro-batch, >= 1.
        terms: what is added to it, each with its weight.
        device: of the losses.

    Attributes:
        sums: float32 [1 + terms], the margin loss and each term, unweighted, summed over the micro-batches since it
            were last set to 0. A plain tensor, written in place: no weight, and at one address for a CUDA graph.
    """

    def __init__(self, head: nn.Module, pairs: int, terms: Sequence[Term], device: torch.device | None = None) -> None:
        super().__init__()
        self.head, self.pairs, self.terms = head, pairs, tuple(terms)
        self.sums = torch.zeros(1 + len(self.terms), device=device)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the entries of ``sums``."""
        return ("margin", *(term.name for term in self.terms))

    def forward(
        self, embeddings: Tensor, labels: Tensor, step: int | Tensor = 0, references: ReferenceEmbeddings | None = None
    ) -> Tensor:
        """A float32 scalar; the first arguments as of the heads."""
        loss = cast(Tensor, self.head(embeddings, labels, step))
        values = [loss]
        rows = ViewRows(embeddings, labels, self.pairs, references or ReferenceEmbeddings())
        for term in self.terms:
            values.append(term(rows))
            loss = loss + term.weight * values[-1]
        self.sums.add_(torch.stack(values).detach())
        return loss
