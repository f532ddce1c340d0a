"""The standard error of a mean over identities and seeds: confidence intervals, power, and the data needed.

The bootstrap of identities gives the variance that the choice of people adds. The variance between seeds is added to
it, less the interaction of person and seed, which both of them hold (a crossed random-effects design; resampling seeds
as well would count it twice: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007). A percentile
interval over three to five seeds would be far too narrow, so the interval is the difference -+ t x the standard error,
with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946) for the sum of two variances. The p-value is of
the same t distribution: it is below 0.05 exactly when the interval excludes 0.

On simulated decisions of known truth the standard error is 1.0 to 1.3 times the true one: an impostor pair weighs
w_i w_j, which overstates the variance that belongs to the pair alone. The tests are therefore conservative.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import LEVEL

FEWEST_SEEDS = 3
"""With fewer seeds only the checkpoints at hand are compared, not the regimes."""
POWER = 0.8
LARGEST_FACTOR = 1000.0
"""Times the identities or seeds at hand beyond which a study is not worth planning."""
FACTORS_TRIED = 40


@dataclass(frozen=True)
class StandardError:
    """The variance components of a difference averaged over seeds.

    With fewer than three seeds ``total`` is the part of the identities alone, conditional on the checkpoints.
    """

    identity_variance: float
    """From the choice of people, ``interaction_variance`` included."""
    seed_variance: float
    """From the choice of seeds, ``interaction_variance`` not included; 0 for one seed."""
    interaction_variance: float
    """What varies by person and by seed; at most ``identity_variance``."""
    units: float
    """Identities (or pairs) drawn."""
    seeds: float
    """Number of seeds."""

    @property
    def total(self) -> float:
        """The standard error itself."""
        return float(np.sqrt(self.identity_variance + (self.seed_variance if self.seeds >= FEWEST_SEEDS else 0.0)))

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's; the variance seen between seeds holds ``interaction_variance`` as well."""
        most = max(self.units - 1, 1)
        if self.seeds < FEWEST_SEEDS:
            return most
        between = self.seed_variance + self.interaction_variance
        spread = self.identity_variance**2 / most + between**2 / (self.seeds - 1)
        return self.total**4 / spread if spread else most

    def minimum_detectable_effect(self, alpha: float = 1 - LEVEL) -> float:
        """The smallest difference that is significant at level ``alpha`` with 80 % power."""
        from scipy.stats import t

        freedom = self.degrees_of_freedom
        return float(t.ppf(1 - alpha / 2, freedom) + t.ppf(POWER, freedom)) * self.total

    def scaled(self, *, identities: float = 1.0, seeds: float = 1.0) -> "StandardError":
        """With so many times the identities or seeds. What varies by person *and* by seed shrinks with both."""
        interaction = self.interaction_variance / (identities * seeds)
        return StandardError(
            (self.identity_variance - self.interaction_variance) / identities + interaction,
            self.seed_variance / seeds, interaction, self.units * identities,
            round(self.seeds * seeds, 6),  # 47 * (3 / 47) is less than three seeds
        )  # fmt: skip

    def factor_to_detect(self, difference: float, growing: str, least: float, alpha: float = 1 - LEVEL) -> float | None:
        """The fewest times the "identities" or "seeds", ``least`` or more, that detect ``difference``; None beyond
        1,000.

        More identities alone may detect less again: the variance between a few seeds is then most of what is left, and
        has few degrees of freedom. So the first of several factors is looked for before it is narrowed down.
        """

        def detects(factor: float) -> bool:
            return abs(difference) >= self.scaled(**{growing: factor}).minimum_detectable_effect(alpha)

        factors = np.geomspace(least, LARGEST_FACTOR, FACTORS_TRIED).tolist()
        first = next((place for place, factor in enumerate(factors) if detects(factor)), None)
        if not first:
            return None if first is None else least
        low, high = np.log(factors[first - 1 : first + 1])
        for _ in range(16):
            middle = (low + high) / 2
            low, high = (low, middle) if detects(float(np.exp(middle))) else (middle, high)
        return float(np.exp(high))


def standard_error(resampled: NDArray[np.float64], differences: NDArray[np.float64], units: int) -> StandardError:
    """The standard error of a difference averaged over seeds.

    Args:
        resampled: float64 [R, S], a minus b in resample r with the checkpoints of seed s.
        differences: float64 [S], a minus b on the pairs as they are.
        units: identities drawn, for the degrees of freedom.
    """
    seeds = len(differences)
    identity_variance = float(resampled.mean(axis=1).var(ddof=1))
    if seeds < 2:
        return StandardError(identity_variance, 0.0, 0.0, units, seeds)
    between = float(differences.var(ddof=1)) / seeds
    # An estimate, which chance can push past the bounds that its meaning sets.
    interaction = (float(resampled.var(axis=0, ddof=1).mean()) - identity_variance) / (seeds - 1)
    interaction = min(max(interaction, 0.0), identity_variance)
    return StandardError(identity_variance, max(0.0, between - interaction), interaction, units, seeds)


def student_interval(difference: float, error: StandardError) -> tuple[float, float, float]:
    """(low, high, two-sided p) of a difference; a standard error of 0 gives the difference itself, p = 1 for none."""
    from scipy.stats import t

    if error.total == 0:
        return difference, difference, 1.0 if difference == 0 else 0.0
    half_width = float(t.ppf((1 + LEVEL) / 2, error.degrees_of_freedom)) * error.total
    p = 2 * float(t.sf(abs(difference) / error.total, error.degrees_of_freedom))
    return difference - half_width, difference + half_width, p
