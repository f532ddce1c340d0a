"""Side-by-side measurement of loaders: alternating rounds (A B B A), medians, each loader in a process of its own.

The process of a loader (``loader_process.py``) imports its libraries once and forks a fresh child for every task, so
threads, memory and caches of one measurement never reach the next. The children of a task then take turns: while one
runs, the others wait with full queues, which each empties, untimed, before its next round.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.loader_process import Round, end_tree, serve
from benchmarks.peers.base import Task

TIMEOUT = 300  # seconds without an answer, after which a loader counts as hung


@dataclass(frozen=True)
class Result:
    """The rates and costs of one loader on one task; ``problem`` says why there are none."""

    loader: str
    regime: str
    encoding: str
    dtype: str
    problem: str = ""
    images_per_second: float = 0.0
    slowest_round: float = 0.0
    fastest_round: float = 0.0
    cpu_seconds_per_1000: float = 0.0
    peak_memory_bytes: int = 0
    first_batch_seconds: float = 0.0
    rounds: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values, the loader under the key ``contestant``; ``problem`` only where there is one."""
        values = {key: value for key, value in asdict(self).items() if key != "problem" or value}
        return {"contestant": values.pop("loader"), **values}


class NoAnswer(RuntimeError):
    """The process of a loader ended or did not answer in time."""


class LoaderProcess:
    """The process of a peer or an engine. Use as a context manager."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        context = get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=serve, args=(name, other_end, str(log)))
        self._process.start()
        other_end.close()

    def ask(self, *question: Any) -> Any:
        """The answer to ("prepare" | "open", task), ("round", seconds) or ("close",).

        Raises NoAnswer, or RuntimeError with the loader's own error.
        """
        try:
            self._connection.send(question)
            if not self._connection.poll(TIMEOUT):
                raise NoAnswer(f"no answer in {TIMEOUT} s")
            kind, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise NoAnswer("its process ended") from error
        if kind == "error":
            raise RuntimeError(answer)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._connection.send(("quit",))
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            end_tree(self._process.pid or 0)
        self._process.join(10)


@dataclass(frozen=True)
class TimeLimit:
    """When a measurement stops, by ``clock``."""

    end: float = math.inf
    """Nothing begins after this."""
    tables: int = 1
    """This table and those still to be measured, each of which has an equal share of the time left."""
    clock: Callable[[], float] = time.monotonic

    def share_ends(self) -> float:
        """When the share of a table that begins now is used up."""
        now = self.clock()
        return now + max(0.0, self.end - now) / self.tables


TIME_IS_UP = "the time was up (--minutes)"


def compare(
    loaders: list[LoaderProcess], task: Task, rounds: int, seconds: float, limit: TimeLimit | None = None
) -> Iterator[Result]:
    """Results of all loaders on one task, measured in turns; that of a loader that fails has its problem.

    No loader is opened, and no round after the first begun, that would go beyond the table's share of the time. What is
    prepared once and kept (compiled kernels, the peers' own formats) does not count in the share.
    """
    limit = limit or TimeLimit()
    problems = {loader: reason for loader in loaders if (reason := _prepare(loader, task, limit))}
    share_ends = limit.share_ends()
    opening_seconds: dict[LoaderProcess, float] = {}
    measured: dict[LoaderProcess, list[Round]] = {}
    with ExitStack() as stack:
        for loader in [each for each in loaders if each not in problems]:
            if limit.clock() >= share_ends:
                problems[loader] = TIME_IS_UP
                continue
            try:
                opening_seconds[loader] = loader.ask("open", task)
                stack.callback(_close, loader)
                measured[loader] = []
            except RuntimeError as error:
                problems[loader] = str(error)
        last = 0.0
        for number in range(rounds):
            began = limit.clock()
            if number and began + last > share_ends:
                break
            for loader in list(measured) if number % 2 == 0 else list(measured)[::-1]:
                if loader not in problems:
                    try:
                        measured[loader].append(loader.ask("round", seconds))
                    except RuntimeError as error:
                        problems[loader] = str(error)
            last = limit.clock() - began
    for loader in loaders:
        yield _result(
            loader, task, opening_seconds.get(loader, 0.0), measured.get(loader, []), problems.get(loader, "")
        )


def _prepare(loader: LoaderProcess, task: Task, limit: TimeLimit) -> str | None:
    """Why ``loader`` cannot be measured on ``task``, if so."""
    if limit.clock() > limit.end:
        return TIME_IS_UP
    try:
        reason: str | None = loader.ask("prepare", task)
    except RuntimeError as error:
        return str(error)
    return reason


def _close(loader: LoaderProcess) -> None:
    with suppress(RuntimeError):  # already reported where it failed
        loader.ask("close")


def _result(loader: LoaderProcess, task: Task, opening_seconds: float, rounds: list[Round], problem: str) -> Result:
    if problem or not rounds:
        return Result(loader.name, task.regime, task.encoding, task.dtype, problem or "no round was run")
    rates = [each.images / each.seconds for each in rounds]
    return Result(
        loader.name, task.regime, task.encoding, task.dtype,
        images_per_second=median(rates), slowest_round=min(rates), fastest_round=max(rates),
        cpu_seconds_per_1000=median(1000 * each.cpu_seconds / each.images for each in rounds),
        peak_memory_bytes=max(each.memory_bytes for each in rounds), first_batch_seconds=opening_seconds,
        rounds=len(rounds),
    )  # fmt: skip
