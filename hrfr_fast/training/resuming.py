"""The settings of a run that goes on: its own, but for what changes speed alone."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from hrfr_fast.errors import UsageError
from hrfr_fast.settings import SPEED_ONLY, TrainSettings, load_settings


def resumed_settings(given: TrainSettings) -> TrainSettings:
    """The settings the run in ``given.run_directory`` was started with; of ``SPEED_ONLY`` those given now, where they
    are not the defaults.

    A regime of the user's is read from the copy in the run directory. Raises UsageError where there is no run.
    """
    saved = _saved(given)
    regime = str(given.run_directory / "regime.toml") if saved.regime.endswith(".toml") else saved.regime
    defaults = {one.name: one.default for one in fields(TrainSettings)}
    speed = {name: getattr(given, name) for name in SPEED_ONLY if getattr(given, name) != defaults[name]}
    return replace(saved, regime=regime, out=str(given.run_directory), **speed)


def refuse_changes(given: TrainSettings, asked: Iterable[str]) -> None:
    """Raise UsageError where a setting that was ``asked`` for by name is not what the saved run has.

    "auto" is what the run found for itself.
    """
    saved = _saved(given)
    for name in asked:
        now, before = getattr(given, name), getattr(saved, name)
        if name not in (*SPEED_ONLY, "out") and now != before and now not in (0, "auto"):
            raise UsageError(
                f"{given.run_directory} has {name} {before!r}, and --resume cannot change it to {now!r}; leave it out, "
                "or train a new run with another --out"
            )


def result_settings(settings: TrainSettings) -> dict[str, Any]:
    """What a checkpoint keeps of the settings: those that decide the result, but not where files lie."""
    values = asdict(settings)
    return {name: value for name, value in values.items() if name not in (*SPEED_ONLY, "data", "init", "out", "regime")}


def refuse_mixture(run: Path, state: Mapping[str, Any], settings: TrainSettings, total_steps: int) -> None:
    """Raise UsageError where a checkpoint is not of the settings beside it: two trainings have written to ``run``."""
    now = result_settings(settings)
    before = state.get("settings", {})  # older checkpoints have none
    other = [
        f"{name} {before[name]!r}, and now {now[name]!r}" for name in now if before.get(name, now[name]) != now[name]
    ]
    if state["step"] > total_steps:
        other.append(f"step {state['step']:,}, and now {total_steps:,} in all")
    if other:
        raise UsageError(
            f"{run}: its checkpoint is of other settings than its settings.toml ({'; '.join(other)}): two trainings"
            " have written there, or the file was changed. Train anew in another --out"
        )


def how_to_go_on(run: Path) -> str:
    """What is kept of a run that ended with an error, and the command that continues it."""
    if not (run / "checkpoints" / "last.state.pt").exists():
        return "No checkpoint was written yet: run the same command again"
    return f"The last checkpoint is kept; continue with\n  hrfr-fast train --out {run} --resume"


def _saved(given: TrainSettings) -> TrainSettings:
    path = given.run_directory / "settings.toml"
    if not path.exists():
        raise UsageError(f"{given.run_directory}: nothing to resume, there is no settings.toml")
    return load_settings(path)
