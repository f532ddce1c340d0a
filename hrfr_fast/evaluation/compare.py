"""Paired comparison of regimes: the difference of two accuracies, its interval, its significance and the data needed.

Two things are random: the people of the test set, and the seed a network was trained from (``standard_error.py``). The
bootstrap draws identities (``bootstrap.py``) for all seeds of both regimes at once, so that what is hard about a pair
for both cancels. Five contrasts are fixed beforehand and corrected together; all others are exploratory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import LEVEL, RESAMPLES, resampled_means
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS, LARGEST_FACTOR, standard_error, student_interval
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.words import counted

FIXED_CONTRASTS = (
    ("highlow144", "lowres144"),
    ("lowres144-finetuned", "lowres144"),
    ("lowres32", "lowres144"),
    ("fused-output", "fused-head"),
    ("crossres144", "highlow144"),
)
"""Decided before any result was seen. Holm's correction covers these and only these, and always all five: a contrast
that is missing counts as one with p = 1, so that adding its regimes later cannot take a verdict back."""


@dataclass(frozen=True)
class Estimate:
    """A rate of the S checkpoints (seeds) of one regime, as it is and in every resample of the identities.

    ``values``: float64 [S], shares in [0, 1]. ``resampled``: float64 [R, S]. ``seeds``: the S seeds' numbers.
    """

    seeds: tuple[int, ...]
    values: NDArray[np.float64]
    resampled: NDArray[np.float64]

    def of_seeds(self, seeds: Sequence[int]) -> "Estimate":
        """The estimate on ``seeds`` alone, in that order."""
        columns = [self.seeds.index(seed) for seed in seeds]
        return Estimate(tuple(seeds), self.values[columns], self.resampled[:, columns])

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference on the seeds both have. Raises UsageError where there is none."""
        shared = sorted(set(self.seeds) & set(other.seeds))
        if not shared:
            raise UsageError("no seed in common; nothing to compare")
        a, b = self.of_seeds(shared), other.of_seeds(shared)
        return Estimate(tuple(shared), a.values - b.values, a.resampled - b.resampled)

    def summary(self, units: int, *, rate: bool = True) -> dict[str, Any]:
        """Mean over seeds, 95 % interval over people and (with three seeds or more) seeds, p for 0, SD over seeds.

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
            "by_seed": {str(seed): float(value) for seed, value in zip(self.seeds, self.values, strict=True)},
        }  # fmt: skip


@dataclass(frozen=True)
class Outcomes:
    """The decisions of all seeds of one regime on one pair set, and their accuracy."""

    correct: NDArray[np.float64]
    """float64 [P, S]: 1 where pair i is decided rightly, on held-out folds."""
    accuracy: Estimate


@dataclass(frozen=True)
class Contrast:
    """Accuracy of regime ``a`` minus accuracy of regime ``b``; shares in [0, 1], so 0.01 is one point."""

    a: str
    b: str
    fixed: bool
    """One of the five contrasts fixed beforehand; everything else is exploratory."""
    seeds: int
    identities: int
    """Units the bootstrap drew: identities, or pairs where no identities are known."""
    level: str
    """What they are: "identity" or "pair"."""
    pairs: int
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float | None
    """Holm-adjusted over the five fixed contrasts; None for exploratory ones."""
    mcnemar: dict[str, dict[str, float]]
    """By seed: pairs only a decides rightly, pairs only b does, exact two-sided p."""
    minimum_detectable_effect: float
    """The smallest difference detected with 80 % power by this many identities and seeds (of a fixed contrast: at the
    level that Holm asks of the first of five); with fewer than three seeds, between these checkpoints."""
    needed_identities: int | None
    """Identities (or pairs) that would detect a difference of this size with 80 % power and as many seeds; None: no
    number would, or fewer than three seeds."""
    needed_pairs: int | None
    needed_seeds: int | None
    """The same for seeds, three at least, with as many identities; None: no number would, or too few seeds to know."""

    @property
    def verdict(self) -> str:
        """ "likely real" or "not significant"; with fewer than three seeds it speaks of the checkpoints."""
        p = self.p if self.p_holm is None else self.p_holm
        return "likely real" if p < 1 - LEVEL else "not significant"

    @property
    def sentence(self) -> str:
        """The contrast in plain words, the better one first: it "beats" the other where that is significant."""
        first, second, sign = (self.a, self.b, 1) if self.difference >= 0 else (self.b, self.a, -1)
        low, high = sorted(sign * 100 * end for end in self.interval)
        points = f"{100 * abs(self.difference):.2f}"
        verb, by = "beats" if self.verdict == "likely real" else "is ahead of", f"by {points} points"
        if points == "0.00":
            verb, by = "equals", "to 0.01 points"
        by += f" (95 % interval {low:.2f} to {high:.2f}"
        corrected = ", verdict Holm-corrected" if self.p_holm is not None else ", exploratory"
        if self.level == "pair":
            corrected += "; pairs taken as independent, so the interval is too narrow"
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
        """The minimum detectable effect in plain words, and the data that a difference of this size would need."""
        units = f"{self.identities:,} {_UNITS[self.level]}"
        if self.minimum_detectable_effect < 1e-9:
            return (
                f"The difference does not vary over these {units} and {counted(self.seeds, 'seed')}: how small a"
                " difference would be found is not known."
            )
        effect = f"{100 * self.minimum_detectable_effect:.2f} points"
        if self.seeds < FEWEST_SEEDS:
            text = (
                f"With {units} a difference of {effect} between checkpoints like these is found four times out of five"
            )
            more = f"about {self.needed_seeds} seeds" if self.needed_seeds else f"at least {FEWEST_SEEDS} seeds"
            return f"{text}; to compare the regimes {more} are needed."
        strictly = ", even as the first of the five that Holm's method takes" if self.fixed else ""
        text = f"{units} and {self.seeds} seeds find a difference of {effect} four times out of five{strictly}"
        if self.verdict == "likely real" or self.difference == 0:
            return text + "."
        ways = []
        if self.needed_identities:
            pairs = f" ({self.needed_pairs:,} pairs)" if self.level == "identity" else ""
            ways.append(f"about {self.needed_identities:,} {_UNITS[self.level]}{pairs}")
        if self.needed_seeds:
            ways.append(f"about {self.needed_seeds} seeds")
        if not ways:
            return f"{text}; for one as small as this both more {_UNITS[self.level]} and more seeds are needed."
        return f"{text}; a difference of this size would need {' or '.join(ways)}."

    def to_json(self) -> dict[str, Any]:
        """All fields, the verdict and the sentences; the minimum detectable effect is called ``detectable``."""
        fields = asdict(self)
        fields["detectable"] = fields.pop("minimum_detectable_effect")
        return fields | {"verdict": self.verdict, "sentence": self.sentence, "advice": self.advice}


_UNITS = {"identity": "identities", "pair": "pairs"}


def resample_outcomes(
    correct: Mapping[str, Mapping[int, NDArray[np.bool_]]],
    same: NDArray[np.bool_],
    identities: NDArray[np.int32] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Outcomes]:
    """The outcomes of all regimes, resampled at once with the same draws.

    Args:
        correct: regime -> seed -> bool [P], whether each pair is decided rightly, on held-out folds.
        same: bool [P].
        identities: int32 [2P] cluster of pictures 2i, 2i + 1; None: pairs are drawn.
    """
    columns = [by_seed[number] for by_seed in correct.values() for number in sorted(by_seed)]
    stacked = np.stack(columns, axis=1).astype(np.float64)
    means = resampled_means(stacked, same, identities, resamples=resamples, seed=seed)
    result, start = {}, 0
    for regime, by_seed in correct.items():
        own = slice(start, start + len(by_seed))
        accuracy = Estimate(tuple(sorted(by_seed)), stacked[:, own].mean(axis=0), means[:, own])
        result[regime] = Outcomes(stacked[:, own], accuracy)
        start = own.stop
    return result


def contrast(
    a: str, b: str, results: Mapping[str, Outcomes], units: int, *, fixed: bool = False, level: str = "identity"
) -> Contrast:
    """The contrast of regimes ``a`` and ``b`` on the seeds that both have.

    Args:
        results: from ``resample_outcomes``.
        units: number of identities (or pairs) the resamples drew from.
        fixed: one of the five fixed contrasts; ``p_holm`` is then filled by ``with_holm``.
        level: what the units are, "identity" or "pair".

    Raises:
        UsageError: no seed in common.
    """
    try:
        gain = results[a].accuracy.minus(results[b].accuracy)
    except UsageError as error:
        raise UsageError(f"{a} and {b}: {error}") from None
    spread, seeds = standard_error(gain.resampled, gain.values, units), len(gain.seeds)
    alpha = (1 - LEVEL) / (len(FIXED_CONTRASTS) if fixed else 1)
    difference = float(gain.values.mean())
    low, high, p = student_interval(difference, spread)
    pairs = len(results[a].correct)
    more_units = more_seeds = None
    if seeds >= FEWEST_SEEDS:
        more_units = spread.factor_to_detect(difference, "identities", 1 / LARGEST_FACTOR, alpha)
    if seeds > 1:
        more_seeds = spread.factor_to_detect(difference, "seeds", FEWEST_SEEDS / seeds, alpha)
    return Contrast(
        a=a, b=b, fixed=fixed, seeds=seeds, identities=units, level=level, pairs=pairs,
        difference=difference, interval=(low, high), p=p, p_holm=None,
        mcnemar={str(seed): mcnemar(_correct(results[a], seed), _correct(results[b], seed)) for seed in gain.seeds},
        minimum_detectable_effect=spread.minimum_detectable_effect(alpha),
        needed_identities=_scaled(units, more_units),
        needed_pairs=_scaled(pairs, more_units),
        needed_seeds=_scaled(seeds, more_seeds),
    )  # fmt: skip


def _correct(results: Outcomes, seed: int) -> NDArray[np.bool_]:
    return results.correct[:, results.accuracy.seeds.index(seed)] > 0


def all_contrasts(results: Mapping[str, Outcomes], units: int, *, level: str = "identity") -> list[Contrast]:
    """The fixed contrasts whose regimes are there, Holm-corrected, then every other pair of regimes, exploratory."""
    fixed = [(a, b) for a, b in FIXED_CONTRASTS if a in results and b in results]
    exploratory = [(a, b) for a, b in combinations(results, 2) if (a, b) not in fixed and (b, a) not in fixed]
    corrected = with_holm([contrast(a, b, results, units, fixed=True, level=level) for a, b in fixed])
    return corrected + [contrast(a, b, results, units, level=level) for a, b in exploratory]


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, float]:
    """Exact McNemar test on the pairs that exactly one of two checkpoints decides rightly.

    It takes pairs as independent, which pairs that share people are not: read it beside the interval.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def holm(p: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 6, 1979), in the order given.

    ``family``: the number of comparisons, those that are missing having p = 1; None: as many as given.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate([((family or len(p)) - rank) * p[i] for rank, i in enumerate(order)])
    result = np.empty(len(p))
    result[order] = np.minimum(adjusted, 1.0)
    return [float(value) for value in result]


def with_holm(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The given fixed contrasts with ``p_holm`` over all five."""
    adjusted = holm([fixed.p for fixed in contrasts], len(FIXED_CONTRASTS)) if contrasts else []
    return [replace(fixed, p_holm=p) for fixed, p in zip(contrasts, adjusted, strict=True)]


def _scaled(count: int, factor: float | None) -> int | None:
    """``count`` x ``factor``, rounded up to two digits, for it is a rough estimate."""
    if factor is None or factor <= 0:
        return None
    wanted = round(count * factor, 6)  # 3 * 1.0000000001 is no fourth seed
    digits = 10 ** max(int(np.floor(np.log10(max(wanted, 1)))) - 1, 0)
    return int(np.ceil(wanted / digits) * digits)
