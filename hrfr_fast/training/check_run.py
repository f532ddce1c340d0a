"""``hrfr-fast check RUN``: whatever of a run is read again, compared with its checksums or read as its readers do."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hrfr_fast.format.verify import Damage
from hrfr_fast.model.checkpoint import load_state, read_metadata
from hrfr_fast.model.sealed_files import BLOCK, read_header, what_helps
from hrfr_fast.regimes import load_regime, regime_named
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.settings import TrainSettings, is_run, load_settings
from hrfr_fast.training.head_rows import PATTERN
from hrfr_fast.training.metrics import is_line
from hrfr_fast.training.resuming import COPY, refuse_mixture, refuse_other_state
from hrfr_fast.training.state import STATE_FILE

SETTINGS, REGIME, METRICS, RESULTS = "settings.toml", "regime.toml", "metrics.jsonl", "results.json"


def check_run(path: str | Path) -> list[Damage]:
    """Look at every file of a run that resuming, evaluation or a report reads; an empty list: nothing is damaged.

    Checkpoints are compared with their checksums byte by byte, and settings with those that the checkpoint was trained
    with. A training that writes there at the same time replaces files while they are looked at.

    Raises:
        UsageError: there is no run at ``path``.
    """
    run = Path(path)
    if not is_run(run):
        raise UsageError(f"{run}: no run: there are neither {SETTINGS} nor checkpoints")
    state, damages = _state(run)
    damages += _settings(run, state)
    for weights in sorted((run / "checkpoints").glob("*.safetensors")):
        damages += _problem(run, weights, lambda weights=weights: _compare(weights))  # type: ignore[misc]
    damages += _missing(run, state)
    damages += _metrics(run / METRICS)
    damages += _results(run / RESULTS)
    return damages


def describe_run_check(path: str | Path) -> list[str]:
    """Sentences on what :func:`check_run` checks in the run ``path`` and what it cannot."""
    run = Path(path)
    checkpoints = run / "checkpoints"
    weights = sorted(checkpoints.glob("*.safetensors"))
    looked_at = [file for file in (SETTINGS, REGIME, METRICS, RESULTS) if (run / file).exists()]
    looked_at += [f"checkpoints/{file.name}" for file in [*weights, checkpoints / STATE_FILE] if file.exists()]
    lines = [f"checked: {', '.join(map(one_line, looked_at))}"]
    without = [file.name for file in weights if _checksums_of(file) is None]
    if without:
        lines.append(f"without checksums, of an earlier version: {', '.join(map(one_line, without))}")
    if not weights and not (checkpoints / STATE_FILE).exists():
        lines.append("it holds no checkpoint: it was stopped before the first one")
    elif not (checkpoints / STATE_FILE).exists():
        lines.append(f"it cannot be resumed: there is no {STATE_FILE}")
    lines.append("not checked: the report, its pictures and tensorboard, which no command reads")
    return lines


def _problem(run: Path, file: Path, look: Callable[[], object], then: str = "") -> list[Damage]:
    """The damage that ``look`` finds in ``file``, with the advice ``then`` where its message has none."""
    try:
        look()
    except OSError as error:
        return [Damage(str(file.relative_to(run)), None, f"cannot be read: {error.strerror}. {then}".strip())]
    except (HrfrError, ValueError) as error:
        what = str(error).removeprefix(f"{file}: ")
        return [Damage(str(file.relative_to(run)), None, f"{what}. {then}" if then else what)]
    return []


def _state(run: Path) -> tuple[dict[str, Any], list[Damage]]:
    """The training state, {} where there is none that can be read, and what is wrong with it."""
    path, found = run / "checkpoints" / STATE_FILE, dict[str, Any]()
    if not path.exists():
        return found, []
    damages = _problem(run, path, lambda: found.update(_read_state(path)))
    return found, damages


def _read_state(path: Path) -> dict[str, Any]:
    state = load_state(path, torch.device("cpu"))
    refuse_other_state(path, state)
    return state


def _settings(run: Path, state: dict[str, Any]) -> list[Damage]:
    """Of the settings and the regime, each by itself and against the training state."""
    path, read = run / SETTINGS, list[TrainSettings]()
    if not path.exists():
        return [Damage(SETTINGS, None, f"missing, and the run cannot be resumed without it. {COPY}")] if state else []
    damages = _problem(run, path, lambda: read.append(load_settings(path)), COPY)
    if damages:
        return damages
    settings, copy = read[0], run / REGIME
    own = settings.regime.endswith(".toml")
    if own or copy.exists():
        damages = _problem(run, copy, lambda: load_regime(copy), COPY)
    if state and not damages:
        regime = load_regime(copy) if own else regime_named(settings.regime)
        damages = _problem(run, path, lambda: refuse_mixture(run, state, settings, regime, state["step"]))
    return damages


def _compare(weights: Path) -> None:
    """Raise DamageFound or HrfrError where a file of tensors is not what was written."""
    with open(weights, "rb") as file:
        header = read_header(file, weights)
        for begin in range(0, header.size, BLOCK):
            header.read(file, begin, min(begin + BLOCK, header.size))
    if not weights.match(PATTERN):
        read_metadata(weights)


def _checksums_of(weights: Path) -> tuple[int, ...] | None:
    with open(weights, "rb") as file:
        return read_header(file, weights).checksums


def _missing(run: Path, state: dict[str, Any]) -> Iterator[Damage]:
    """Files that belong to the training state."""
    checkpoints = run / "checkpoints"
    rows = state.get("rows", {}).get("file")
    if rows and not (checkpoints / rows).exists():
        yield Damage(f"checkpoints/{rows}", None, f"missing: {STATE_FILE} says that it holds the head's rows. {COPY}")
    if state and not (checkpoints / "last.safetensors").exists():
        last = checkpoints / "last.safetensors"
        yield Damage("checkpoints/last.safetensors", None, f"missing. {what_helps(last)}")


def _metrics(path: Path) -> Iterator[Damage]:
    """Lines that are none of ours; but the last may have been cut short by a kill."""
    if not path.exists():
        return
    *lines, _ = path.read_bytes().split(b"\n")
    bad = [number for number, line in enumerate(lines, 1) if not _is_whole(line)]
    if bad:
        where = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        yield Damage(path.name, None, f"line {where} damaged: left out of reports; nothing else depends on it")


def _is_whole(line: bytes) -> bool:
    try:
        return is_line(parsed_json(line))
    except ValueError:
        return False


def _results(path: Path) -> list[Damage]:
    if not path.exists():
        return []
    again = "`hrfr-fast train --resume` of a finished run verifies it again and writes it anew"
    return _problem(path.parent, path, lambda: _require_objects(path), again)


def _require_objects(path: Path) -> None:
    """Raise ValueError where ``results.json`` is not one JSON object a pair set."""
    values = parsed_json(path.read_bytes())
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise ValueError(f"no JSON object a pair set: {json.dumps(values)[:80]}")
