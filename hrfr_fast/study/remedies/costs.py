"""What a remedy costs: time to train, parameters, time to embed, beside the base, as the study's own runs measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrfr_fast.evaluation.verification import verify
from hrfr_fast.model.checkpoint import weights_path
from hrfr_fast.regimes import needed_regimes
from hrfr_fast.study.plan import StudyPlan, StudyRun
from hrfr_fast.study.remedies.development import HR_HR, NATIVE, WRONG, development_sets, read_development
from hrfr_fast.study.remedies.results import Cost
from hrfr_fast.training.metrics import read_metrics


def cost_of(plan: StudyPlan, label: str, base: str) -> Cost:
    """The cost of the runs ``label`` beside those of ``base``, seed by seed."""
    own, others = plan.of(label), {run.seed: run for run in plan.of(base)}
    shared = [(run, others[run.seed]) for run in own if run.seed in others]
    return Cost(
        training_time=_mean_ratio([(_step_rate(other), _step_rate(run)) for run, other in shared]),
        parameters=backbone_parameters(own[0].directory) / backbone_parameters(others[own[0].seed].directory),
        test_time=_mean_ratio([(_embedding_rate(other), _embedding_rate(run)) for run, other in shared]),
        wrong_flag=_wrong_flag(plan, own),
        trained_first=list(needed_regimes(own[0].regime)),
    )


def _wrong_flag(plan: StudyPlan, runs: Sequence[StudyRun]) -> dict[str, float]:
    sets = development_sets(plan.packed)
    changes: dict[str, list[float]] = {}
    for scores in (read_development(run.directory) for run in runs):
        for name, pairs in ((HR_HR, sets.high), (NATIVE, sets.low)):
            if scores and name + WRONG in scores.by_view:
                wrong, right = (
                    verify(scores.by_view[view], pairs.same, resamples=0).accuracy for view in (name + WRONG, name)
                )
                changes.setdefault(name, []).append(wrong - right)
    return {name: float(np.mean(values)) for name, values in changes.items()}


def backbone_parameters(run: Path) -> int:
    """Numbers in the backbone of a run's last checkpoint, BatchNorm's running statistics included."""
    from safetensors import safe_open

    with safe_open(str(weights_path(run)), framework="numpy") as file:
        names = [name for name in file.keys() if name.startswith("backbone.")]  # noqa: SIM118 - it is no dict
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)


def _mean_ratio(rates: Sequence[tuple[float, float]]) -> float | None:
    """Mean of base over own rate: how many times as long it takes; geometric, None where nothing was measured."""
    known = [(theirs, own) for theirs, own in rates if theirs > 0 and own > 0]
    return float(np.exp(np.mean([np.log(theirs / own) for theirs, own in known]))) if known else None


def _step_rate(run: StudyRun) -> float:
    """Images a second in training, the median of the logged lines but the first, which compiles; 0 without any."""
    lines = [line for line in read_metrics(run.directory / "metrics.jsonl") if line["kind"] == "train"]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return float(np.median(rates[1:] or rates)) if rates else 0.0


def _embedding_rate(run: StudyRun) -> float:
    scores = read_development(run.directory)
    return scores.images_per_second if scores else 0.0
