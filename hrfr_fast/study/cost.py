"""How long a study will take on this device, from a few measured steps of each input size."""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrfr_fast.format.reader import Packed
from hrfr_fast.regimes import Regime, is_checkpoint
from hrfr_fast.study.plan import StudyPlan, StudyRun

STEPS = 3  # timed, in the last phase of training
PICTURES = 32
FORWARD = 1 / 3  # of a training step's time: the backward pass costs twice the forward pass


@dataclass(frozen=True)
class Throughput:
    """Of one input size on this device: pictures a second, trained on and embedded (two passes, face and mirror)."""

    trained: float
    embedded: float


def measure(plan: StudyPlan) -> dict[int, Throughput]:
    """Time a few steps of one run of each input size, of those that wait for no other. Writes to a temporary directory
    only."""
    chosen: dict[int, StudyRun] = {}
    for job in sorted(plan.jobs, key=lambda job: len(job.regime.parents)):
        if job.regime.phases and all(is_checkpoint(parent) for parent in job.regime.parents):
            chosen.setdefault(job.regime.input_size, job)
    with tempfile.TemporaryDirectory(prefix="hrfr-study-") as folder:
        return {size: _measure(job, Path(folder) / str(size)) for size, job in chosen.items()}


def _measure(job: StudyRun, out: Path) -> Throughput:
    from hrfr_fast.evaluation.embedding import embed
    from hrfr_fast.runtime.signals import StopFlag
    from hrfr_fast.training.build import build
    from hrfr_fast.training.trainer import Trainer

    warm_up = 1 + math.ceil(1 / min(phase.share for phase in job.regime.phases))  # every phase gets a step
    short = {"out": str(out), "steps": warm_up, "log_every": warm_up, "eval_every": 0.0, "plateau": None}
    settings = job.settings.updated(short, "timing")
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
        records = np.arange(min(PICTURES, split.samples))
        times = []
        for _ in range(2):  # the first time kernels are compiled: it made a 13-second run look like 34 minutes
            began = time.perf_counter()
            embed(trainer.setup.backbone, split, job.regime.input_size, trainer.setup.compute, records=records)
            times.append(time.perf_counter() - began)
        return Throughput(trained, len(records) / times[-1])


def seconds_of(job: StudyRun, plan: StudyPlan, speeds: Mapping[int, Throughput], pictures: int) -> float:
    """Estimated seconds of training and judging one job.

    Args:
        pictures: distinct ones in all pair sets.
    """
    speed = speeds.get(job.regime.input_size) or next(iter(speeds.values()), None)
    if speed is None:
        return 0.0  # nothing is trained
    trained = job.steps * job.batch_size * work_of(job.regime) / speed.trained
    views = 1 + plan.preset.looks + 2 + (len(plan.preset.sides) if plan.detailed(job) else 0)
    return trained + views * pictures / speed.embedded


def work_of(regime: Regime) -> float:
    """Of a training step in which everything moves: 1; where the bodies are frozen only their forward pass is left."""
    return sum(phase.share * (1 if "body" in phase.train else FORWARD) for phase in regime.phases)


def estimates(plan: StudyPlan, jobs: list[StudyRun]) -> dict[Path, float]:
    """Run directory -> estimated seconds of ``jobs``; times a few steps, unless there are none."""
    speeds = measure(plan) if jobs else {}
    pictures = pictures_to_verify(plan.packed)
    return {job.run: seconds_of(job, plan, speeds, pictures) for job in jobs}


class Clock:
    """Time left of a study: what was estimated for the jobs to come, corrected by how the estimate has fared so far."""

    def __init__(self, plan: StudyPlan, jobs: list[StudyRun]) -> None:
        self.planned = estimates(plan, jobs)
        self.taken, self.done = 0.0, 0.0

    @contextmanager
    def doing(self, job: StudyRun) -> Iterator[None]:
        """Around the training and judging of ``job``, one of those given."""
        began = time.monotonic()
        yield
        self.taken += time.monotonic() - began
        self.done += self.planned.pop(job.run)

    @property
    def left(self) -> float:
        """Seconds."""
        pace = self.taken / self.done if self.done else 1.0
        return pace * sum(self.planned.values())


def pictures_to_verify(packed: Packed) -> int:
    """Distinct pictures over all pair sets."""
    from hrfr_fast.evaluation.embedding import distinct_pictures

    return sum(len(distinct_pictures(pairs.split)[0]) for pairs in packed.pairs.values())
