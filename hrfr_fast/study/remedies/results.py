"""Results of a study of remedies as typed records; their field names are keys of results.json."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.files import write_json
from hrfr_fast.study.remedy import Criterion
from hrfr_fast.study.summary import Interval, Summary


@dataclass(frozen=True)
class Gain:
    """A paired difference from the base on development faces; positive is better. ``interval``: at 95 %."""

    value: float
    interval: Interval
    seeds: int


@dataclass(frozen=True)
class Evidence:
    """What development faces say of one remedy. ``why_not``: why it is out of the choice; empty: it is not."""

    label: str
    gains: dict[str, Gain]
    rank_ratio: float
    """Least over seeds, of its effective rank to the base's."""
    score: float
    why_not: str


@dataclass(frozen=True)
class Choice:
    """The choice as it is written: the evidence, the best first, and what was put together."""

    rule: str
    time: str
    """When it was written, UTC."""
    data_digest: str
    base: str
    seeds: list[int]
    weights: dict[str, str]
    """"<label> <seed>" -> digest of the checkpoint that the evidence is of."""
    evidence: list[Evidence]
    ranking: list[str]
    """Labels of those that are not out of the choice, best first."""
    together: list[str]
    """Labels that are put together; empty: none are."""
    refused: list[str]
    """Why better ones are not."""

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


@dataclass(frozen=True)
class Cost:
    """What a remedy costs beside the base's (1: as much)."""

    training_time: float | None
    """Ratio of the time for a training step, mean over seeds; None: not measured."""
    parameters: float
    """Ratio of the backbone's parameters, BatchNorm's statistics included."""
    test_time: float | None
    """Ratio of the time for an embedding; noisy where several runs shared a machine."""
    wrong_flag: dict[str, float]
    """View -> change in accuracy on development pairs where BatchNorm takes the other resolution's statistics, mean
    over seeds; empty for a network that needs no flag at test time."""
    trained_first: list[str]
    """Regimes that have to be trained before it: what it starts from, and its teacher."""


@dataclass(frozen=True)
class CalibrationRow:
    """FAR and FRR of one regime at one test resolution, with one threshold for all."""

    view: str
    far: Summary
    frr: Summary


@dataclass(frozen=True)
class Calibration:
    """One regime's calibration with a threshold chosen on "all" or "sharp" faces. ``spread``: greatest minus least FAR
    over resolutions. ``spread_change``: that minus the base's; None for the base."""

    rows: list[CalibrationRow]
    spread: Summary
    spread_change: Summary | None


@dataclass(frozen=True)
class JudgedRemedy:
    """One remedy against the base and its control, on the test faces.

    ``p``: greatest of the p-values of the criterion's parts, all of which must hold; ``p_holm``: corrected over all
    remedies. ``detectable``: quantity -> the smallest change that would have been found, at the level that Holm asks of
    the first of the family, four times out of five.
    """

    label: str
    summary: str
    control: str
    verdict: str
    """"success", "failed" or "undecided"."""
    p: float
    p_holm: float
    against: dict[str, dict[str, Criterion]]
    detectable: dict[str, float]
    native: Summary | None
    """Change in accuracy on real low-resolution pairs of development."""
    cost: Cost


@dataclass(frozen=True)
class PublicResult:
    """One part of a public set of real low-resolution faces.

    ``name``: the set, the part, and what share of the ``decisions`` is right. ``units``: what was resampled, by
    ``level`` "identity" or "pair". ``values``: label -> share. ``changes``: label -> that minus the base's.
    """

    name: str
    decisions: int
    units: int
    level: str
    values: dict[str, Summary]
    changes: dict[str, Summary]


@dataclass(frozen=True)
class RemediesResult:
    """The ablation of remedies: the choice, the verdicts, and what is recommended."""

    base: str
    family: int
    choice: Choice
    degradation: dict[str, Any]
    """Settings that were matched; empty: none were."""
    degradation_evidence: dict[str, Any]
    """"searched" and "held_out" identities -> degradation -> AUC of a probe that tells real low resolution from it."""
    judged: list[JudgedRemedy]
    recommended: str
    """Label of the remedy that meets the criterion and was ranked best on development faces; empty: none."""
    statement: str
    calibration: dict[str, dict[str, Calibration]]
    """What the threshold was chosen on -> label."""
    development: dict[str, dict[str, Summary]]
    """Label -> quantity on development faces."""
    unseen: str = ""
    """What of the degradation that probes are tested on training has not seen, in words."""
    public: list[PublicResult] = field(default_factory=list)
    """On public sets of real low-resolution faces; empty where none was given."""
