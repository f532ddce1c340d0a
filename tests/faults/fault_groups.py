"""Commands as users run them, in a process group of their own, which SIGKILL takes as a whole; and what they hold.

Each command is run once undisturbed, and once killed again and again, after which the same command goes on in the same
directory. Whatever reaches its end is compared with the undisturbed one.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 7200.0  # seconds for a command: one that hangs is a finding
LOOK = 0.25  # seconds between two looks at the processes of an undisturbed command
ENDING = 3.0  # seconds in which a command lets go of what it holds
BEGINNING = 0.25  # share of the kills that come before a command has gone on with its work


@dataclass(frozen=True)
class Command:
    """A command that writes to a directory, and goes on with what it finds there.

    Attributes:
        arguments: with which it begins or goes on.
        done: how much of its work is safe on the disk.
        result: what an undisturbed and a killed and continued one have in common, as JSON values.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    done: Callable[[Path], int]
    result: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Group:
    """What the processes of a group hold together."""

    memory: int
    """Bytes in RAM that belong to them alone, as the kernel counts them: no pages of files."""
    parent: int
    """Of these, the first process's."""
    processes: int
    threads: int
    files: int

    @classmethod
    def now(cls, leader: int) -> "Group":
        memory, threads, files, own = 0, 0, 0, 0
        members = list(_members(leader))
        for process in members:
            with suppress(OSError):  # it has ended
                status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
                held = int(status.get("RssAnon", "0 kB").split()[0]) << 10
                memory, own = memory + held, held if process.name == str(leader) else own
                threads += int(status["Threads"])
                files += len(os.listdir(process / "fd"))
        return cls(memory, own, len(members), threads, files)


@dataclass
class Undisturbed:
    """A command that nobody killed."""

    seconds: float = 0.0
    beginning: float = 0.0
    """Seconds until the first of its work was on the disk."""
    first: Group | None = None
    """A tenth of the work's time after that."""
    last: Group | None = None
    """``ENDING`` seconds before its end or earlier, with as many processes as at first."""
    peak: int = 0
    """Most bytes in RAM that were its processes' alone."""


@dataclass
class Killed:
    """A command that was killed again and again."""

    name: str
    undisturbed: Undisturbed
    kills: list[dict[str, float]] = field(default_factory=list)
    """Seconds after its start, how much of the work was safe then, and the group's semaphores left in /dev/shm."""
    ended: int = 0
    """How often it came to its end."""
    identical: int = 0
    """How often with the undisturbed result."""
    failures: list[str] = field(default_factory=list)


def kill_often(command: Command, folder: Path, kills: int, draw: random.Random, say: Callable[[str], object]) -> Killed:
    """Run ``command`` undisturbed, then another one that is killed ``kills`` times on its way."""
    warm_up(command, folder / "warm")
    found = Killed(command.name, run_undisturbed(command, folder / "whole"))
    say(json.dumps(asdict(found.undisturbed)))
    expected, number = command.result(folder / "whole"), 0
    while len(found.kills) < kills:
        out, number = folder / f"killed-{number}", number + 1
        ended = False
        while not ended and len(found.kills) < kills:
            after = _moment(found.undisturbed, kills, draw)
            ended, left = run_for(command, out, after)
            if not ended:
                done = command.done(out)
                found.kills.append({"seconds": round(after, 2), "done": done, "semaphores_left": left})
                say(f"{command.name}: kill {len(found.kills)} of {kills} after {after:.1f} s, {done:,} are safe")
        if not ended:
            run_for(command, out, PATIENCE)
        found.ended += 1
        result = command.result(out)
        other = [name for name in {**expected, **result} if expected.get(name) != result.get(name)]
        if other:
            found.failures.append(f"{out}: other {', '.join(other)}")
        else:
            found.identical += 1
            shutil.rmtree(out)
    return found


def _moment(undisturbed: Undisturbed, kills: int, draw: random.Random) -> float:
    """Seconds from a command's start to the kill: some kills come before it goes on with its work, the others so that
    all of them are spread over it."""
    if draw.random() < BEGINNING:
        return draw.uniform(0, undisturbed.beginning)
    return undisturbed.beginning + draw.uniform(0, 2 * (undisturbed.seconds - undisturbed.beginning) / kills)


def run_for(command: Command, out: Path, seconds: float) -> tuple[bool, int]:
    """Run ``command`` and SIGKILL its process group after ``seconds``: whether it had ended before, and what ``kill``
    says. Raises RuntimeError with what it said where it failed by itself."""
    with open(f"{out}.log", "w+b") as log:
        process = subprocess.Popen(command.arguments(out), stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            left = kill(process)
            if seconds == PATIENCE:
                raise TimeoutError(f"{command.name}: not at its end after {seconds:.0f} s; see {log.name}") from None
            return False, left
        log.seek(0)
        if status:
            raise RuntimeError(f"{command.name}: status {status}: {log.read().decode(errors='replace')[-3000:]}")
    return True, 0


def kill(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL the group that ``process`` leads; how many semaphores it left in ``/dev/shm``, which are removed."""
    names = _semaphores(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = [name for name in names if os.path.exists(name)]
    for name in left:
        os.unlink(name)
    return len(left)


def warm_up(command: Command, out: Path) -> None:
    """Run ``command`` until something of its work is safe: the first one may compile what is kept on the disk."""
    with open(f"{out}.log", "wb") as log:
        process = subprocess.Popen(command.arguments(out), stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and not command.done(out):
            time.sleep(LOOK)
    if process.returncode is None:
        kill(process)
    shutil.rmtree(out)


def run_undisturbed(command: Command, out: Path) -> Undisturbed:
    """Run ``command`` to its end, and look at what its processes hold."""
    looks: list[tuple[float, Group]] = []
    found, began = Undisturbed(), time.monotonic()
    with open(f"{out}.log", "wb") as log:
        process = subprocess.Popen(command.arguments(out), stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None:
            looks.append((time.monotonic() - began, Group.now(process.pid)))
            if not found.beginning and command.done(out):
                found.beginning = looks[-1][0]
            time.sleep(LOOK)
    if process.returncode:
        raise RuntimeError(f"{command.name} ended with status {process.returncode}; see {log.name}")
    found.seconds = time.monotonic() - began
    early = found.beginning + (found.seconds - found.beginning) / 10
    found.first = next(group for at, group in looks if at >= early)
    late = (group for at, group in reversed(looks) if at <= found.seconds - ENDING)
    found.last = next(group for group in late if group.processes == found.first.processes)
    found.peak = max(group.memory for _, group in looks)
    return found


def _members(leader: int) -> Iterator[Path]:
    """Folders in ``/proc`` of the processes of the group that ``leader`` leads."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(process.name)) == leader:
                yield process


def _semaphores(leader: int) -> set[str]:
    """Python's semaphores in ``/dev/shm`` that processes of the group have mapped."""
    names = set()
    for process in _members(leader):
        with suppress(OSError):
            lines = (process / "maps").read_text().splitlines()
            names |= {line.split()[-1] for line in lines if " /dev/shm/sem." in line}
    return names
