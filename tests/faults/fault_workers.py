"""SIGKILL of a part of a command that has several: a worker of a pack, a rank of torchrun, a worker of Ray.

The commands are run as users run them, each in processes of its own. After the kill the same command (``--resume`` for
a training with a checkpoint) runs to its end, and the result is compared with the undisturbed one.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_cases import Inputs, cases, settings_of
from fault_crashes import PATIENCE, Crashes

COMMAND = (sys.executable, "-m", "hrfr_fast")
RANKS = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hrfr_fast")


@dataclass(frozen=True)
class Team:
    """A command of several processes.

    Attributes:
        command: that begins or goes on with what is in the directory.
        victim: whether a process is one of those to kill, by its folder in ``/proc``.
        result: as of a ``Case``.
    """

    name: str
    command: Callable[[Path], list[str]]
    victim: Callable[[Path], bool]
    result: Callable[[Path], dict[str, Any]]


def teams(inputs: Inputs) -> dict[str, Team]:
    """All of them by name."""
    whole = cases(inputs)
    pack = [*COMMAND, "pack", str(inputs.tree), "--workers", "2", "--dev-identities", "4", "--out"]
    study = [*COMMAND, "study", "--regimes", "lowres32,highres32", "--data", str(inputs.packed), "--preset",
             str(inputs.preset), "--seeds", "1", "--device", "cpu", "--threads-per-run", "1",
             "--on", "ray", "--out"]  # fmt: skip
    return {
        team.name: team
        for team in (
            Team("pack-workers", lambda out: [*pack, str(out)], _says("cmdline", b"spawn_main"), whole["pack"].result),
            Team("ranks", lambda out: _train(inputs, out), _says("environ", b"\0RANK="), whole["train"].result),
            Team("ray", lambda out: [*study, str(out)], _says("cmdline", b"ray::"), whole["study"].result),
        )
    }


def _train(inputs: Inputs, out: Path) -> list[str]:
    if (out / "checkpoints" / "last.state.pt").exists():
        return [*RANKS, "train", "--out", str(out), "--resume"]
    config = out.with_suffix(".toml")
    settings_of(inputs, out).save(config)
    return [*RANKS, "train", "--config", str(config), "--out", str(out)]


def _says(file: str, text: bytes) -> Callable[[Path], bool]:
    def victim(process: Path) -> bool:
        try:
            return text in b"\0" + (process / file).read_bytes()
        except OSError:  # it has ended
            return False

    return victim


def crash_team(team: Team, folder: Path, kills: int, seed: int, say: Callable[[str], object]) -> Crashes:
    """Kill parts of ``team`` until ``kills`` kills have come before the command's end."""
    found, draw = Crashes(team.name), random.Random(f"{seed} {team.name}")
    found.seconds = _run(team, folder / "whole", lambda _: False)[0]
    _finish(team, folder / "whole")
    expected = team.result(folder / "whole")
    while found.killed < kills and found.tries < 3 * kills:
        found.tries += 1
        out = folder / f"try-{found.tries}"
        wait = draw.uniform(0, found.seconds)
        found.killed += _run(team, out, lambda there, wait=wait: there > wait, draw)[1]
        try:
            _finish(team, out)
            result = team.result(out)
            other = [name for name in {**expected, **result} if expected.get(name) != result.get(name)]
        except Exception as error:
            other = [f"{type(error).__name__}: {error}"]
        if other:
            found.failures.append(f"{team.name}, try {found.tries}: {', '.join(other)}")
        else:
            found.identical += 1
            shutil.rmtree(out)
        say(f"{team.name}: {found.killed} of {kills} killed, {found.identical} of {found.tries} identical")
    return found


def _finish(team: Team, out: Path) -> None:
    """Run the command to its end. Raises RuntimeError with what it said where it fails."""
    with open(f"{out}.log", "w+b") as log:
        ended = subprocess.run(team.command(out), stdout=log, stderr=log, timeout=PATIENCE, check=False).returncode
        log.seek(0)
        if ended:
            raise RuntimeError(f"status {ended}: {log.read().decode(errors='replace')[-2000:]}")


def _run(team: Team, out: Path, now: Callable[[float], bool], draw: random.Random | None = None) -> tuple[float, bool]:
    """Run the command, and kill one of its parts, as ``draw`` has it, as soon as ``now`` is true of the seconds since
    there was one. Seconds from the first part to the command's end, and whether one was killed."""
    with open(f"{out}.first.log", "wb") as log:
        process = subprocess.Popen(team.command(out), stdout=log, stderr=log)
        since, killed, deadline = None, False, time.monotonic() + PATIENCE
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(f"{team.name}: not at its end after {PATIENCE:.0f} s; see {log.name}")
            there = [] if killed else _victims(team, process.pid)
            if there and since is None:
                since = time.monotonic()
            if there and since is not None and draw and now(time.monotonic() - since):
                os.kill(draw.choice(there), signal.SIGKILL)
                killed = True
            time.sleep(0.02)
    return time.monotonic() - (since or time.monotonic()), killed


def _victims(team: Team, parent: int) -> list[int]:
    """Processes below ``parent`` that may be killed."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            above = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(above, []).append(int(process.name))
    below, found = [parent], list[int]()
    while below:
        next_ones = children.get(below.pop(), [])
        below += next_ones
        found += [one for one in next_ones if team.victim(Path(f"/proc/{one}"))]
    return sorted(found)
