"""Results of a study as typed records, and their form in results.json.

Rates are shares in [0, 1], intervals are (low, high) at 95 %. Field names are the keys of results.json.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hrfr_fast.evaluation.bootstrap import LEVEL
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.study.plan import APART
from hrfr_fast.study.remedies.results import RemediesResult
from hrfr_fast.study.remedy import RemedyResult
from hrfr_fast.study.score import Identification
from hrfr_fast.study.space import SpaceResult
from hrfr_fast.study.summary import Interval, Summary

FORMAT = "hrfr-fast study 1"


@dataclass(frozen=True)
class ViewAccuracy(Summary):
    """Accuracy where the two faces of a pair are seen in given resolutions, e.g. "HR-LR"."""

    tar_at_far: dict[str, Summary] | None = None
    """FAR -> TAR; None for the view LR-LR."""


@dataclass(frozen=True)
class ResolutionAccuracy(Summary):
    """Accuracy where both faces of a pair are shrunk to ``pixels`` first."""

    pixels: int = 0


@dataclass(frozen=True)
class MainVerification:
    """Verification of one regime on the main test pairs."""

    accuracy: Summary
    auc: Summary
    eer: Summary
    tar_at_far: dict[str, Summary]
    folds: dict[str, list[float]]
    """Seed -> accuracy of each fold."""
    fold_spread: float
    """Standard deviation over the folds, mean over seeds."""
    warnings: list[str]
    cross_resolution: dict[str, ViewAccuracy]
    by_resolution: list[ResolutionAccuracy]
    identification: Identification | None


@dataclass(frozen=True)
class OtherPairs:
    """Accuracy on a pair set that the regimes are not compared on, mean over seeds."""

    kind: str
    accuracy: float
    first_seed_interval: Interval
    pairs: int


@dataclass(frozen=True)
class RegimeResult:
    """The runs of one regime and their results."""

    regime: str
    summary: str
    stage: str
    dose: dict[str, float] | None
    input_size: int
    control_of: str
    budget: str
    steps: int
    """Mean over seeds."""
    batch_size: int
    steps_by_seed: dict[str, int]
    plateau: str | None
    """"reached", "not reached" or "not watched"; None where the budget does not depend on one."""
    runs: dict[str, str]
    """Seed -> run directory, relative to the study's."""
    data_note: str
    """How the packed data differ from those of the training; empty: not at all."""
    other_pairs: dict[str, OtherPairs]
    pictures_seen: int
    """In training, those of the longest chain of parents included."""
    verification: MainVerification | None = None
    """None without test pairs. Its keys stand among the regime's in results.json."""

    @property
    def first_run(self) -> str:
        """Run directory of the first seed."""
        return next(iter(self.runs.values()))

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        measured = values.pop("verification") or {}
        for view in measured.get("cross_resolution", {}).values():
            if view["tar_at_far"] is None:
                del view["tar_at_far"]
        return values | measured


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test of one seed: pairs that only one of the two checkpoints decides correctly."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class ContrastResult:
    """Accuracy of regime ``a`` minus accuracy of regime ``b``; see ``evaluation.compare.Contrast``."""

    a: str
    b: str
    fixed: bool
    seeds: int
    identities: int
    level: str
    pairs: int
    difference: float
    interval: Interval
    p: float
    p_holm: float | None
    mcnemar: dict[str, McNemar]
    detectable: float
    needed_identities: int | None
    needed_pairs: int | None
    needed_seeds: int | None
    verdict: str
    sentence: str
    advice: str
    budgets: str
    """A sentence where the budgets differ; else empty."""

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at 5 %: a fixed contrast after Holm's correction."""
        return (self.p if self.p_holm is None else self.p_holm) < 1 - LEVEL


@dataclass(frozen=True)
class DoseResult(Summary):
    """Accuracy of ``regime`` with a dose of high resolution, from the runs ``label``."""

    regime: str = ""
    kind: str = ""
    """"highres_identities" or "highres_share"."""
    dose: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class StudyFinding:
    """Verdict on one published finding: "reproduced", "refuted" or "undecided"."""

    claim: str
    rule: str
    verdict: str
    leaning: str
    """What the checkpoints at hand say, whatever the number of seeds."""
    why: str
    seeds: int


@dataclass(frozen=True)
class AnalysisFigure:
    """A PNG, relative to the study's directory, and its caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class AnalysisResult:
    """The answer to one question asked of the embeddings; see ``analysis.finding.Finding``."""

    key: str
    question: str
    answer: str
    numbers: dict[str, Any]
    figures: list[AnalysisFigure]


@dataclass(frozen=True)
class SplitFacts:
    pictures: int
    identities: int
    pixels: int


@dataclass(frozen=True)
class PairFacts:
    """The main test pairs. ``level``: "identity" or "pair", what the bootstrap draws ``identities`` of."""

    name: str
    pairs: int
    pixels: int
    identities: int
    level: str
    notes: list[str]
    guessing: float
    """Accuracy of always giving the more frequent answer."""


@dataclass(frozen=True)
class DataFacts:
    path: str
    digest: str
    synthetic: bool
    splits: dict[str, SplitFacts]
    pairs: PairFacts | None


@dataclass(frozen=True)
class StudyResults:
    """Everything that the tables and the report of a study show."""

    hrfr_fast: str
    """Version."""
    preset: dict[str, Any]
    seeds: list[int]
    data: DataFacts
    regimes: dict[str, RegimeResult]
    contrasts: list[ContrastResult]
    findings: list[AnalysisResult]
    unanswered: dict[str, str]
    """Question of the analyses -> why it has no answer."""
    claims: list[StudyFinding]
    dose: list[DoseResult] | None = None
    space: SpaceResult | None = None
    remedy: RemedyResult | None = None
    remedies: RemediesResult | None = None
    """Of a study of remedies alone."""
    format: str = FORMAT

    def verified(self, *, apart: bool = True) -> dict[str, MainVerification]:
        """Label -> verification of the regimes that have one; without the stages APART where those are not wanted."""
        return {
            label: regime.verification
            for label, regime in self.regimes.items()
            if regime.verification and (apart or regime.stage not in APART)
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values with the keys of results.json; parts that there were no data for are left out."""
        values = {**asdict(self), "regimes": {label: regime.to_json() for label, regime in self.regimes.items()}}
        if not self.verified():  # nothing was compared
            values = {key: value for key, value in values.items() if value is not None}
        elif self.space is None:
            del values["space"]
        if self.remedies is None:
            values.pop("remedies", None)
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StudyResults":
        """The results that ``to_json`` gave. Raises UsageError for anything else."""
        from pydantic import TypeAdapter, ValidationError

        try:
            regimes = {label: _nested(regime) for label, regime in values["regimes"].items()}
            return TypeAdapter(cls).validate_python({**values, "regimes": regimes})
        except (ValidationError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"not the results of a study: {error}") from None


def _nested(regime: Mapping[str, Any]) -> dict[str, Any]:
    """A regime's values with those of MainVerification grouped, as the fields of RegimeResult are."""
    measured = {field.name for field in fields(MainVerification)}
    own = {key: value for key, value in regime.items() if key not in measured}
    return own | ({"verification": {key: regime[key] for key in measured}} if "accuracy" in regime else {})
