"""Estimate of the time a study takes on this device, from a few timed steps of each input size."""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrfr_fast.format.reader import Packed
from hrfr_fast.regimes import Regime, needed_regimes
from hrfr_fast.study.plan import StudyPlan, StudyRun

STEPS = 3
"""Timed training steps, in the last phase of training."""
IMAGES = 32
"""Timed images of embedding."""
FORWARD = 1 / 3
"""Share of the forward pass in a training step's time: the backward pass costs twice as much."""


@dataclass(frozen=True)
class ImagesPerSecond:
    """Of one input size on this device, trained on and embedded (two passes, face and mirrored)."""

    trained: float
    embedded: float


def time_steps(plan: StudyPlan) -> dict[int, ImagesPerSecond]:
    """Rates by input size, of runs without parents in this study. Writes to a temporary directory only."""
    chosen: dict[int, StudyRun] = {}
    for run in sorted(plan.runs, key=lambda run: len(run.regime.parents)):
        if run.regime.phases and not needed_regimes(run.regime):
            chosen.setdefault(run.regime.input_size, run)
    with tempfile.TemporaryDirectory(prefix="hrfr-study-") as folder:
        return {size: _time_steps(run, Path(folder) / str(size)) for size, run in chosen.items()}


def _time_steps(run: StudyRun, out: Path) -> ImagesPerSecond:
    from hrfr_fast.evaluation.embedding import embed
    from hrfr_fast.runtime.signals import StopFlag
    from hrfr_fast.training.build import build
    from hrfr_fast.training.trainer import Trainer

    warm_up = 1 + math.ceil(1 / min(phase.share for phase in run.regime.phases))  # every phase gets a step
    short = {"out": str(out), "steps": warm_up, "log_every": warm_up, "eval_every": 0.0, "plateau": None}
    settings = run.settings.updated(short, "timing")
    with Trainer(build(settings), show_progress=False) as trainer:
        trainer.start()
        trainer.loop(StopFlag())  # the last line it logs waits for the device
        batch = next(iter(trainer.setup.engine.batches(0, trainer.setup.stream.batch_size)))
        began = time.perf_counter()
        for _ in range(STEPS):
            trainer.step(batch)
        trainer.log.read(everything=True)  # waits for the device
        trained = STEPS * trainer.setup.stream.batch_size / (time.perf_counter() - began)
        split = trainer.setup.stream.splits[0]
        records = np.arange(min(IMAGES, split.samples))
        times = []
        for _ in range(2):  # the first pass compiles: it made a 13-second run look like 34 minutes
            began = time.perf_counter()
            embed(trainer.setup.backbone, split, run.regime.input_size, trainer.setup.compute, records=records)
            times.append(time.perf_counter() - began)
        return ImagesPerSecond(trained, len(records) / times[-1])


def seconds_of(run: StudyRun, plan: StudyPlan, throughputs: Mapping[int, ImagesPerSecond], images: int) -> float:
    """Estimated seconds of training and scoring one run.

    Args:
        images: distinct ones in all pair sets.
    """
    throughput = throughputs.get(run.regime.input_size) or next(iter(throughputs.values()), None)
    if throughput is None:
        return 0.0  # nothing is trained
    trained = run.steps * run.batch_size * work_of(run.regime) / throughput.trained
    views = 1 + plan.preset.looks + 2 + (len(plan.preset.sides) if plan.detailed(run) else 0)
    return trained + views * images / throughput.embedded


def work_of(regime: Regime) -> float:
    """Cost of a training step relative to one that trains everything; frozen bodies leave only their forward pass."""
    return sum(phase.share * (1 if "body" in phase.train else FORWARD) for phase in regime.phases)


def estimates(plan: StudyPlan, runs: list[StudyRun]) -> dict[Path, float]:
    """Run directory -> estimated seconds of ``runs``; times a few steps, unless there are none."""
    throughputs = time_steps(plan) if runs else {}
    images = images_to_verify(plan.packed)
    return {run.directory: seconds_of(run, plan, throughputs, images) for run in runs}


class TimeLeft:
    """Time left of a study: the estimates of the runs to come, scaled by actual over estimated time so far.

    Args:
        planned: as ``estimates`` gives it, of the runs to come; empty where nothing is known.
    """

    def __init__(self, planned: Mapping[Path, float]) -> None:
        self.planned = dict(planned)
        self.taken, self.done = 0.0, 0.0

    def executed(self, run: StudyRun, seconds: float) -> None:
        """Take ``run`` off, which took so long."""
        if run.directory in self.planned:
            self.taken += seconds
            self.done += self.planned.pop(run.directory)

    def seconds(self, places: int = 1) -> float:
        """Where so many runs are executed at once, each as fast as one."""
        slower = self.taken / self.done if self.done else 1.0
        return slower * sum(self.planned.values()) / max(1, min(places, len(self.planned)))


def images_to_verify(packed: Packed) -> int:
    """Distinct images over all pair sets."""
    from hrfr_fast.evaluation.embedding import distinct_pictures

    return sum(len(distinct_pictures(pairs.split)[0]) for pairs in packed.pairs.values())
