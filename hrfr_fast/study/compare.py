"""Comparison of the regimes on the main test pairs: rates, contrasts, accuracy by resolution and by dose."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.compare import Estimate, Outcomes, all_contrasts, resample_outcomes
from hrfr_fast.evaluation.rates import resampled_rates
from hrfr_fast.evaluation.resolution import CROSS_RESOLUTION_VIEWS
from hrfr_fast.evaluation.verification import Verification, verify
from hrfr_fast.format.reader import PairSet
from hrfr_fast.study.plan import APART, StudyPlan
from hrfr_fast.study.results import (
    ContrastResult,
    DoseResult,
    MainVerification,
    McNemar,
    RegimeResult,
    ResolutionAccuracy,
    ViewAccuracy,
)  # fmt: skip
from hrfr_fast.study.score import RunScores
from hrfr_fast.study.summary import Summary, summarize

HR_HR, HR_LR = "HR-HR", "HR-LR"
NO_HIGHRES = {"lowres144-finetuned": "lowres144-continued"}
"""Dosed regime -> the run that has had as many steps and no high resolution; lowres144 for all others."""
Scores = Mapping[str, Mapping[int, NDArray[np.float64]]]
"""Label -> seed -> cosine of every pair, float64 [P]."""
ScoredRuns = Mapping[str, Mapping[int, RunScores]]
"""Label -> seed -> scores."""


@dataclass(frozen=True)
class Comparison:
    """All regimes on the main test pairs, resampled together.

    ``verified``: view -> label -> seed -> verification. ``outcomes``: view -> label. ``rates``: view (HR-HR and HR-LR
    only) -> label -> "auc", "eer", "0.1" ... (TAR at that FAR).
    """

    pairs: PairSet
    scored: ScoredRuns
    verified: Mapping[str, Mapping[str, Mapping[int, Verification]]]
    outcomes: Mapping[str, Mapping[str, Outcomes]]
    rates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]

    @property
    def units(self) -> int:
        return units_of(self.pairs)

    def verifications(self) -> dict[str, MainVerification]:
        """By label."""
        curves = self._by_resolution()
        return {label: self._verification(label, curves.get(label, [])) for label in self.scored}

    def _verification(self, label: str, curve: list[ResolutionAccuracy]) -> MainVerification:
        verified, rates = self.verified[HR_HR][label], self.rates[HR_HR][label]
        folds = np.array([seed.folds for seed in verified.values()])
        return MainVerification(
            accuracy=summarize(self.outcomes[HR_HR][label].accuracy, self.units),
            auc=summarize(rates["auc"], self.units),
            eer=summarize(rates["eer"], self.units),
            tar_at_far=self._tars(rates),
            folds={str(number): seed.folds for number, seed in verified.items()},
            fold_spread=float(folds.std(axis=1, ddof=1).mean()),
            warnings=next(iter(verified.values())).warnings,
            cross_resolution={view: self._view(view, label) for view in CROSS_RESOLUTION_VIEWS},
            by_resolution=curve,
            identification=next((s.identification for s in self.scored[label].values() if s.identification), None),
        )

    def _view(self, view: str, label: str) -> ViewAccuracy:
        accuracy = summarize(self.outcomes[view][label].accuracy, self.units)
        tars = self._tars(self.rates[view][label]) if view in self.rates else None
        return ViewAccuracy(**vars(accuracy), tar_at_far=tars)

    def _tars(self, rates: Mapping[str, Estimate]) -> dict[str, Summary]:
        return {name: summarize(rate, self.units) for name, rate in rates.items() if name not in ("auc", "eer")}

    def _by_resolution(self) -> dict[str, list[ResolutionAccuracy]]:
        """Label -> accuracy by test resolution, over the seeds that have the curve."""
        sizes = {size for seeds in self.scored.values() for scores in seeds.values() for size in scores.by_resolution}
        curves: dict[str, list[ResolutionAccuracy]] = {}
        for size in sorted(sizes):
            known = {
                label: {seed: run.by_resolution[size] for seed, run in seeds.items() if size in run.by_resolution}
                for label, seeds in self.scored.items()
            }
            for label, found in outcomes_of(verified_of(known, self.pairs), self.pairs).items():
                accuracy = summarize(found.accuracy, self.units)
                curves.setdefault(label, []).append(ResolutionAccuracy(**vars(accuracy), pixels=size))
        return curves

    def contrasts(self, plan: StudyPlan, regimes: Mapping[str, RegimeResult]) -> list[ContrastResult]:
        """The fixed contrasts, then every other pair of regimes."""
        compared = {label: self.outcomes[HR_HR][label] for label in plan.labels if regimes[label].stage not in APART}
        return [
            ContrastResult(
                **found.to_json()
                | {"mcnemar": {seed: _mcnemar(test) for seed, test in found.mcnemar.items()}}
                | {"budgets": budgets_differ(regimes[found.a], regimes[found.b])}
            )
            for found in all_contrasts(compared, self.units, level=level_of(self.pairs))
        ]

    def doses(self, plan: StudyPlan) -> list[DoseResult]:
        """Accuracy by dose, in the order of the doses."""
        found = self.outcomes[HR_HR]
        doses = [dose for dose in doses_of(plan) if dose.label in found]
        return [
            DoseResult(**vars(summarize(found[dose.label].accuracy, self.units)), **asdict(dose))
            for dose in sorted(doses, key=lambda dose: (dose.regime, dose.kind, dose.dose))
        ]


def compare(pairs: PairSet, scored: ScoredRuns) -> Comparison:
    """Verify every run in every view, and resample all of them on the same draws."""
    scores = {
        view: {label: {seed: found.by_view[view] for seed, found in seeds.items()} for label, seeds in scored.items()}
        for view in CROSS_RESOLUTION_VIEWS
    }
    verified = {view: verified_of(scores[view], pairs) for view in CROSS_RESOLUTION_VIEWS}
    found = {view: outcomes_of(verified[view], pairs) for view in CROSS_RESOLUTION_VIEWS}
    rates = {view: rates_of(scores[view], verified[view], pairs) for view in (HR_HR, HR_LR)}
    return Comparison(pairs, scored, verified, found, rates)


def units_of(pairs: PairSet) -> int:
    """What the bootstrap draws from: the number of identities, or of pairs where identities are not known."""
    return len(pairs) if pairs.identities is None else len(np.unique(pairs.identities))


def level_of(pairs: PairSet) -> str:
    """What those units are: "identity" or "pair"."""
    return "pair" if pairs.identities is None else "identity"


def budgets_differ(a: RegimeResult, b: RegimeResult) -> str:
    """A sentence where one of two regimes has seen over a tenth more images than the other; else empty."""
    seen = [a.pictures_seen, b.pictures_seen]
    if max(seen) <= 1.1 * min(seen):
        return ""
    return (
        f"Their budgets differ: {seen[0]:,} and {seen[1]:,} images seen in training, those of the models they start "
        "from included."
    )


def verified_of(scores: Scores, pairs: PairSet) -> dict[str, dict[int, Verification]]:
    """By label and seed, without intervals."""
    return {
        label: {seed: verify(cosines, pairs.same, pairs.identities, resamples=0) for seed, cosines in seeds.items()}
        for label, seeds in scores.items()
        if seeds
    }


def outcomes_of(verified: Mapping[str, Mapping[int, Verification]], pairs: PairSet) -> dict[str, Outcomes]:
    """By label, all resampled together."""
    correct = {label: {seed: found.correct for seed, found in seeds.items()} for label, seeds in verified.items()}
    return resample_outcomes(correct, pairs.same, pairs.identities) if correct else {}


def rates_of(
    scores: Scores, verified: Mapping[str, Mapping[int, Verification]], pairs: PairSet
) -> dict[str, dict[str, Estimate]]:
    """By label and "auc", "eer", "0.1" ... (TAR at that FAR)."""
    result: dict[str, dict[str, Estimate]] = {}
    for label, seeds in scores.items():
        order = sorted(seeds)
        resampled = [resampled_rates(seeds[seed], pairs.same, pairs.identities) for seed in order]
        found = [verified[label][seed] for seed in order]
        plain = [{"auc": seed.auc, "eer": seed.eer} | seed.tar_at_far for seed in found]
        result[label] = {
            name: Estimate(
                tuple(order),
                np.array([values[name] for values in plain]),
                np.stack([values[name] for values in resampled], axis=1),
            )
            for name in plain[0]
        }
    return result


def _mcnemar(test: Mapping[str, float]) -> McNemar:
    return McNemar(only_a=int(test["only_a"]), only_b=int(test["only_b"]), p=test["p"])


@dataclass(frozen=True)
class Dose:
    """The runs ``label`` as a dose of high resolution: 0 none, 1 all."""

    regime: str
    kind: str
    dose: float
    label: str


def doses_of(plan: StudyPlan) -> list[Dose]:
    """The dosed runs of a study, and its other runs that are a dose: none, all, and highres as it comes."""
    first = [plan.of(label)[0] for label in plan.labels]
    dosed = [Dose(run.regime.name, kind, share, run.label) for run in first for kind, share in (run.dose or {}).items()]
    ends = []
    for regime, kind in sorted({(dose.regime, dose.kind) for dose in dosed}):
        run = plan.of(regime)[0]
        without = NO_HIGHRES.get(regime, "")
        ends.append(Dose(regime, kind, 0.0, without if without in plan.labels else "lowres144"))
        if kind == "highres_identities":
            ends.append(Dose(regime, kind, 1.0, regime))
        elif run.regime.highres_share is None:
            low, high = (plan.packed.splits[split].samples for split in run.regime.sources)
            ends.append(Dose(regime, kind, high / (low + high), regime))
    return dosed + ends
