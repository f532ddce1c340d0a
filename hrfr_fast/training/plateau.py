"""Training until it no longer helps: the rate falls tenfold on a plateau, the run ends at the third.

He et al., CVPR 2016, section 3.4, cut the rate "by 10 when the error plateaus". What is watched is the error on
development pairs where there are any, else the mean training loss since the last look: never test pairs.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

CUTS = 2  # the rate ends at a hundredth
LEAST_GAIN = 0.01  # relative


@dataclass
class Plateau:
    """Watches a number that should fall.

    ``patience``: looks without a gain of 1 % that make a plateau; 0: nothing is watched and ``over`` is never true.
    """

    patience: int
    best: float = math.inf
    stale: int = 0
    plateaus: int = 0
    losses: list[float] = field(default_factory=list)
    """Training losses since the last look; kept one by one, so that a resumed run sums the same numbers."""

    def look(self, development_error: float | None) -> None:
        """Judge the error, in [0, 1], or the losses since the last look where that is None."""
        losses, self.losses = self.losses, []
        if not self.patience or (development_error is None and not losses):
            return
        value = math.fsum(losses) / len(losses) if development_error is None else development_error
        if value < self.best * (1 - LEAST_GAIN):
            self.best, self.stale = value, 0
            return
        self.stale += 1
        if self.stale >= self.patience:
            self.plateaus, self.stale = self.plateaus + 1, 0

    @property
    def factor(self) -> float:
        """Of the learning rate: 1, 0.1, 0.01."""
        return float(0.1 ** min(self.plateaus, CUTS))

    @property
    def over(self) -> bool:
        return self.plateaus > CUTS

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint; ``Plateau(**state)`` continues."""
        return asdict(self)
