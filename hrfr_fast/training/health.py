"""Whether the loss of a run goes where it should: warnings, each once and with its numbers, that stop nothing."""

import math

import numpy as np
from numpy.typing import NDArray

BEGUN = 0.2
"""Share of the run, the warm-up among it, before which nothing is said."""
RECENT = 50
"""Steps over which a loss is averaged."""
FEWEST = 200
"""Steps before which nothing is said."""
RISEN = 1.5
"""A loss so many times the lowest one diverges."""
FLAT = 0.01
"""A loss that falls by a smaller share from one half of the steps that are watched to the other stands still."""
WATCHED = 4 * RECENT
"""Steps that are watched; a twentieth of the run where that is more."""
UNMOVED, AT_GUESS = 0.85, 0.03
"""A loss that stands still has learnt nothing above this share of the first one, or so near to that of guessing."""


class LossWatch:
    """Sees every loss of a run and says what is wrong with them.

    Args:
        classes: identities that are told apart.
        steps: of the whole run.
        steps_an_epoch: one pass over the faces; before it ends, an easy face has not been seen twice.
    """

    def __init__(self, classes: int, steps: int, steps_an_epoch: float) -> None:
        self._guess = math.log(max(classes, 1))
        self._first_due = max(FEWEST, BEGUN * steps)
        self._stuck_due = max(self._first_due, 2 * steps_an_epoch)
        self._watched = max(WATCHED, steps // 20)
        self._first: list[float] = []
        self._recent: list[float] = []
        self._lowest, self._lowest_step = math.inf, 0
        self._said: set[str] = set()

    def see(self, step: int, losses: NDArray[np.floating]) -> list[str]:
        """Take the ``losses`` [n] of the steps up to ``step``; warnings, most often none."""
        values = losses.tolist()
        self._first += values[: RECENT - len(self._first)]
        self._recent = [*self._recent, *values][-self._watched :]
        if len(self._recent) < WATCHED:
            return []
        first, now = (float(np.mean(part)) for part in (self._first, self._recent[-RECENT:]))
        warnings = []
        if step >= self._first_due and now > RISEN * self._lowest:
            warnings = self._once(
                "rising",
                f"the loss has risen to {now:.3g} (mean of {RECENT} steps up to {step:,}) from {self._lowest:.3g}"
                f" around step {self._lowest_step:,}: it diverges",
            )
        elif step >= self._stuck_due and len(self._recent) == self._watched and self._is_stuck(first, now):
            warnings = self._once(
                "stuck",
                f"the loss stands still at {now:.4g} (mean of {RECENT} steps up to {step:,}; {first:.4g} over the first"
                f" {RECENT}); guessing among the identities gives {self._guess:.4g}, the logarithm of their number:"
                " it seems that nothing is learnt",
            )
        if now < self._lowest:
            self._lowest, self._lowest_step = now, step
        return warnings

    def _is_stuck(self, first: float, now: float) -> bool:
        before, after = (float(np.mean(half)) for half in np.array_split(self._recent, 2))
        still = before - after < FLAT * before
        as_bad = now > UNMOVED * first or abs(now - self._guess) < AT_GUESS * self._guess
        return still and as_bad and now > (1 - 2 * AT_GUESS) * self._guess

    def _once(self, kind: str, text: str) -> list[str]:
        if kind in self._said:
            return []
        self._said.add(kind)
        return [text]
