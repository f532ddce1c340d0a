"""What lies in a run's directory of a study: nothing, a run that was begun, or a finished one, and whether it fits."""

from pathlib import Path
from typing import Any

from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.reader import Packed
from hrfr_fast.regimes import Regime, needed_regimes
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.settings import SPEED_ONLY, TrainSettings
from hrfr_fast.study.plan import StudyRun
from hrfr_fast.training.recipes import with_recipe
from hrfr_fast.training.tuning import as_the_regime_tunes

SAME = "study-job.json"
"""In each run directory: the settings it was asked for, the digest of its data, its parents and its threads."""
NOT_COMPARED = (*SPEED_ONLY, "data", "out", "regime")
"""Settings that may differ where two runs are the same; data are compared by digest, a regime by its fields."""


def status(run: StudyRun, packed: Packed) -> str:
    """ "new", "begun" or "finished". Raises UsageError when the directory holds a run of other settings or data."""
    path = run.directory / SAME
    if not path.exists():
        if (run.directory / "settings.toml").exists():
            raise UsageError(f"{run.directory} holds a run that is no part of this study; choose another --out")
        return "new"
    known, wanted = _known(path), identity_of(run, packed.digest)
    parents = known.pop("parents", {})
    known.pop("threads", None)
    if known["data_digest"] != packed.digest and _trained_on_the_same(run, packed):
        known["data_digest"] = packed.digest
    if known != wanted:
        difference = _difference(known, wanted)
        raise UsageError(f"{run.directory} was made with {difference}; choose another --out, or remove it")
    for name, weights in parents_of(run).items():
        if parents.get(name, weights) != weights:
            raise UsageError(
                f"{run.directory} started from another {name} than there is now; remove it, to train it anew"
            )
    if (run.directory / "report" / "report.html").exists():
        return "finished"
    return "begun" if (run.directory / "settings.toml").exists() else "new"


def begin(run: StudyRun, packed: Packed, threads: int) -> None:
    """Make the run's directory, and say there what the run is. ``threads``: see ``threads_of``."""
    run.directory.mkdir(parents=True, exist_ok=True)
    what = identity_of(run, packed.digest) | {"parents": parents_of(run), "threads": threads}
    write_json(run.directory / SAME, what)


def threads_of(run: StudyRun) -> int:
    """How many threads the run was begun with; 0: with all cores of its machine, or it was not begun yet."""
    try:
        return int(parsed_json((run.directory / SAME).read_bytes()).get("threads", 0))
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
    ):  # ``status`` says what is wrong
        return 0


def _known(path: Path) -> dict[str, Any]:
    """The ``identity_of`` the run, as written when it was begun."""
    try:
        known: dict[str, Any] = parsed_json(path.read_bytes())
        known["settings"] = _compared(TrainSettings().replaced(**known["settings"]), Regime(**known["regime"]))
        known["regime"] = Regime(**known["regime"]).model_dump(mode="json")
        return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"{path}: damaged ({error!r}); remove {path.parent}, to train it anew") from None


def _trained_on_the_same(run: StudyRun, packed: Packed) -> bool:
    """Whether ``packed`` has the training splits and development pairs of a run begun before it changed elsewhere."""
    from hrfr_fast.model.checkpoint import read_metadata
    from hrfr_fast.model.lineage import changed_run_data

    last = run.directory / "checkpoints" / "last.safetensors"
    return last.exists() and not changed_run_data(read_metadata(last), packed.manifest)


def identity_of(run: StudyRun, digest: str) -> dict[str, Any]:
    """What decides a run's result: settings, the regime's fields, the data."""
    settings, regime = _compared(run.settings, run.regime), run.regime.model_dump(mode="json")
    return {"settings": settings, "regime": regime, "data_digest": digest}


def _compared(settings: TrainSettings, regime: Regime) -> dict[str, Any]:
    """The settings that decide a result; what is not set as network and regime have it."""
    whole = as_the_regime_tunes(with_recipe(settings, [settings.model.backbone]), regime).flat()
    return {name: value for name, value in whole.items() if name not in NOT_COMPARED}


def parents_of(run: StudyRun) -> dict[str, str]:
    """Parent or teacher -> digest of its last checkpoint as it is now; "" where it has none yet."""
    from hrfr_fast.model.checkpoint import weights_path

    digests = {}
    for name in needed_regimes(run.regime):
        try:
            digests[name] = file_digest(weights_path(run.directory.parent / name))
        except UsageError:
            digests[name] = ""
    return digests


def _difference(known: dict[str, Any], wanted: dict[str, Any]) -> str:
    if known["data_digest"] != wanted["data_digest"]:
        return "other data"
    for group in ("settings", "regime"):
        for name in sorted(set(known[group]) | set(wanted[group])):
            before, now = known[group].get(name), wanted[group].get(name)
            if before != now:
                return f"{name} {before!r}, and now it is {now!r}"
    return "other settings"
