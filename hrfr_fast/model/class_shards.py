"""The classes of a margin-softmax head over ranks: each rank holds the vectors of a block of them, and no other rank's.

Every rank computes the logits of the whole global batch over its own classes. With n ranks, B samples on each, C
classes and D dimensions, a rank holds C D / n numbers each of weights, gradient and momentum (4 bytes a number) and
4 n B D + 12 n B bytes of the batch; of its cosines only the chunks of ``class_chunks`` exist. In a step it receives
the embeddings of all (n B D numbers in the type in which they are) and their labels, exchanges three vectors of n B
numbers in float32 (largest logit, sum, the target's cosine), and sums the embeddings' gradients over ranks (n B D in
float32). None of that grows with the number of classes; the class vectors and their gradient never travel. Replicated,
the gradient alone would be 4 C D bytes a step: 2 GB for a million classes of 512 dimensions.

This is how Deng et al. train ("ArcFace", CVPR 2019, section 3.2, parallel acceleration).
"""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from hrfr_fast.model.peers import Peers
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from hrfr_fast.model.heads import MarginHead
    from hrfr_fast.model.partial_fc import ClassSampling

INITIAL_DEVIATION = 0.01
ROWS_AT_A_TIME = 16384
"""Rows drawn at a time where only some are kept; a multiple of 16, which torch's generator draws together."""


def rows_of(rank: int, ranks: int, classes: int) -> range:
    """The classes, by their number among all, that ``rank`` holds: one block; blocks differ by at most one class.

    Raises UsageError where there are more ranks than classes.
    """
    if classes < ranks:
        raise UsageError(
            f"{ranks} ranks cannot share a head of {classes} identities, each needs at least one; "
            "leave --shard-head out or start fewer ranks"
        )
    return range(classes * rank // ranks, classes * (rank + 1) // ranks)


def initial_rows(classes: int, size: int, rows: range) -> Tensor:
    """Rows of the [classes, size] matrix of normal numbers that torch's generator would draw now, float32.

    The generator is left as after the whole matrix, whichever rows are kept, and the rest is never in memory.
    """
    if len(rows) == classes:
        return nn.init.normal_(torch.empty(classes, size), std=INITIAL_DEVIATION)
    kept, begin = torch.empty(len(rows), size), 0
    while begin < classes:
        end = begin + ROWS_AT_A_TIME
        if classes - end < ROWS_AT_A_TIME:  # the last numbers are drawn in another way, so the rest in one piece
            end = classes
        drawn = nn.init.normal_(torch.empty(end - begin, size), std=INITIAL_DEVIATION)
        first, last = max(begin, rows.start), min(end, rows.stop)
        if first < last:
            kept[first - rows.start : last - rows.start] = drawn[first - begin : last - begin]
        begin = end
    return kept


class ClassShard:
    """Which classes a head's weight holds, who holds the others, and the loss over all of them.

    Args:
        classes: of all ranks together.
        peers: the ranks; their blocks are those of ``rows_of``.
    """

    sampling: "ClassSampling | None" = None
    """Where only some classes take part in a step (Partial FC)."""

    def __init__(self, classes: int, peers: Peers) -> None:
        self.classes, self.peers = classes, peers
        self.rows = rows_of(peers.rank, peers.count, classes)

    def loss(
        self, head: "MarginHead", embeddings: Tensor, labels: Tensor, step: int | Tensor, reduction: str
    ) -> Tensor:
        """The loss of ``head`` as its ``forward`` gives it on one rank that has all samples and classes.

        Args:
            embeddings: [B, D] of this rank's samples; every rank has as many.
            labels: int64 [B], numbers among the classes of all ranks.
            reduction: "mean", over the samples of all ranks: a float32 scalar, the same on all; "none": [B].

        The gradient of ``weight`` is that of the mean over all ranks' samples, and complete. The embeddings' is that
        times the number of ranks, since DistributedDataParallel divides by it when it averages the network's.
        """
        everyone = cast(Tensor, _SamplesOfAll.apply(embeddings, self.peers))
        columns = self._columns(head, self.peers.gather(labels).flatten())
        weight, left_out = (head.weight, None) if self.sampling is None else self.sampling.weight_and_left_out(head)
        losses = head.chunked_losses(everyone, columns, step, weight, left_out=left_out, peers=self.peers)
        return losses.mean() if reduction == "mean" else cast(Tensor, _OwnLosses.apply(losses, self.peers))

    def _columns(self, head: "MarginHead", labels: Tensor) -> Tensor:
        """Row of the weight that stands for each label; where another rank has it, a number that is no row."""
        own = labels - self.rows.start
        return own if self.sampling is None else self.sampling.columns(head, own)


class _SamplesOfAll(torch.autograd.Function):
    """Embeddings of all ranks, float32 [ranks * B, D]; back goes the sum of what all ranks found for this one's."""

    @staticmethod
    def forward(context: Any, embeddings: Tensor, peers: Peers) -> Tensor:
        context.peers, context.dtype = peers, embeddings.dtype
        return peers.gather(embeddings).flatten(0, 1).float()  # they travel in the type in which they are

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        peers = context.peers
        own = peers.sum_of_own(gradients[0].unflatten(0, (peers.count, -1)))
        return own.mul_(peers.count).to(context.dtype), None


class _OwnLosses(torch.autograd.Function):
    """This rank's part of the losses that all ranks have; back goes, for each sample, what its own rank does with it,
    as a share of the mean over ranks."""

    @staticmethod
    def forward(context: Any, losses: Tensor, peers: Peers) -> Tensor:
        context.peers = peers
        return losses.unflatten(0, (peers.count, -1))[peers.rank].clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        peers = context.peers
        return peers.gather(gradients[0]).flatten() / peers.count, None
