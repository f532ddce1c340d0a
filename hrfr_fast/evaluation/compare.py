"""Is one regime better than another, or is it chance?

Two things are random: who stands in the test set, and the seed a network was trained from. The bootstrap draws
identities (``bootstrap.py``) for all seeds of both regimes at once: what is hard about a pair for both cancels. The
variance between seeds is added to it, less what varies by person *and* by seed, which both of them hold (a crossed
random-effects design; resampling seeds as well would count it twice: Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 1, 2007). A percentile interval over three to five seeds would be far too narrow, so the interval is
the difference -+ t x the standard error, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946) for the
sum of two variances. The p-value is read off the same t: it is below 0.05 exactly when the interval excludes 0.

On simulated decisions of known truth the standard error is 1.0 to 1.4 times the true one: an impostor pair weighs
w_i w_j, which overstates chance that belongs to the pair alone. It errs to the side of calling a difference chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.errors import UsageError
from hrfr_fast.evaluation.bootstrap import LEVEL, RESAMPLES, resampled_means

FEWEST_SEEDS = 3
"""With fewer seeds only the checkpoints at hand are compared, not the regimes."""
POWER = 0.8
MOST_GROWTH = 1000.0
"""Times the identities or seeds at hand beyond which a study is not worth planning."""

FIXED_CONTRASTS = (
    ("highlow144", "lowres144"),
    ("lowres144-finetuned", "lowres144"),
    ("lowres32", "lowres144"),
    ("fused-output", "fused-head"),
    ("crossres144", "highlow144"),
)
"""Decided before any result was seen; Holm's correction covers these and only these."""


@dataclass(frozen=True)
class Estimate:
    """A rate of S checkpoints of one regime, as it is and in every resample of the identities.

    ``values``: float64 [S], shares in [0, 1]. ``resampled``: float64 [R, S]. ``seeds``: the S seeds' numbers.
    """

    seeds: tuple[int, ...]
    values: NDArray[np.float64]
    resampled: NDArray[np.float64]

    def of(self, seeds: Sequence[int]) -> "Estimate":
        """Those of some seeds, in that order."""
        place = [self.seeds.index(seed) for seed in seeds]
        return Estimate(tuple(seeds), self.values[place], self.resampled[:, place])

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference on the seeds both have. Raises UsageError where there is none."""
        shared = sorted(set(self.seeds) & set(other.seeds))
        if not shared:
            raise UsageError("no seed in common; nothing to compare")
        a, b = self.of(shared), other.of(shared)
        return Estimate(tuple(shared), a.values - b.values, a.resampled - b.resampled)

    def summary(self, units: int, *, rate: bool = True) -> dict[str, Any]:
        """Mean over seeds, 95 % interval over people and (with three seeds or more) seeds, p for 0, spread of seeds.

        Args:
            units: identities (or pairs) that the resamples drew from.
            rate: the interval is cut to [0, 1]; not for a difference.
        """
        value = float(self.values.mean())
        low, high, p = student_interval(value, standard_error(self.resampled, self.values, units))
        if rate:
            low, high = max(0.0, low), min(1.0, high)
        spread = float(self.values.std(ddof=1)) if len(self.values) > 1 else None
        return {
            "value": value, "interval": [low, high], "p": p, "seed_spread": spread,
            "by_seed": {str(seed): float(v) for seed, v in zip(self.seeds, self.values, strict=True)},
        }  # fmt: skip


@dataclass(frozen=True)
class Outcomes:
    """What the seeds of one regime decided on one pair set: float64 [P, S], 1 where pair i is decided rightly on
    held-out folds, and the accuracy that follows."""

    correct: NDArray[np.float64]
    accuracy: Estimate


@dataclass(frozen=True)
class Contrast:
    """Accuracy of ``a`` minus accuracy of ``b``; shares in [0, 1], so 0.01 is one point."""

    a: str
    b: str
    fixed: bool
    """One of the five contrasts fixed beforehand; everything else is exploratory."""
    seeds: int
    identities: int
    """Units the bootstrap drew: identities, or pairs where no identities are known."""
    pairs: int
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float | None
    """Holm-adjusted over the fixed contrasts; None for exploratory ones."""
    mcnemar: dict[str, dict[str, float]]
    """By seed: pairs only a decides rightly, pairs only b does, exact two-sided p."""
    detectable: float
    """The smallest difference found with 80 % power by this many identities and seeds."""
    needed_identities: int | None
    """Identities that would find a difference of this size with 80 % power and as many seeds; None: no number would."""
    needed_pairs: int | None
    needed_seeds: int | None
    """The same for seeds, with as many identities; None: no number would, or too few seeds to know."""

    @property
    def verdict(self) -> str:
        """ "likely real" or "cannot be told from chance"; with fewer than three seeds it speaks of the checkpoints."""
        p = self.p if self.p_holm is None else self.p_holm
        return "likely real" if p < 1 - LEVEL else "cannot be told from chance"

    @property
    def sentence(self) -> str:
        """The contrast in plain words, the better one first."""
        first, second, sign = (self.a, self.b, 1) if self.difference >= 0 else (self.b, self.a, -1)
        low, high = sorted(sign * 100 * end for end in self.interval)
        points = f"{100 * abs(self.difference):.2f}"
        verb, by = ("equals", "to 0.01 points") if points == "0.00" else ("beats", f"by {points} points")
        by += f" (95 % interval {low:.2f} to {high:.2f}"
        corrected = ", Holm-corrected" if self.p_holm is not None else ", exploratory"
        if self.seeds >= FEWEST_SEEDS:
            return f"{first} {verb} {second} {by}, {self.seeds} seeds{corrected}): {self.verdict}."
        these = "these two checkpoints" if self.seeds == 1 else f"these {self.seeds} pairs of checkpoints"
        verdict = "more than the choice of test faces explains" if self.verdict == "likely real" else self.verdict
        return (
            f"Between {these}, {first} {verb} {second} {by} over the test faces alone{corrected}): {verdict}. "
            f"Whether the regimes differ needs at least {FEWEST_SEEDS} seeds."
        )

    @property
    def advice(self) -> str:
        """How much data would be needed to tell."""
        units = f"{self.identities:,} identities and {self.seeds} seed{'s' if self.seeds > 1 else ''}"
        text = f"{units} find a difference of {100 * self.detectable:.2f} points four times out of five"
        if self.verdict == "likely real" or self.difference == 0:
            return text + "."
        ways = []
        if self.needed_identities:
            ways.append(f"about {self.needed_identities:,} identities ({self.needed_pairs:,} pairs)")
        if self.needed_seeds:
            ways.append(f"about {self.needed_seeds} seeds")
        if not ways:
            return text + "; for a difference as small as this one both more identities and more seeds are needed."
        return f"{text}; a difference of this size would need {' or '.join(ways)}."

    def to_json(self) -> dict[str, Any]:
        """All fields, the verdict and the sentences."""
        return asdict(self) | {"verdict": self.verdict, "sentence": self.sentence, "advice": self.advice}


def outcomes(
    correct: Mapping[str, Mapping[int, NDArray[np.bool_]]],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Outcomes]:
    """Resample all regimes at once, on the same draws.

    Args:
        correct: regime -> seed -> bool [P], decided rightly on held-out folds.
        same: bool [P].
        identities: int32 [2P] cluster of pictures 2i, 2i + 1; None: pairs are drawn.
    """
    columns = {name: [rights[s] for s in sorted(rights)] for name, rights in correct.items()}
    stacked = np.stack([column for some in columns.values() for column in some], axis=1).astype(np.float64)
    means = resampled_means(stacked, same, identities, resamples=resamples, seed=seed)
    result, at = {}, 0
    for name, some in columns.items():
        here = slice(at, at + len(some))
        values = stacked[:, here].mean(axis=0)
        result[name] = Outcomes(stacked[:, here], Estimate(tuple(sorted(correct[name])), values, means[:, here]))
        at += len(some)
    return result


def contrast(a: str, b: str, results: Mapping[str, Outcomes], units: int, *, fixed: bool = False) -> Contrast:
    """Compare regimes ``a`` and ``b`` on the seeds both have.

    Args:
        results: from ``outcomes``.
        units: number of identities (or pairs) the resamples drew from.
        fixed: one of the five fixed contrasts; ``p_holm`` is then filled by ``with_holm``.

    Raises:
        UsageError: no seed in common.
    """
    try:
        gain = results[a].accuracy.minus(results[b].accuracy)
    except UsageError as none_shared:
        raise UsageError(f"{a} and {b}: {none_shared}") from None
    error, shared = standard_error(gain.resampled, gain.values, units), gain.seeds
    difference = float(gain.values.mean())
    low, high, p = student_interval(difference, error)
    pairs = len(results[a].correct)
    needed_units = error.factor_to_find(difference, "identities", 1 / MOST_GROWTH)
    needed_seeds = error.factor_to_find(difference, "seeds", FEWEST_SEEDS / len(shared)) if len(shared) > 1 else None
    return Contrast(
        a=a, b=b, fixed=fixed, seeds=len(shared), identities=units, pairs=pairs,
        difference=difference, interval=(low, high), p=p, p_holm=None,
        mcnemar={str(s): mcnemar(_decided(results[a], s), _decided(results[b], s)) for s in shared},
        detectable=error.detectable,
        needed_identities=_scaled(units, needed_units),
        needed_pairs=_scaled(pairs, needed_units),
        needed_seeds=_scaled(len(shared), needed_seeds),
    )  # fmt: skip


def _decided(results: Outcomes, seed: int) -> NDArray[np.bool_]:
    return results.correct[:, results.accuracy.seeds.index(seed)] > 0


def contrasts_of(
    results: Mapping[str, Outcomes], units: int, *, reference: Sequence[tuple[str, str]] = FIXED_CONTRASTS
) -> list[Contrast]:
    """The fixed contrasts that can be had, Holm-corrected, then every other pair of regimes, exploratory."""
    fixed = [pair for pair in reference if pair[0] in results and pair[1] in results]
    known = {frozenset(pair) for pair in fixed}
    names = list(results)
    others = [
        (a, b) for i, a in enumerate(names) for b in names[i + 1 :] if frozenset((a, b)) not in known
    ]  # fmt: skip
    first = with_holm([contrast(a, b, results, units, fixed=True) for a, b in fixed])
    return first + [contrast(a, b, results, units) for a, b in others]


@dataclass(frozen=True)
class StandardError:
    """Of a difference averaged over seeds, by where it comes from.

    With fewer than three seeds ``total`` is the identities' part alone, conditional on the checkpoints.
    """

    identities: float
    """Standard error from the choice of people."""
    seeds: float
    """From the choice of seeds, less what varies by person and by seed; 0 for one seed."""
    between: float
    """Variance of the mean between seeds, with what varies by person and by seed: behind the degrees of freedom."""
    units: float
    """Identities (or pairs) drawn."""
    count: float
    """Seeds."""

    @property
    def total(self) -> float:
        return float(np.hypot(self.identities, self.seeds if self.count >= FEWEST_SEEDS else 0.0))

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom."""
        people = max(self.units - 1, 1)
        if self.count < FEWEST_SEEDS:
            return people
        spread = self.identities**4 / people + self.between**2 / (self.count - 1)
        return self.total**4 / spread if spread else people

    @property
    def detectable(self) -> float:
        """The difference that is found at the 5 % level with 80 % power."""
        from scipy.stats import t

        return float(t.ppf((1 + LEVEL) / 2, self.freedom) + t.ppf(POWER, self.freedom)) * self.total

    def grown(self, *, identities: float = 1.0, seeds: float = 1.0) -> "StandardError":
        """With so many times the identities or seeds. What varies by person *and* by seed shrinks with both."""
        both = self.between - self.seeds**2
        return StandardError(
            self.identities / np.sqrt(identities), self.seeds / np.sqrt(seeds),
            (self.seeds**2 + both / identities) / seeds, self.units * identities, self.count * seeds,
        )  # fmt: skip

    def factor_to_find(self, difference: float, growing: str, least: float) -> float | None:
        """How many times the "identities" or "seeds", ``least`` or more, find ``difference``; None beyond 1,000."""
        low, high = np.log(least), np.log(MOST_GROWTH)
        if abs(difference) < self.grown(**{growing: MOST_GROWTH}).detectable:
            return None
        for _ in range(20):
            middle = (low + high) / 2
            enough = abs(difference) >= self.grown(**{growing: float(np.exp(middle))}).detectable
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
        return StandardError(np.sqrt(people), 0.0, 0.0, units, seeds)
    between = float(gain.var(ddof=1)) / seeds
    both = max(0.0, float(differences.var(axis=0, ddof=1).mean()) - people) / (seeds - 1)  # person x seed, over S
    return StandardError(np.sqrt(people), np.sqrt(max(0.0, between - both)), between, units, seeds)


def student_interval(difference: float, error: StandardError) -> tuple[float, float, float]:
    """(low, high, two-sided p) of a difference; a standard error of 0 gives the difference itself, p = 1 for none."""
    from scipy.stats import t

    if error.total == 0:
        return difference, difference, 1.0 if difference == 0 else 0.0
    reach = float(t.ppf((1 + LEVEL) / 2, error.freedom)) * error.total
    p = 2 * float(t.sf(abs(difference) / error.total, error.freedom))
    return difference - reach, difference + reach, p


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, float]:
    """Exact McNemar test on the pairs that exactly one of two checkpoints decides rightly.

    It takes pairs as independent, which pairs that share people are not: read it beside the interval.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm, Scandinavian Journal of Statistics 6, 1979), in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate([(len(p) - rank) * p[i] for rank, i in enumerate(order)])
    result = np.empty(len(p))
    result[order] = np.minimum(adjusted, 1.0)
    return [float(value) for value in result]


def with_holm(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same contrasts with ``p_holm`` over all of them."""
    from dataclasses import replace

    adjusted = holm([one.p for one in contrasts]) if contrasts else []
    return [replace(one, p_holm=p) for one, p in zip(contrasts, adjusted, strict=True)]


def _scaled(count: int, factor: float | None) -> int | None:
    """``count`` x ``factor``, to two digits, for it is a rough guess."""
    if factor is None or factor <= 0:
        return None
    wanted = count * factor
    digits = 10 ** max(int(np.floor(np.log10(max(wanted, 1)))) - 1, 0)
    return int(np.ceil(wanted / digits) * digits)
