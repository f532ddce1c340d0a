"""The process of one loader: it answers questions of ``measure.py``, and measures in a forked child for each task."""

import gc
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Peer, Task

CLOSE_TIMEOUT = 3  # seconds; loaders with workers of their own do not always end when asked
LEAST_BATCHES = 3  # of a round, however slow


@dataclass(frozen=True)
class Round:
    """What one timed round of a loader took."""

    images: int
    seconds: float
    cpu_seconds: float
    memory_bytes: int


def serve(name: str, connection: Connection, log: str) -> None:
    """Answer until told to quit: ("prepare" | "open", task), ("round", seconds), ("close",)."""
    _to_log(log)
    # FFCV asks at import whether CUDA is there; answered by the driver, that would forbid CUDA to forked children.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    from benchmarks.peers import load

    loader = load(name)
    child: tuple[Connection, int] | None = None
    while (question := _next_question(connection))[0] != "quit":
        try:
            kind, answer = question[0], None
            if kind == "prepare":
                answer = loader.unavailable(question[1])
                if not answer:
                    _in_child(loader.prepare, question[1])
            elif kind == "open":
                child = _forked(loader, question[1])
                answer = _ask(child[0], ("open",))
            elif child is None:
                raise RuntimeError("nothing is open")
            elif kind == "round":
                answer = _ask(child[0], question)
            else:
                _close(*child)
                child = None
            connection.send(("ok", answer))
        except Exception as error:
            traceback.print_exc()
            connection.send(("error", _line(error)))
    if child is not None:
        end_tree(child[1])
    os._exit(0)  # libraries leave threads that would keep the process


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _to_log(log: str) -> None:
    """Send what libraries print to the log, not into the table."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _next_question(connection: Connection) -> tuple[Any, ...]:
    try:
        question: tuple[Any, ...] = connection.recv()
        return question
    except EOFError:  # the benchmark was stopped
        return ("quit",)


def _ask(connection: Connection, question: tuple[Any, ...]) -> Any:
    connection.send(question)
    return _answer(connection, "the measured process ended")


def _answer(connection: Connection, ended: str) -> Any:
    """The next answer of a child. Raises RuntimeError with its error, or saying ``ended``."""
    try:
        kind, answer = connection.recv()
    except EOFError as error:
        raise RuntimeError(ended) from error
    if kind == "error":
        raise RuntimeError(answer)
    return answer


def _close(connection: Connection, pid: int) -> None:
    """Ask a child to close its loader; end it where it does not."""
    connection.send(("close",))
    if not connection.poll(CLOSE_TIMEOUT):
        end_tree(pid)
    os.waitpid(pid, 0)


def _in_child(work: Callable[[Task], None], task: Task) -> None:
    """Run ``work`` in a fork, so that none of its threads exist when the next child is forked."""

    def done(other_end: Connection) -> None:
        work(task)
        other_end.send(("ok", None))

    connection, pid = _fork(done)
    try:
        _answer(connection, "the preparing process ended")
    finally:
        os.waitpid(pid, 0)


def _forked(loader: Peer, task: Task) -> tuple[Connection, int]:
    def measure(other_end: Connection) -> None:
        try:
            _measure(loader, task, other_end)
        finally:
            end_tree(os.getpid(), itself=False)

    return _fork(measure)


def _fork(work: Callable[[Connection], None]) -> tuple[Connection, int]:
    """A forked child that runs ``work`` with its end of a pipe, and sends the error where that raises one."""
    connection, other_end = get_context("fork").Pipe()
    pid = os.fork()
    if pid == 0:
        connection.close()
        try:
            work(other_end)
        except BaseException as error:
            traceback.print_exc()
            other_end.send(("error", _line(error)))
        finally:
            os._exit(0)
    other_end.close()
    return connection, pid


def _measure(loader: Peer, task: Task, connection: Connection) -> None:
    start = time.perf_counter()
    batches: Any = None
    while (question := _next_question(connection))[0] not in ("quit", "close"):
        if question[0] == "open":
            batches = loader.batches(task)
            next(batches)
            _wait_for_device(task)
            connection.send(("ok", time.perf_counter() - start))
        else:
            connection.send(("ok", _round(batches, loader.prefetched(task) + 1, task, question[1])))
    if batches is not None:
        batches.close()
    del batches
    gc.collect()  # worker processes and their semaphores go with the loader
    connection.send(("ok", None))


def _round(batches: Any, untimed: int, task: Task, seconds: float) -> Round:
    for _ in range(untimed):
        next(batches)
    _wait_for_device(task)
    cpu_before, start, images, count = tree_cpu_seconds(), time.perf_counter(), 0, 0
    while count < LEAST_BATCHES or time.perf_counter() - start < seconds:
        images += len(next(batches)[0])
        count += 1
    _wait_for_device(task)
    elapsed = time.perf_counter() - start
    return Round(images, elapsed, tree_cpu_seconds() - cpu_before, tree_memory_bytes())


def _wait_for_device(task: Task) -> None:
    if task.device != "cpu":
        import torch

        torch.cuda.synchronize()


def tree_cpu_seconds() -> float:
    """User and system seconds of this process and those it started."""
    import psutil

    root = psutil.Process()
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def tree_memory_bytes() -> int:
    """Peak resident memory of this process plus the unshared memory of each one it started.

    Pages that workers share with their parent count once, however many workers there are.
    """
    import psutil

    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    return peak + sum(p.memory_full_info().uss for p in psutil.Process().children(recursive=True))


def end_tree(pid: int, itself: bool = True) -> None:
    """End a process and all that it started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for ended in process.children(recursive=True) + ([process] if itself else []):
            with suppress(psutil.NoSuchProcess):
                ended.kill()
