"""Order of a study's runs, whoever executes them: which may start, how many at once, with how many threads."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrfr_fast.regimes import needed_regimes
from hrfr_fast.study.plan import StudyRun


@dataclass(frozen=True)
class Node:
    """A machine of a cluster: its cores and GPUs."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True)
class Share:
    """What one run gets of a node: cores, which are its threads, and a GPU or none (0)."""

    cpus: int
    gpus: int = 0

    def places(self, nodes: Sequence[Node]) -> int:
        """How many runs can be executed at once."""
        return sum(
            min(node.cpus // self.cpus, node.gpus // self.gpus if self.gpus else node.cpus // self.cpus)
            for node in nodes
        )  # fmt: skip


def startable(runs: Sequence[StudyRun], finished: Collection[Path], started: Collection[Path]) -> list[StudyRun]:
    """Runs that are neither finished nor started and whose parents are finished, in the order of ``runs``.

    Args:
        finished: directories of runs.
        started: directories of runs that are not finished.
    """
    return [
        run
        for run in runs
        if run.directory not in finished
        and run.directory not in started
        and all(parent in finished for parent in parent_directories(run))
    ]


def parent_directories(run: StudyRun) -> list[Path]:
    """Directories of the study's runs that ``run`` needs, as parents or as its teacher: those of its own seed."""
    return [run.directory.parent / name for name in needed_regimes(run.regime)]


def share_of(runs: Sequence[StudyRun], nodes: Sequence[Node], *, on_gpu: bool, threads: int = 0) -> Share:
    """What each of ``runs`` gets of the ``nodes``: at least one core.

    On GPUs one of them, and as many of its node's cores as there are to each. On CPUs all cores divided by the runs
    that can start at once, which are those without parents, but no more than the smallest node has.

    Args:
        runs: all of the study, finished or not: a study that is continued divides as before.
        threads: cores a run instead; 0: as above.
    """
    if on_gpu:
        per_gpu = [node.cpus // node.gpus for node in nodes if node.gpus]
        return Share(threads or max(1, min(per_gpu)), 1)
    at_once = sum(not parent_directories(run) for run in runs)
    all_cores, smallest = sum(node.cpus for node in nodes), min(node.cpus for node in nodes)
    return Share(threads or max(1, min(smallest, all_cores // max(1, at_once))))
