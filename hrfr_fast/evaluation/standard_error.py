"""The standard error of a mean over people and seeds, and what it says of intervals and of the data needed.

The bootstrap of identities gives what the choice of people adds. The variance between seeds is added to it, less what
varies by person *and* by seed, which both of them hold (a crossed random-effects design; resampling seeds as well would
count it twice: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007). A percentile interval over
three to five seeds would be far too narrow, so the interval is the difference -+ t x the standard error, with
Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946) for the sum of two variances. The p-value is read off
the same t: it is below 0.05 exactly when the interval excludes 0.

On simulated decisions of known truth the standard error is 1.0 to 1.3 times the true one: an impostor pair weighs
w_i w_j, which overstates chance that belongs to the pair alone. It errs to the side of calling a difference chance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import LEVEL

FEWEST_SEEDS = 3
"""With fewer seeds only the checkpoints at hand are compared, not the regimes."""
POWER = 0.8
MOST_GROWTH = 1000.0
"""Times the identities or seeds at hand beyond which a study is not worth planning."""


@dataclass(frozen=True)
class StandardError:
    """Of a difference averaged over seeds, as variances by where they come from.

    With fewer than three seeds ``total`` is the people's part alone, conditional on the checkpoints.
    """

    people: float
    """From the choice of people, ``both`` included."""
    seeds: float
    """From the choice of seeds, ``both`` not included; 0 for one seed."""
    both: float
    """What varies by person and by seed; at most ``people``."""
    units: float
    """Identities (or pairs) drawn."""
    count: float
    """Seeds."""

    @property
    def total(self) -> float:
        """The standard error itself."""
        return float(np.sqrt(self.people + (self.seeds if self.count >= FEWEST_SEEDS else 0.0)))

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom; the variance seen between seeds holds ``both`` as well."""
        most = max(self.units - 1, 1)
        if self.count < FEWEST_SEEDS:
            return most
        spread = self.people**2 / most + (self.seeds + self.both) ** 2 / (self.count - 1)
        return self.total**4 / spread if spread else most

    def detectable(self, alpha: float = 1 - LEVEL) -> float:
        """The difference that is found at level ``alpha`` with 80 % power."""
        from scipy.stats import t

        return float(t.ppf(1 - alpha / 2, self.freedom) + t.ppf(POWER, self.freedom)) * self.total

    def grown(self, *, identities: float = 1.0, seeds: float = 1.0) -> "StandardError":
        """With so many times the identities or seeds. What varies by person *and* by seed shrinks with both."""
        both = self.both / (identities * seeds)
        return StandardError(
            (self.people - self.both) / identities + both, self.seeds / seeds, both,
            self.units * identities, self.count * seeds,
        )  # fmt: skip

    def factor_to_find(self, difference: float, growing: str, least: float, alpha: float = 1 - LEVEL) -> float | None:
        """How many times the "identities" or "seeds", ``least`` or more, find ``difference``; None beyond 1,000."""
        low, high = np.log(least), np.log(MOST_GROWTH)
        if abs(difference) < self.grown(**{growing: MOST_GROWTH}).detectable(alpha):
            return None
        for _ in range(20):
            middle = (low + high) / 2
            enough = abs(difference) >= self.grown(**{growing: float(np.exp(middle))}).detectable(alpha)
            low, high = (low, middle) if enough else (middle, high)
        return float(np.exp(high))


def standard_error(differences: NDArray[np.float64], gain: NDArray[np.float64], units: int) -> StandardError:
    """Of the difference averaged over seeds.

    Args:
        differences: float64 [R, S], a minus b in resample r with the checkpoints of seed s.
        gain: float64 [S], a minus b on the pairs as they are.
        units: identities drawn, for the degrees of freedom.
    """
    seeds = len(gain)
    people = float(differences.mean(axis=1).var(ddof=1))
    if seeds < 2:
        return StandardError(people, 0.0, 0.0, units, seeds)
    between = float(gain.var(ddof=1)) / seeds
    # An estimate, which chance can push past the bounds that its meaning sets.
    both = (float(differences.var(axis=0, ddof=1).mean()) - people) / (seeds - 1)
    both = min(max(both, 0.0), people)
    return StandardError(people, max(0.0, between - both), both, units, seeds)


def student_interval(difference: float, error: StandardError) -> tuple[float, float, float]:
    """(low, high, two-sided p) of a difference; a standard error of 0 gives the difference itself, p = 1 for none."""
    from scipy.stats import t

    if error.total == 0:
        return difference, difference, 1.0 if difference == 0 else 0.0
    reach = float(t.ppf((1 + LEVEL) / 2, error.freedom)) * error.total
    p = 2 * float(t.sf(abs(difference) / error.total, error.freedom))
    return difference - reach, difference + reach, p
