"""Plan of a study: its training runs, made of regimes and seeds, parents before children."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hrfr_fast.format.reader import Packed
from hrfr_fast.regimes import CONTROLS, TABLE, Regime, in_order, regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.study.presets import Preset

COUNTED_IN = {"lowres": "lowres", "highres": "highres", "finetune": "highres", "fused": "highres"}
"""Budget -> the split whose passes it is counted in, so that a regime and its control take equally many steps."""
APART = ("dose", "sphere")
"""Stages whose runs are not compared with the regimes: each has a question of its own."""
DOSED = ("highlow144", "lowres144-finetuned")


@dataclass(frozen=True)
class StudyRun:
    """One training run. ``label``: the regime's name, with the dose where there is one."""

    label: str
    regime: Regime
    seed: int
    stage: str
    """"regime", "control", one of APART, or in a study of remedies one of those in ``remedies/plan.py``."""
    settings: TrainSettings
    dose: dict[str, float] | None = None
    """``{"highres_identities": share}`` or ``{"highres_share": share}``."""

    @property
    def directory(self) -> Path:
        return self.settings.run_directory

    @property
    def steps(self) -> int:
        """Optimiser steps at most; a study always sets them."""
        return self.settings.budget.steps or 0

    @property
    def batch_size(self) -> int:
        """Samples a step; a study always sets it."""
        return self.settings.sampling.batch_size or 0

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """Training runs in the order of their execution: seed by seed, so that a study stopped early has whole seeds."""

    runs: tuple[StudyRun, ...]
    preset: Preset
    seeds: tuple[int, ...]
    packed: Packed
    out: Path
    device: str = "auto"
    tests: bool = True
    """Whether runs are scored on the test faces; before remedies are chosen they are on development faces alone."""
    shown: tuple[str, ...] = ()
    """Labels whose embeddings are analysed; none: as the preset says."""

    @property
    def labels(self) -> list[str]:
        """Each once, in order."""
        return list(dict.fromkeys(run.label for run in self.runs))

    def detailed(self, run: StudyRun) -> bool:
        """Whether ``run`` also gets the resolution curve and identification."""
        return run.seed < self.preset.detailed_seeds and run.stage not in APART

    def probed(self, run: StudyRun) -> bool:
        """Whether ``run`` gets the probe of the true resolution: of remedies every one."""
        return self.preset.remedies is not None or run.label in self.preset.probed

    def of(self, label: str) -> list[StudyRun]:
        """The runs of one label, by seed."""
        return [run for run in self.runs if run.label == label]


def make_plan(
    regimes: Iterable[str],
    preset: Preset,
    packed: Packed,
    out: str | Path,
    *,
    seeds: int = 0,
    device: str = "auto",
    dose: bool = False,
) -> StudyPlan:
    """The plan of a study.

    Args:
        regimes: names or .toml files; "all" stands for the ten of the table and their controls. Parents are added.
        seeds: 0 .. seeds - 1 are run; 0: as the preset says.
        dose: add the dose-response stage.

    Raises:
        UsageError: an unknown regime, a split that is not packed, or a budget the preset does not know.
    """
    names: list[str] = []
    for name in regimes:
        names += [regime.name for regime in TABLE + CONTROLS] if name == "all" else [name]
    if not names:
        raise UsageError("no regime was given; give --regimes all, or names separated by commas")
    ordered = [(name, regime_named(name)) for name in in_order(names)]
    for _, regime in ordered:
        missing = [split for split in regime.sources if split not in packed.splits]
        if missing:
            raise UsageError(
                f"{packed.path}: regime {regime.name} needs {', '.join(missing)}, which is not packed; name others"
            )
    if seeds < 0:
        raise UsageError(f"--seeds {seeds}: it takes 0 (as the preset says) or more")
    seed_numbers = tuple(range(seeds or preset.seeds))
    out, runs = Path(out), []
    for seed in seed_numbers:
        for name, regime in ordered:
            settings = settings_of(name, regime, preset, packed, out, seed, device)
            stage = "control" if regime.control_of else "regime"
            runs.append(StudyRun(regime.name, regime, seed, stage, settings))
        if dose:
            runs += _dose_runs([run for run in runs if run.seed == seed], preset)
        if seed == seed_numbers[0]:
            runs += [_sphere_run(run, preset) for run in runs if run.label in preset.sphere]
    return StudyPlan(tuple(runs), preset, seed_numbers, packed, out, device)


def settings_of(
    name: str, regime: Regime, preset: Preset, packed: Packed, out: Path, seed: int, device: str
) -> TrainSettings:
    """The training settings of one run; it lies in ``out/runs/seed<k>``, beside its parents."""
    batch = preset.batch_size(regime.input_size)
    steps = budget_of(regime, preset, packed)
    epoch = _epoch(regime, packed) / batch
    plateau = preset.plateau if regime.budget == "highres" else None
    looks = max(preset.looks, 3 * (plateau or 0))
    own = {
        "regime": name, "data": str(packed.path), "out": str(out / "runs" / f"seed{seed}" / regime.name),
        "seed": seed, "steps": steps, "batch_size": batch, "device": device,
        "eval_every": steps / epoch / (looks + 1) if looks else 0.0,
        "plateau": plateau,
    }  # fmt: skip
    return TrainSettings().updated(dict(preset.settings) | own, f"preset {preset.name}")


def budget_of(regime: Regime, preset: Preset, packed: Packed) -> int:
    """Optimiser steps of one run. Passes become steps at the batch size of the largest input, so that regimes of one
    budget take equally many whatever their own batch. Raises UsageError where the preset does not say."""
    if not regime.phases:
        return 1  # assembled from its parents; no step is taken
    if regime.budget in preset.steps:
        return preset.steps[regime.budget]
    if regime.budget not in preset.epochs:
        raise UsageError(f"preset {preset.name} gives no steps or epochs for budget {regime.budget!r} ({regime.name})")
    split = COUNTED_IN.get(regime.budget, regime.sources[-1])
    if split not in packed.splits:
        raise UsageError(
            f"preset {preset.name} counts budget {regime.budget!r} ({regime.name}) in passes over {split}, which is "
            "not packed; give it in steps"
        )
    batch = preset.batch_size(max(map(int, preset.batch)))
    return max(1, math.ceil(preset.epochs[regime.budget] * packed.splits[split].samples / batch))


def _epoch(regime: Regime, packed: Packed) -> int:
    return sum(packed.splits[split].samples for split in regime.sources)


def _dose_runs(runs: list[StudyRun], preset: Preset) -> list[StudyRun]:
    """One seed's dose-response runs, of those of DOSED that are in the study."""
    made = []
    for run in (run for run in runs if run.label in DOSED):
        doses = [("highres_identities", share) for share in preset.dose_identities]
        doses += [("highres_share", share) for share in preset.dose_shares if len(run.regime.sources) > 1]
        for name, share in doses:
            label = f"{run.label}-{name.removeprefix('highres_')}{100 * share:g}"
            settings = run.settings.updated({"out": str(run.directory.parent / label), name: share}, "dose")
            made.append(StudyRun(label, run.regime, run.seed, "dose", settings, {name: share}))
    return made


def _sphere_run(run: StudyRun, preset: Preset) -> StudyRun:
    """The same regime with three-dimensional embeddings, to be drawn on the sphere."""
    label = f"{run.label}-sphere"
    values = dict(preset.sphere_settings) | {"out": str(run.directory.parent / label)}
    return StudyRun(label, run.regime, run.seed, "sphere", run.settings.updated(values, f"preset {preset.name}"))
