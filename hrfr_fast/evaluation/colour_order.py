"""Whether a network wants the colours of faces in the other order: measured, since nothing in its weights says so.

A network that was trained on blue, green, red and is fed red, green, blue still works, only worse.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hrfr_fast.evaluation.embedding import embed
from hrfr_fast.format.reader import PairSet

if TYPE_CHECKING:
    from hrfr_fast.runtime.device import Compute

MOST = 300  # pairs of each kind: 1,200 faces in two orders, a minute for ir50 on two cores
CLEAR = 3.0  # standard errors between the two orders


@dataclass(frozen=True)
class ColourCheck:
    """How well genuine and impostor pairs are told apart in both orders of the channels."""

    pairs: int
    as_adopted: float
    """Area under the ROC curve, 0.5 to 1, in the order that the network was adopted with."""
    swapped: float
    """In the other order."""
    z: float
    """(swapped - as_adopted) in standard errors of this paired difference."""

    @property
    def wrong(self) -> bool:
        """Whether the other order is clearly better."""
        return self.z > CLEAR

    def __str__(self) -> str:
        found = f"AUC {self.as_adopted:.4f} on {self.pairs:,} pairs, {self.swapped:.4f} with red and blue exchanged"
        if self.wrong:
            return f"{found}: the other order of colours is clearly better"
        if self.z < -CLEAR:
            return f"{found}: the order of colours is right"
        return f"{found}: these pairs do not tell which order of colours is right"


class _Swapped(nn.Module):
    """A network that is fed with red and blue exchanged."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(images.flip(1)))


def check_colours(network: nn.Module, size: int, pairs: PairSet, compute: "Compute") -> ColourCheck:
    """Compare both orders on up to ``MOST`` pairs of each kind, evenly spread over ``pairs``.

    Args:
        network: [B, 3, size, size] to [B, D].
    """
    chosen = np.concatenate([_spread(np.flatnonzero(pairs.same == kind)) for kind in (True, False)])
    records, rows = np.unique(np.stack([2 * chosen, 2 * chosen + 1]), return_inverse=True)
    rows = rows.reshape(2, -1)

    def scores(fed: nn.Module) -> NDArray[np.float32]:
        embeddings = embed(fed, pairs.split, size, compute, records=records)
        return np.asarray(np.einsum("pd,pd->p", embeddings[rows[0]], embeddings[rows[1]]))

    return compared(scores(network), scores(_Swapped(network)), pairs.same[chosen])


def _spread(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``MOST`` of ``found``, evenly spread."""
    count = min(len(found), MOST)
    return found[(np.arange(count) * len(found)) // max(count, 1)]


def compared(first: NDArray[np.floating], second: NDArray[np.floating], same: NDArray[np.bool_]) -> ColourCheck:
    """Two scores of the same pairs by their areas under the ROC curve (DeLong et al., Biometrics 1988, section 3).

    The area is the mean over genuine pairs of the share of impostor pairs that score lower, ties by half. The variance
    of the paired difference is the sum of those of both kinds' shares, each over its number of pairs.
    """
    genuine_shares, impostor_shares = zip(*(_shares(scores, same) for scores in (first, second)), strict=True)
    first_area, second_area = (float(shares.mean()) for shares in genuine_shares)
    variance = sum(np.var(b - a, ddof=1) / len(a) for a, b in (genuine_shares, impostor_shares))
    z = float((second_area - first_area) / np.sqrt(variance)) if variance > 0 else 0.0
    return ColourCheck(len(same), first_area, second_area, z)


def _shares(scores: NDArray[np.floating], same: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each genuine pair the share of impostor pairs below it, of each impostor pair that of genuine pairs above."""
    wins = (scores[same][:, None] > scores[~same]) + 0.5 * (scores[same][:, None] == scores[~same])
    return wins.mean(1), wins.mean(0)
