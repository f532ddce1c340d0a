"""The settings of a run that goes on: its own, but for what changes speed alone."""

from collections.abc import Iterable
from dataclasses import fields, replace

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


def _saved(given: TrainSettings) -> TrainSettings:
    path = given.run_directory / "settings.toml"
    if not path.exists():
        raise UsageError(f"{given.run_directory}: nothing to resume, there is no settings.toml")
    return load_settings(path)
