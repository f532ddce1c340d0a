"""The settings of a run that goes on: its own, but for what changes speed alone, and where its data and parents are."""

import math
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hrfr_fast.format import manifest
from hrfr_fast.format.shard_files import is_plain
from hrfr_fast.model import checkpoint
from hrfr_fast.model.lineage import candidate_paths, changed_run_data
from hrfr_fast.regimes import Regime, load_regime, regime_named
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.settings import SPEED_ONLY, TrainSettings, load_settings
from hrfr_fast.training.parents import Parent, parent_paths, paths_in
from hrfr_fast.training.teacher import teacher_path

COPY = "Take a copy of it from elsewhere, or train anew in another --out"
PLACES = ("data", "init", "teacher", "out")
"""Settings that say where something lies: digests prove that it is the same, so they may change."""


def resumed_settings(given: TrainSettings) -> TrainSettings:
    """The settings the run in ``given.run_directory`` was started with; of ``SPEED_ONLY`` those given now,
    and data and parents where they are now.

    A regime of the user's is read from the copy in the run directory.

    Raises:
        UsageError: there is no run, or its data or parents are not found; says where they were looked for.
    """
    saved, run = _saved(given), given.run_directory
    regime = str(run / "regime.toml") if saved.regime.endswith(".toml") else saved.regime
    now, defaults = given.flat(), TrainSettings().flat()
    changed = {name: now[name] for name in SPEED_ONLY if name in given.given}
    last = run / "checkpoints" / "last.safetensors"
    known = checkpoint.read_metadata(last) if last.exists() else {}
    data = [given.data] if given.data != defaults["data"] else [*_data_places(saved, known, run), given.data]
    places = {"regime": regime, "out": str(run), "data": _find_data(data, known, run), "init": given.init or saved.init}
    places["teacher"] = given.loss.teacher or saved.loss.teacher
    here = saved.updated(places | changed, str(run))
    found = {"init": _find_parents(here, known, saved), "teacher": _find_teacher(here, known, saved)}
    return here.updated(found, str(run))


def refuse_changes(given: TrainSettings, asked: Iterable[str]) -> None:
    """Raise UsageError where a setting that was ``asked`` for by name is not what the saved run has.

    "auto" is what the run found for itself. Data and parents are compared by their digests when they are found.
    """
    saved, wanted = _saved(given).flat(), given.flat()
    for name in asked:
        now, before = wanted[name], saved[name]
        if name in (*SPEED_ONLY, *PLACES) or now == before or now in (None, "auto"):
            continue
        if name == "regime" and now.endswith(".toml") and load_regime(now) == load_regime(_regime_copy(given)):
            continue
        raise UsageError(
            f"{given.run_directory} has {name} {before!r}, and --resume cannot change it to {now!r}; leave it out, "
            "or train a new run with another --out"
        )


def with_absolute_paths(settings: TrainSettings) -> TrainSettings:
    """``settings`` as a run directory keeps them: they mean the same from every working directory."""
    regime = settings.regime
    places = {
        "data": os.path.abspath(settings.data),
        "out": os.path.abspath(settings.run_directory),
        "init": ",".join(map(os.path.abspath, paths_in(settings.init))),
        "teacher": os.path.abspath(settings.loss.teacher) if settings.loss.teacher else "",
        "regime": os.path.abspath(regime) if regime.endswith(".toml") else regime,
    }
    return settings.updated(places, "settings.toml")


def result_settings(settings: TrainSettings) -> dict[str, Any]:
    """What a checkpoint keeps of the settings: those that decide the result, but not where files lie."""
    return {name: value for name, value in settings.flat().items() if name not in (*SPEED_ONLY, *PLACES, "regime")}


def refuse_other_state(path: Path, state: Any) -> None:
    """Raise DamageFound where ``state``, which the file ``path`` held, cannot be that of a training: files come from
    anybody, and a whole one may hold anything."""
    wrong = "it is no dictionary"
    if isinstance(state, dict):
        counts = [name for name in ("step", "phase") if type(state.get(name)) is not int or state[name] < -1]
        numbers = [
            name
            for name in ("next_eval", "best_accuracy")
            if not isinstance(state.get(name), int | float) or math.isnan(state[name])
        ]
        tables = [name for name in ("backbone", "head", "plateau") if not isinstance(state.get(name), dict)]
        missing = [name for name in ("data_digest", "optimizer", "scaler", "random") if name not in state]
        rows = state.get("rows", {"file": "x", "names": []})
        known = isinstance(rows, dict) and is_plain(rows.get("file")) and isinstance(rows.get("names"), list)
        wrong = ", ".join([*counts, *numbers, *tables, *missing, *([] if known else ["rows"])])
    if wrong:
        raise DamageFound(f"{path}: a whole file, but not the state of a training ({wrong}). {COPY}")


def refuse_mixture(
    run: Path, state: Mapping[str, Any], settings: TrainSettings, regime: Regime, total_steps: int
) -> None:
    """Raise UsageError where a checkpoint is not of the settings and the regime beside it: two trainings have written
    to ``run``, or a file was changed."""
    now = result_settings(settings)
    before = state.get("settings", {})  # older checkpoints have none
    other = [
        f"{name} {before[name]!r}, and now {now[name]!r}" for name in now if before.get(name, now[name]) != now[name]
    ]
    fields = regime.model_dump(mode="json")
    known = state.get("regime", {})
    other += [
        f"the regime's {name} {known[name]!r}, and now {fields[name]!r}"
        for name in fields.keys() - {"summary", "parents"}  # parents are known by their digests
        if known.get(name, fields[name]) != fields[name]
    ]
    if state["step"] > total_steps:
        other.append(f"step {state['step']:,}, and now {total_steps:,} in all")
    if other:
        raise UsageError(
            f"{run}: its checkpoint is of other settings than its settings.toml ({'; '.join(other)}): two trainings"
            " have written there, or the file was changed. Train anew in another --out"
        )


def resume_command(run: Path, ranks: Ranks = ALONE) -> str:
    """The command that continues ``run``, from any working directory; on several machines, on each of them."""
    what = f"train --out {shlex.quote(str(run.absolute()))} --resume"
    if not ranks.distributed:
        return f"hrfr-fast {what}"
    how = f"--nproc-per-node {ranks.local_count}"
    if ranks.machines > 1:
        how += f" --nnodes {ranks.machines} (and the --rdzv options as before)"
    return f"torchrun {how} -m hrfr_fast {what}"


def how_to_go_on(run: Path, ranks: Ranks = ALONE) -> str:
    """What is kept of a run that ended with an error, and the command that continues it."""
    if not (run / "checkpoints" / "last.state.pt").exists():
        return "No checkpoint was written yet: run the same command again"
    return f"The last checkpoint is kept; continue with\n  {resume_command(run, ranks)}"


def _saved(given: TrainSettings) -> TrainSettings:
    path = given.run_directory / "settings.toml"
    if not path.exists():
        raise UsageError(
            f"{given.run_directory}: nothing to resume, there is no settings.toml; name the run with --out"
        )
    return load_settings(path)


def _regime_copy(given: TrainSettings) -> Path:
    return given.run_directory / "regime.toml"


def _data_places(saved: TrainSettings, known: Mapping[str, Any], run: Path) -> list[str]:
    """Where the run's data may lie: as its checkpoint recorded it, and as its settings say."""
    recorded = known.get("data", {})
    looked = candidate_paths(recorded["path"], recorded.get("from_run", ""), run) if recorded else []
    return [str(place) for place in [*looked, *candidate_paths(saved.data, _from_run(saved.data, saved), run)]]


def _from_run(path: str, saved: TrainSettings) -> str:
    """``path`` of the settings as it is seen from the run directory of the settings; "" where they do not say."""
    both_known = os.path.isabs(path) == os.path.isabs(saved.run_directory)
    return os.path.relpath(path, saved.run_directory) if both_known else ""


def _find_data(looked: Iterable[str], known: Mapping[str, Any], run: Path) -> str:
    """The first place of ``looked`` with the data that a run whose checkpoint has the metadata ``known`` goes on with;
    of a run without a checkpoint, which starts again, the first with any."""
    problems = {}
    for place in dict.fromkeys(looked):
        try:
            other = changed_run_data(known, manifest.read(Path(place))) if known else []
        except HrfrError as error:
            problems[place] = str(error) if Path(place).exists() else "no such directory"
            continue
        if not other:
            return place
        problems[place] = f"other data ({', '.join(other)} is not what the run was started with)"
    raise UsageError(
        f"{run}: the data it is trained on were not found; looked at\n{_listed(problems)}\n"
        "Say where they are now with --data, or train a new run on others"
    )


def _find_parents(here: TrainSettings, known: Mapping[str, Any], saved: TrainSettings) -> str:
    """What ``init`` of the resumed run ``here`` has to be; "" where its parents lie beside it, as by default."""
    regime, run = regime_named(here.regime), here.run_directory
    paths = parent_paths(regime, here)
    records = known.get("parents", [{}] * len(paths))
    found = []
    for path, record in zip(paths, records, strict=True):
        looked = [path]
        if here.init == saved.init:  # the user names no other
            looked += map(str, candidate_paths(path, _from_run(path, saved), run))
            looked += map(str, candidate_paths(record["path"], record.get("from_run", ""), run) if record else [])
        found.append(_find_parent(looked, record, run))
    return ",".join(found) if here.init or found != paths else ""


def _find_teacher(here: TrainSettings, known: Mapping[str, Any], saved: TrainSettings) -> str:
    """What ``teacher`` of the resumed run ``here`` has to be; "" where it lies beside it, as by default."""
    path, run = teacher_path(regime_named(here.regime), here), here.run_directory
    if path is None:
        return here.loss.teacher or ""
    record, looked = known.get("teacher", {}), [path]
    if here.loss.teacher == saved.loss.teacher:  # the user names no other
        looked += map(str, candidate_paths(path, _from_run(path, saved), run))
        looked += map(str, candidate_paths(record["path"], record.get("from_run", ""), run) if record else [])
    found = _find_parent(looked, record, run, "the teacher", "--teacher")
    return found if here.loss.teacher or found != path else ""


def _find_parent(
    looked: list[str], record: Mapping[str, Any], run: Path, what: str = "the checkpoint it started from",
    flag: str = "--init",
) -> str:  # fmt: skip
    """The first of ``looked`` that is the checkpoint of ``record``; without a record, which only a checkpoint of the
    run has, the first: it starts again."""
    problems = {}
    for place in dict.fromkeys(looked):
        try:
            weights = checkpoint.weights_path(place)
            if not record or Parent(weights, checkpoint.read_metadata(weights)).is_what(record):
                return place
            problems[place] = "another checkpoint, by its digest"
        except UsageError:
            problems[place] = "no checkpoint there"
    if not record:
        return looked[0]
    raise UsageError(
        f"{run}: {what} was not found; looked at\n{_listed(problems)}\n"
        f"Say where it is now with {flag}, or train the run anew"
    )


def _listed(problems: Mapping[str, str]) -> str:
    return "\n".join(f"  {place}: {problem}" for place, problem in problems.items())
