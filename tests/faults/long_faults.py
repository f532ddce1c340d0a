"""The long part of the fault tests, by hand: ``python tests/faults/long_faults.py crash --kills 200 --json F.json``."""

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # children are forked: their parent must not have begun threads
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

SHARES = {"pack": 0.3, "train": 0.4, "embed": 0.1, "evaluate": 0.05, "study": 0.15}


def crash_all(folder: Path, kills: int, seed: int, only: list[str]) -> dict[str, Any]:
    """Kills shared out among the commands, or ``only`` some of them."""
    import torch
    from fault_cases import IMPORTED_LATE, Inputs, cases, make_inputs
    from fault_crashes import crash

    torch.set_num_threads(1)
    inputs = Inputs.below(folder)
    if not inputs.preset.exists():
        in_a_child(make_inputs, inputs)
    for module in IMPORTED_LATE:
        importlib.import_module(module)
    found = {}
    chosen = only or list(SHARES)
    for name, case in cases(inputs).items():
        if name not in chosen:
            continue
        share = SHARES[name] / sum(SHARES[one] for one in chosen)
        place = folder / name
        place.mkdir(exist_ok=True)
        began = time.monotonic()
        crashes = crash(case, place, round(kills * share), seed, say)
        found[name] = asdict(crashes) | {"took": round(time.monotonic() - began)}
        say(json.dumps(found[name]))
    return found


def workers_all(folder: Path, kills: int, seed: int, only: list[str]) -> dict[str, Any]:
    """Kills of a worker of a pack, of a rank and of a Ray worker, ``kills`` each."""
    from fault_cases import Inputs, make_inputs
    from fault_workers import crash_team, teams

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    inputs = Inputs.below(folder)
    if not inputs.preset.exists():
        in_a_child(make_inputs, inputs)
    found = {}
    for name, team in teams(inputs).items():
        if name in (only or [name]):
            place = folder / name
            place.mkdir(exist_ok=True)
            found[name] = asdict(crash_team(team, place, kills, seed, say))
            say(json.dumps(found[name]))
    return found


def damage_all(folder: Path, count: int, seed: int, only: list[str]) -> dict[str, Any]:
    """Damages shared out among packed data, a run's files and unfinished work."""
    import torch
    from fault_damage import damage, make_all, packed_targets, run_targets, unfinished_targets

    torch.set_num_threads(1)
    found = {}
    if not (folder / "run").exists():
        in_a_child(make_all, folder)
    groups = {
        "packed": packed_targets(folder / "raw") + packed_targets(folder / "jpeg"),
        "run": run_targets(folder / "run"),
        "unfinished": unfinished_targets(folder / "tree", folder / "unfinished"),
    }
    for name, share in (("packed", 0.6), ("run", 0.35), ("unfinished", 0.05)):
        if name in (only or [name]):
            damages = damage(groups[name], round(count * share), seed, say)
            found[name] = asdict(damages)
            say(json.dumps(found[name]))
    return found


def soak_all(folder: Path, batches: int, epochs: int, only: list[str]) -> dict[str, Any]:
    """Growth over many batches of each engine that is installed, and over many epochs; a process each."""
    from fault_cases import Inputs, make_inputs
    from fault_soak import soak_engine, soak_training

    inputs = Inputs.below(folder)
    if not inputs.preset.exists():
        in_a_child(make_inputs, inputs)
    found = {}
    for name in only or ["resident", "dali", "ffcv", "training"]:
        place = folder / f"{name}.json"
        soak = (
            partial(soak_training, inputs, epochs)
            if name == "training"
            else partial(soak_engine, inputs, name, batches)
        )
        in_a_child(write_to, place, soak)
        found[name] = json.loads(place.read_text(encoding="utf-8"))
        say(f"{name}: {json.dumps(found[name])}")
    return found


def scale_all(folder: Path, faces: int, kills: int, seed: int, only: list[str]) -> dict[str, Any]:
    """Kills of a pack and of a training at the paper's size."""
    from fault_scale import scale

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return scale(folder, faces, kills, seed, only, say)


def write_to(place: Path, function: Callable[[], dict[str, Any]]) -> None:
    place.write_text(json.dumps(function()), encoding="utf-8")


def in_a_child(function: Any, *arguments: Any) -> None:
    """Call ``function`` in a forked child: this process stays one that can be forked. Raises RuntimeError."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"{function.__name__} ended with status {child.exitcode}")


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["crash", "workers", "damage", "soak", "scale"])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--faces", type=int, default=1_000_000, help="of 36 px; a hundredth as many of 144 px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default=[], type=lambda text: text.split(","), help="these parts, with commas between"
    )
    parser.add_argument("--folder", type=Path, help="where to work; else a temporary one")
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hrfr-faults-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.part == "crash":
            found = crash_all(folder, given.kills, given.seed, given.only)
        elif given.part == "workers":
            found = workers_all(folder, given.kills, given.seed, given.only)
        elif given.part == "damage":
            found = damage_all(folder, given.damages, given.seed, given.only)
        elif given.part == "scale":
            found = scale_all(folder, given.faces, given.kills, given.seed, given.only)
        else:
            found = soak_all(folder, given.batches, given.epochs, given.only)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
