"""The choice among remedies, on development faces alone, written down before any test pair is looked at.

``RULE`` says how. "Surely" means that the interval lies beyond the bound.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.evaluation.compare import Estimate
from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.reader import PairSet
from hrfr_fast.model.checkpoint import weights_path
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.study.compare import HR_HR, HR_LR, outcomes_of, rates_of, units_of, verified_of
from hrfr_fast.study.plan import StudyPlan
from hrfr_fast.study.remedies.development import NATIVE, DevelopmentScores, development_sets, read_development
from hrfr_fast.study.remedies.results import Choice, Evidence, Gain
from hrfr_fast.study.remedy import COLLAPSED, TOLERATED
from hrfr_fast.study.space import either_way, probe_area
from hrfr_fast.study.summary import Summary, summarize

RULE = (
    "Score: the mean of three gains over the base on development faces, in shares: TAR at FAR 1e-2 of sharp against"
    " degraded faces; the fall of the probe's AUC on degradations never trained on (mean over those and over the linear"
    " and the nearest-neighbour probe; an AUC below 0.5 counts as one that is as far above); the accuracy on pairs of"
    " real low-resolution faces. Out of the choice is what surely costs more than half a point of accuracy on sharp"
    " pairs, or has collapsed. The best that can be one regime are put together."
)
TAR, PROBE, LOW, HIGH = "TAR at FAR 1e-2, HR-LR", "fall of the probe's AUC", "accuracy, native LR", "accuracy, HR-HR"
SCORED = (TAR, PROBE, LOW)
"""Gains whose mean is the score."""
Found = Mapping[str, Mapping[int, DevelopmentScores]]
"""Label -> seed -> scores."""


def read_choice(path: Path) -> Choice | None:
    """The choice that ``save`` wrote; None where there is none. Raises UsageError for a damaged file."""
    from pydantic import TypeAdapter, ValidationError

    if not path.exists():
        return None
    try:
        return TypeAdapter(Choice).validate_python(parsed_json(path.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise UsageError(f"{path}: cannot be read as a choice among remedies: {error}") from None


def now() -> str:
    """The time for files, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def weights_of(plan: StudyPlan) -> dict[str, str]:
    """Digests of all checkpoints of ``plan``, as ``Choice.weights`` has them."""
    return {f"{run.label} {run.seed}": file_digest(weights_path(run.directory)) for run in plan.runs}


def evidence_of(plan: StudyPlan, base: str, labels: Sequence[str]) -> list[Evidence]:
    """Evidence of the remedies ``labels`` against ``base``, from the runs of ``plan``, scored on development faces."""
    found = _found(plan, [base, *labels])
    estimates = development_estimates(plan, found)
    return [_evidence(label, base, estimates, found, _units(plan)) for label in labels]


def _units(plan: StudyPlan) -> dict[str, int]:
    sets = development_sets(plan.packed)
    high, low = units_of(sets.high), units_of(sets.low)
    return {TAR: high, PROBE: len(np.unique(sets.people())), LOW: low, HIGH: high}


def development_estimates(plan: StudyPlan, found: Found) -> dict[str, dict[str, Estimate]]:
    """Quantity -> label -> estimate; of the probe 1 - AUC, so that more is better."""
    sets = development_sets(plan.packed)

    def cosines(view: str) -> dict[str, Any]:
        return {label: {seed: one.by_view[view] for seed, one in seeds.items()} for label, seeds in found.items()}

    def accuracies(view: str, pairs: PairSet) -> dict[str, Estimate]:
        return {
            label: decided.accuracy for label, decided in outcomes_of(verified_of(cosines(view), pairs), pairs).items()
        }

    across = cosines(HR_LR)
    tars = rates_of(across, verified_of(across, sets.high), sets.high)
    result = {
        TAR: {label: rates["0.01"] for label, rates in tars.items()},
        LOW: accuracies(NATIVE, sets.low),
        HIGH: accuracies(HR_HR, sets.high),
    }
    if all(one.probe for seeds in found.values() for one in seeds.values()):
        result[PROBE] = {label: _closeness(seeds, sets.people()) for label, seeds in found.items()}
    return result


def _closeness(seeds: Mapping[int, DevelopmentScores], people: Any) -> Estimate:
    """1 - AUC of the probes (``either_way``), mean over kinds and views."""
    kinds = next(iter(seeds.values())).probe
    areas = [either_way(probe_area({seed: one.probe[kind] for seed, one in seeds.items()}, people)) for kind in kinds]
    return Estimate(
        areas[0].seeds,
        1 - np.mean([area.values for area in areas], axis=0),
        1 - np.mean([area.resampled for area in areas], axis=0),
    )


def _evidence(
    label: str,
    base: str,
    estimates: Mapping[str, Mapping[str, Estimate]],
    found: Found,
    units: Mapping[str, int],
) -> Evidence:
    gains = {}
    for quantity, by_label in estimates.items():
        change = summarize(by_label[label].minus(by_label[base]), units[quantity], rate=False)
        gains[quantity] = Gain(change.value, change.interval, len(change.by_seed))
    shared = sorted(set(found[label]) & set(found[base]))
    ratio = min(found[label][seed].effective_rank / found[base][seed].effective_rank for seed in shared)
    why = ""
    if gains[HIGH].interval[1] < TOLERATED:
        why = f"it surely costs more than {-100 * TOLERATED:g} points of accuracy on sharp pairs"
    elif ratio < COLLAPSED:
        why = f"its effective rank fell to {ratio:.2f} of the base's"
    score = float(np.mean([gains[name].value for name in SCORED if name in gains]))
    return Evidence(label, gains, ratio, score, why)


def ranking(evidence: Sequence[Evidence]) -> list[str]:
    """Labels that are not out of the choice, the best score first; of equal ones the first stays first."""
    return [one.label for one in sorted(evidence, key=lambda one: -one.score) if not one.why_not]


def evidence_estimates(plan: StudyPlan, labels: Sequence[str], quantity: str) -> tuple[dict[str, Estimate], int]:
    """Label -> estimate of one quantity, and the units that it was resampled over."""
    return development_estimates(plan, _found(plan, labels))[quantity], _units(plan)[quantity]


def development_summaries(plan: StudyPlan, labels: Sequence[str]) -> dict[str, dict[str, Summary]]:
    """Label -> quantity -> summary of the values themselves; of the probe 1 - AUC."""
    units, estimates = _units(plan), development_estimates(plan, _found(plan, labels))
    return {
        label: {name: summarize(by_label[label], units[name]) for name, by_label in estimates.items()}
        for label in labels
    }


def _found(plan: StudyPlan, labels: Sequence[str]) -> dict[str, dict[int, DevelopmentScores]]:
    found: dict[str, dict[int, DevelopmentScores]] = {}
    for label in labels:
        for run in plan.of(label):
            scores = read_development(run.directory)
            if scores is None:
                raise HrfrError(f"{run.directory} is not scored on development faces; {plan.out} was changed meanwhile")
            found.setdefault(label, {})[run.seed] = scores
    return found
