"""Measuring side by side: A B A B rounds, medians, every measurement in a process of its own.

One process a contestant imports its libraries once and forks a fresh child for every task, so threads, memory and
caches of one measurement never reach the next. The children of a task then take turns: while one runs, the others
wait with full queues, which each empties, untimed, before its next round.
"""

import gc
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.peers.base import Task

PATIENCE = 300  # seconds without an answer, after which a contestant counts as hung
PATIENCE_TO_CLOSE = 3  # loaders with workers of their own do not always end when asked
LEAST_BATCHES = 3  # a round, however slow


@dataclass(frozen=True)
class Result:
    """One contestant on one task; ``problem`` says why there are no numbers."""

    contestant: str
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
        """Plain values; ``problem`` only where there is one."""
        return {key: value for key, value in asdict(self).items() if key != "problem" or value}


@dataclass(frozen=True)
class Round:
    """What one timed stretch of a contestant took."""

    images: int
    seconds: float
    cpu_seconds: float
    memory_bytes: int


class Hung(RuntimeError):
    """A contestant died or did not answer."""


class Contestant:
    """A peer's or an engine's process. Use as a context manager."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, theirs, str(log)))
        self._process.start()
        theirs.close()

    def ask(self, *question: Any) -> Any:
        """Raises Hung, or RuntimeError with the contestant's own error."""
        try:
            self._connection.send(question)
            if not self._connection.poll(PATIENCE):
                raise Hung(f"no answer in {PATIENCE} s")
            kind, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise Hung("its process ended") from error
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
            _end_tree(self._process.pid or 0)
        self._process.join(10)


def compare(contestants: list[Contestant], task: Task, rounds: int, seconds: float) -> Iterator[Result]:
    """Measure all on one task, in turns. A contestant that fails gives a Result with its problem."""
    opened: dict[Contestant, float] = {}
    taken: dict[Contestant, list[Round]] = {}
    problems: dict[Contestant, str] = {}
    with ExitStack() as stack:
        for one in contestants:
            try:
                reason = one.ask("prepare", task)
                if reason:
                    problems[one] = reason
                    continue
                opened[one] = one.ask("open", task)
                stack.callback(_close, one)
                taken[one] = []
            except RuntimeError as error:
                problems[one] = str(error)
        for number in range(rounds):
            for one in list(taken) if number % 2 == 0 else list(taken)[::-1]:
                if one not in problems:
                    try:
                        taken[one].append(one.ask("round", seconds))
                    except RuntimeError as error:
                        problems[one] = str(error)
    for one in contestants:
        yield _result(one, task, opened.get(one, 0.0), taken.get(one, []), problems.get(one, ""))


def _close(one: Contestant) -> None:
    with suppress(RuntimeError):  # already reported where it failed
        one.ask("close")


def _result(one: Contestant, task: Task, opened: float, taken: list[Round], problem: str) -> Result:
    if problem or not taken:
        return Result(one.name, task.regime, task.encoding, task.dtype, problem or "no round was run")
    rates = [r.images / r.seconds for r in taken]
    return Result(
        one.name, task.regime, task.encoding, task.dtype, "", median(rates), min(rates), max(rates),
        median(1000 * r.cpu_seconds / r.images for r in taken), max(r.memory_bytes for r in taken), opened, len(taken),
    )  # fmt: skip


# ---- in the contestant's process ----


def _serve(name: str, connection: Connection, log: str) -> None:
    """Answer until told to quit: ("prepare" | "open", task), ("round", seconds), ("close",)."""
    _to_log(log)
    # FFCV asks at import whether CUDA is there; answered by the driver, that would forbid CUDA to forked children.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    from benchmarks.peers import load

    peer = load(name)
    child: tuple[Connection, int] | None = None
    while (question := _next(connection))[0] != "quit":
        try:
            kind, answer = question[0], None
            if kind == "prepare":
                answer = peer.unavailable(question[1])
                if not answer:
                    _in_child(peer.prepare, question[1])
            elif kind == "open":
                child = _forked(peer, question[1])
                answer = _asked(child[0], ("open",))
            elif child is None:
                raise RuntimeError("nothing is open")
            elif kind == "round":
                answer = _asked(child[0], question)
            else:
                _ended(*child)
                child = None
            connection.send(("ok", answer))
        except Exception as error:
            traceback.print_exc()
            connection.send(("error", f"{type(error).__name__}: {error}".splitlines()[0][:300]))
    if child is not None:
        _end_tree(child[1])
    os._exit(0)  # libraries leave threads that would keep the process


def _to_log(log: str) -> None:
    """Whatever libraries print goes to the log, not into the table."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _next(connection: Connection) -> tuple[Any, ...]:
    try:
        question: tuple[Any, ...] = connection.recv()
        return question
    except EOFError:  # the benchmark was stopped
        return ("quit",)


def _asked(connection: Connection, question: tuple[Any, ...]) -> Any:
    connection.send(question)
    try:
        kind, answer = connection.recv()
    except EOFError as error:
        raise RuntimeError("the measured process ended") from error
    if kind == "error":
        raise RuntimeError(answer)
    return answer


def _ended(connection: Connection, pid: int) -> None:
    """Ask a child to close its loader; end it where it does not."""
    connection.send(("close",))
    if not connection.poll(PATIENCE_TO_CLOSE):
        _end_tree(pid)
    os.waitpid(pid, 0)


def _in_child(work: Any, task: Task) -> None:
    """Run ``work`` in a fork, so that no thread it starts is there when the next is forked."""
    ours, theirs = get_context("fork").Pipe()
    pid = os.fork()
    if pid == 0:
        answer = ("ok", "")
        try:
            work(task)
        except BaseException as error:
            traceback.print_exc()
            answer = ("error", f"{type(error).__name__}: {error}".splitlines()[0][:300])
        theirs.send(answer)
        os._exit(0)
    theirs.close()
    try:
        kind, answer = ours.recv()
    except EOFError as error:
        raise RuntimeError("the preparing process ended") from error
    finally:
        os.waitpid(pid, 0)
    if kind == "error":
        raise RuntimeError(answer)


def _forked(peer: Any, task: Task) -> tuple[Connection, int]:
    ours, theirs = get_context("fork").Pipe()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            _measure(peer, task, theirs)
        except BaseException as error:
            traceback.print_exc()
            theirs.send(("error", f"{type(error).__name__}: {error}".splitlines()[0][:300]))
        finally:
            _end_tree(os.getpid(), itself=False)
            os._exit(0)
    theirs.close()
    return ours, pid


def _measure(peer: Any, task: Task, connection: Connection) -> None:
    start = time.perf_counter()
    batches = None
    while (question := _next(connection))[0] not in ("quit", "close"):
        if question[0] == "open":
            batches = peer.batches(task)
            next(batches)
            _wait_for_device(task)
            connection.send(("ok", time.perf_counter() - start))
        else:
            connection.send(("ok", _round(batches, peer.ahead(task) + 1, task, question[1])))
    if batches is not None:
        batches.close()
    del batches
    gc.collect()  # worker processes and their semaphores go with the loader
    connection.send(("ok", None))


def _round(batches: Any, ahead: int, task: Task, seconds: float) -> Round:
    for _ in range(ahead):
        next(batches)
    _wait_for_device(task)
    before, start, images, count = tree_cpu_seconds(), time.perf_counter(), 0, 0
    while count < LEAST_BATCHES or time.perf_counter() - start < seconds:
        images += len(next(batches)[0])
        count += 1
    _wait_for_device(task)
    elapsed = time.perf_counter() - start
    return Round(images, elapsed, tree_cpu_seconds() - before, tree_memory_bytes())


def _wait_for_device(task: Task) -> None:
    if task.device != "cpu":
        import torch

        torch.cuda.synchronize()


def tree_cpu_seconds() -> float:
    """User and system seconds of this process and those it started."""
    import psutil

    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def tree_memory_bytes() -> int:
    """Peak resident memory of this process, and what each one it started holds for itself alone.

    So pages that workers share with their parent count once, however many workers there are.
    """
    import psutil

    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    return peak + sum(p.memory_full_info().uss for p in psutil.Process().children(recursive=True))


def _end_tree(pid: int, itself: bool = True) -> None:
    """End a process and all that it started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in process.children(recursive=True) + ([process] if itself else []):
            with suppress(psutil.NoSuchProcess):
                one.kill()
