"""Execution of a study's runs by the workers of a Ray cluster, over a folder that all its nodes share.

A worker that is lost takes nothing with it but the steps since the last checkpoint: its run is started again wherever
there is a place, and continues from there. Ray tells when a worker or a node is gone; only then is the run's directory
another worker's (``lock.on_behalf_of``).
"""

import os
import socket
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from hrfr_fast.format.reader import Packed, open_packed
from hrfr_fast.runtime.cluster import Call, Cluster, TaskLost
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.lock import holder_of
from hrfr_fast.runtime.progress import console, messages_in
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.words import counted
from hrfr_fast.study.cost import estimates
from hrfr_fast.study.execution import GO_ON, Executed, RunTask, execute, is_done
from hrfr_fast.study.plan import StudyPlan, StudyRun
from hrfr_fast.study.schedule import Node, share_of
from hrfr_fast.training.resuming import with_absolute_paths

LOSSES = 3
"""How often a run may lose its worker; the next time ends the study. Whoever runs out of memory does so again."""
LOCK_SECONDS = 150.0
"""How long a run waits for its directory: the server of a network file system ends the locks of a machine that is gone
after 90 s as it comes."""
FOLDER_SECONDS = 60.0
"""How long a node waits to see what was just written to the shared folder: NFS caches names up to a minute."""
LOG = "log.txt"
"""In each run directory: the messages of its training."""


@dataclass(frozen=True)
class Shared:
    """What every node must see as the driver does: the packed data, the study's directory and who holds it."""

    packed: Path
    digest: str
    study: Path
    holder: Mapping[str, Any]
    working_directory: Path
    """Of the driver: paths in regimes are relative to it."""


class OnRay:
    """Executor of as many runs at once as the cluster has places for.

    Args:
        plan: its directory is held by this process.
        threads: of each run; 0: see ``schedule.share_of``.
        stop: ends waiting.

    Raises UsageError for --device cuda where the cluster has no GPU, and more threads than a node has cores.
    """

    def __init__(self, cluster: Cluster, plan: StudyPlan, threads: int, stop: StopFlag) -> None:
        self.cluster, self.packed, self.flag = cluster, plan.packed, stop
        self.shared = Shared(
            plan.packed.path.absolute(), plan.packed.digest, plan.out.absolute(), holder_of(plan.out), Path.cwd()
        )
        nodes = self.nodes()
        on_gpu = plan.device != "cpu" and any(node.gpus for node in nodes)
        if plan.device == "cuda" and not on_gpu:
            raise UsageError("--device cuda: the cluster has no GPU; use --device cpu")
        if threads > max(node.cpus for node in nodes):
            raise UsageError(f"--threads-per-run {threads}: no node of the cluster has so many cores")
        self.share = share_of(plan.runs, nodes, on_gpu=on_gpu, threads=threads)
        self.device = plan.device if on_gpu else "cpu"
        self._calls: dict[Call, tuple[RunTask, float]] = {}
        self._others: list[Call] = []
        self._executed: list[Executed] = []
        self._losses: Counter[Path] = Counter()
        gets = counted(self.share.cpus, "core") + (" and a GPU" if on_gpu else "")
        console.print(
            f"{counted(len(nodes), 'node')}: {counted(self.places(), 'run')} at once with {gets} each; the messages of"
            f" a run go to its {LOG}",
            highlight=False,
        )

    def nodes(self) -> list[Node]:
        """Nodes that are there now, but for those that lend no core, as many a head node."""
        alive = [node["Resources"] for node in self.cluster.ray.nodes() if node["Alive"]]
        nodes = [Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in alive]
        return [node for node in nodes if node.cpus] or [Node(1)]

    def places(self) -> int:
        return self.share.places(self.nodes())

    def estimates(self, plan: StudyPlan, runs: list[StudyRun]) -> dict[Path, float]:
        """Timed on one node, where there is something to time; nothing where that node is lost."""
        if not runs:
            return {}
        bare = replace(plan, packed=cast(Packed, None))  # each node opens the data itself
        call = self._submit(_estimates_on_node, bare, runs, self.shared, self.share.cpus)
        self._others.append(call)
        while not self.cluster.finished([call], 1.0):
            if self.flag:
                return {}
        self._others.remove(call)
        try:
            found: dict[Path, float] = self.cluster.result(call)
        except TaskLost:
            return {}
        return found

    def start(self, task: RunTask) -> None:
        """Give the run to a worker, unless all its work is done."""
        if is_done(task, self.packed):
            self._executed.append(Executed(task.run, 0.0))
            return
        self._calls[self._send(task)] = (task, time.monotonic())

    def executed(self) -> list[Executed]:
        """As ``Executor``; a run whose worker was lost is given to another one."""
        ended = self.cluster.finished(list(self._calls), 0.0 if self._executed else 1.0) if self._calls else []
        for call in ended:
            task, began = self._calls.pop(call)
            try:
                where = self.cluster.result(call)
            except (TaskLost, Interrupted) as error:  # or told to stop by somebody else than this study
                if self.flag:
                    continue  # Ctrl-C at a terminal reaches what runs on this machine, too
                self._lost(task, error)
                self._calls[self._send(task)] = (task, began)
                continue
            self._executed.append(Executed(task.run, time.monotonic() - began, where))
        if not ended and not self._calls and not self._executed:
            time.sleep(1.0)  # no node has a place now
        done, self._executed = self._executed, []
        return done

    def stop(self) -> None:
        """Interrupt all workers and wait until they have written their checkpoints; a second signal does not wait."""
        running = [*self._calls, *self._others]
        if self._calls:
            console.print(f"stopping {counted(len(self._calls), 'run')} at the next step", highlight=False)
        self.cluster.cancel(running)
        while running:
            ended = self.cluster.finished(running, 1.0)
            running = [call for call in running if call not in ended]

    def _send(self, task: RunTask) -> Call:
        settings = with_absolute_paths(task.run.settings).updated({"device": self.device}, "study")
        run = replace(task.run, settings=settings)
        away = replace(task, run=run, study=self.shared.study, device=self.device, cores=self.share.cpus)
        return self._submit(_execute_on_node, away, self.shared)

    def _submit(self, function: Any, *arguments: Any) -> Call:
        return self.cluster.submit(function, *arguments, cpus=self.share.cpus, gpus=self.share.gpus, retries=0)

    def _lost(self, task: RunTask, error: HrfrError) -> None:
        """Count and tell the loss. Raises HrfrError where it is one too many."""
        directory = task.run.directory
        self._losses[directory] += 1
        holder = holder_of(directory)  # a killed process leaves its name there
        where = f" on {holder['host']}" if holder else ""
        if self._losses[directory] > LOSSES:
            raise HrfrError(
                f"{task.run}: its worker was lost {self._losses[directory]} times, the last time{where} ({error});"
                f" see {directory / LOG}, and whether the node has memory enough. What was trained is kept, and {GO_ON}"
            )
        console.print(
            f"warning: {task.run}: its worker{where} was lost; it continues from its last checkpoint"
            f" ({self._losses[directory]} of {LOSSES} times)",
            markup=False, highlight=False,
        )  # fmt: skip


def _execute_on_node(task: RunTask, shared: Shared) -> str:
    """Execute a run in a worker; returns the node's name. Raises HrfrError."""
    node = socket.gethostname()
    packed = _seen_from(node, shared)
    directory = task.run.directory
    directory.mkdir(parents=True, exist_ok=True)
    with _in_directory(shared.working_directory), messages_in(directory / LOG):
        console.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {task.run} on {node}, process {os.getpid()}")
        try:
            execute(task, packed, show_progress=False, patience=LOCK_SECONDS)
        except HrfrError as error:
            console.print(str(error), markup=False)
            raise
        except Exception as error:
            console.print(traceback.format_exc(), markup=False)
            raise HrfrError(f"{task.run} on {node}: {error!r}; the traceback is in {directory / LOG}") from None
    return node


def _estimates_on_node(plan: StudyPlan, runs: list[StudyRun], shared: Shared, cores: int) -> dict[Path, float]:
    """``cost.estimates`` in a worker, with so many threads."""
    from hrfr_fast.runtime.system import given_cores

    packed = _seen_from(socket.gethostname(), shared)
    with _in_directory(shared.working_directory), given_cores(cores):
        return estimates(replace(plan, packed=packed), runs)


def _in_directory(path: Path) -> AbstractContextManager[None]:
    return chdir(path) if path.is_dir() else nullcontext()


def _seen_from(node: str, shared: Shared) -> Packed:
    """The packed data as this node sees them. Raises HrfrError naming the node where it does not see what it must."""
    deadline = time.monotonic() + FOLDER_SECONDS
    while holder_of(shared.study) != shared.holder:
        if time.monotonic() > deadline:
            raise UsageError(f"node {node}: {shared.study} is not there, or not the driver's; {_SAME_PATH}")
        time.sleep(0.5)
    try:
        packed = open_packed(shared.packed)
    except HrfrError as error:
        raise UsageError(f"node {node}: {error}; {_SAME_PATH}") from None
    if packed.digest != shared.digest:
        raise UsageError(f"node {node}: {shared.packed} holds other data than the driver sees there; {_SAME_PATH}")
    return packed


_SAME_PATH = "the packed data and the study's directory must lie in folders that every node sees under the same path"
