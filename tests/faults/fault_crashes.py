"""SIGKILL at random moments of a command, and the next one that has to end as if nothing had happened.

Each try is a child forked from a process that has imported everything and computed nothing: it has one thread, and
starts in milliseconds. Half of the kills come at a random time, half before a random one of the operations that make
files durable or give them their names: those windows are short, and where an order can be wrong.
"""

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_cases import Case

PATIENCE = 900.0  # seconds for a command that takes a few: one that hangs is a finding
OPERATIONS = ("fsync", "replace", "unlink", "rename", "mkdir", "rmdir")


@dataclass
class Crashes:
    """What became of the tries with one command."""

    name: str
    seconds: float = 0.0
    """Of the undisturbed command."""
    operations: int = 0
    tries: int = 0
    killed: int = 0
    """Tries whose command had not ended before the kill came."""
    identical: int = 0
    """Tries after which the next command ended in the undisturbed result."""
    failures: list[str] = field(default_factory=list)


def crash(case: Case, folder: Path, kills: int, seed: int, say: Callable[[str], object] = lambda _: None) -> Crashes:
    """Kill ``case`` until ``kills`` kills have come before its end; every try has a directory of its own."""
    found, draw = Crashes(case.name), random.Random(f"{seed} {case.name}")
    for directory in ("warm", "whole"):  # the first may compile what is kept on disk
        found.seconds = run_whole(case, folder / directory)
    found.operations = count_operations(case, folder / "counted")
    expected = case.result(folder / "whole")
    while found.killed < kills and found.tries < 3 * kills:
        found.tries += 1
        out = folder / f"try-{found.tries}"
        aimed = found.tries % 2 == 0
        moment = draw.randrange(found.operations) if aimed else draw.uniform(0, 1.1 * found.seconds)
        was_killed = kill_at_operation(case, out, int(moment)) if aimed else kill_after(case, out, moment)
        found.killed += was_killed
        where = f"{case.name}, try {found.tries}, {'operation' if aimed else 'second'} {moment:.3f}"
        if problem := difference(case, out, expected):
            found.failures.append(f"{where}: {problem}")
            say(found.failures[-1])
        else:
            found.identical += 1
            shutil.rmtree(out)
        if found.tries % 10 == 0:
            say(f"{case.name}: {found.killed} of {kills} killed, {found.identical} of {found.tries} identical")
    return found


def difference(case: Case, out: Path, expected: dict[str, Any]) -> str:
    """Run the next command on what a kill has left; what is other than it should be, "" for nothing."""
    try:
        run_whole(case, out)
        result = case.result(out)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if left := sorted(
        str(path) for path in out.rglob("*") if path.name.endswith(".tmp") or path.name.endswith(".lock")
    ):
        return f"left over: {', '.join(left)}"
    other = [name for name in {**expected, **result} if expected.get(name) != result.get(name)]
    return f"other {', '.join(other)}" if other else ""


def run_whole(case: Case, out: Path) -> float:
    """Run ``case`` in a child to its end; its seconds. Raises RuntimeError with what it said where it failed."""
    began = time.monotonic()
    child = _forked(case, out)
    status = wait(child, PATIENCE)
    if status != 0:
        said = _output(out).read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"the command ended with status {status}: {said}")
    return time.monotonic() - began


def kill_after(case: Case, out: Path, seconds: float) -> bool:
    """SIGKILL after ``seconds``; whether the command had not ended by then."""
    child = _forked(case, out)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return wait(child, PATIENCE) == -signal.SIGKILL


def kill_at_operation(case: Case, out: Path, number: int) -> bool:
    """SIGKILL before the file operation of this number; whether the command came that far."""
    left = [number]

    def before() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    return wait(_forked(case, out, before), PATIENCE) == -signal.SIGKILL


def count_operations(case: Case, out: Path) -> int:
    """How many file operations the undisturbed command has."""
    tally = out.with_suffix(".count")

    def before() -> None:
        with open(tally, "ab") as file:
            file.write(b".")

    if wait(_forked(case, out, before), PATIENCE):
        raise RuntimeError(_output(out).read_text(encoding="utf-8"))
    return tally.stat().st_size


def _forked(case: Case, out: Path, before: Callable[[], None] | None = None) -> int:
    """A child that runs ``case`` in a session of its own, so that what it starts can be ended with it.

    ``before``: called before each file operation of its own process.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        output = os.open(_output(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if before is not None:
            for name in OPERATIONS:
                setattr(os, name, _preceded(getattr(os, name), before))
        case.run(out)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _preceded(function: Callable[..., Any], before: Callable[[], None]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        before()
        return function(*arguments, **named)

    return call


def _output(out: Path) -> Path:
    return out.with_name(f"{out.name}.log")


def wait(child: int, patience: float) -> int:
    """Exit status of ``child``, negative for a signal. Raises TimeoutError, and ends it, where it does not end."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"still not at its end after {patience:.0f} s")
