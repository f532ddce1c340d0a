"""The parts of a divided split, packed by the machines of a cluster straight into the output's folder.

All of them need that folder under the same path. A worker that dies is replaced by Ray: the next one continues the part
by its journal, as the next command would.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hrfr_fast.packing.journal import candidates_done
from hrfr_fast.packing.pack_parts import FilledPart, PartTables, fill_part, finish_part
from hrfr_fast.packing.sources.split_part import SplitPart
from hrfr_fast.packing.workers import Decoders
from hrfr_fast.runtime.cluster import Call, Cluster
from hrfr_fast.runtime.errors import HrfrError, Interrupted
from hrfr_fast.runtime.signals import StopFlag

WAITING = 2  # parts sent off beyond the number of cores: each is as many readers as it has pictures
LOOK_SECONDS = 1.0
PATIENCE = 20.0  # seconds for what is taken back to end, before a worker is ended by force
T = TypeVar("T")


def fill_on_cluster(
    cluster: Cluster,
    parts: Sequence[SplitPart],
    work: Path,
    key: dict[str, Any],
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> list[FilledPart]:
    """As ``fill_part`` does for each of ``parts``, one a core of the cluster at a time. Raises as it does."""
    folder = work.resolve()
    count = sum(part.count for part in parts)
    finished = 0

    def look(running: Sequence[int], ended: Sequence[int]) -> None:
        nonlocal finished
        finished += sum(parts[number].count for number in ended)
        done = finished + sum(candidates_done(work, parts[number].name) for number in running)
        advance(done)
        if stop:
            raise Interrupted(
                f"stopped after {done:,} of {count:,} of {parts[0].split}; run the same command again, with or without"
                " --on, to continue",
                stop.signal_number or 2,
            )

    calls = [partial(_send_part, cluster, part, folder, key) for part in parts]
    return _results(cluster, calls, look)


def finish_on_cluster(
    cluster: Cluster, tables: Sequence[PartTables], work: Path, key: dict[str, Any]
) -> list[dict[str, Any]]:
    """As ``finish_part`` does for each of ``tables``. Raises as it does."""
    folder = work.resolve()
    calls = [partial(cluster.submit, finish_part, part, folder, key, True) for part in tables]
    return _results(cluster, calls, lambda running, ended: None)


def _send_part(cluster: Cluster, part: SplitPart, folder: Path, key: dict[str, Any]) -> Call:
    return cluster.submit(_fill_there, part.excerpt(), folder, key)


def _fill_there(part: SplitPart, work: Path, key: dict[str, Any]) -> FilledPart:
    """``fill_part`` on a machine of the cluster, in one process."""
    if not work.is_dir():
        raise HrfrError(
            f"{work} is not there on a machine of the cluster; all of them need the folder under the same path (--out)"
        )
    with Decoders(1) as decoders:
        return fill_part(part, work, key, decoders, lambda done: None, None)


def _results(
    cluster: Cluster, calls: Sequence[Callable[[], Call]], look: Callable[[Sequence[int], Sequence[int]], None]
) -> list[Any]:
    """What the ``calls`` return, in order; as many at once as the cluster has cores, and a few more.

    Args:
        calls: each sends off one call.
        look: told every second which calls are running and which have ended since; may raise to stop.
    """
    results: dict[int, Any] = {}
    running: dict[Call, int] = {}
    left = iter(range(len(calls)))
    try:
        while len(results) < len(calls):
            while len(running) < cluster.cpus + WAITING and (number := next(left, None)) is not None:
                running[calls[number]()] = number
            ended = {running.pop(call): call for call in cluster.finished(list(running), LOOK_SECONDS)}
            results |= {number: cluster.result(call) for number, call in ended.items()}
            look(list(running.values()), list(ended))
    except BaseException:
        _take_back(cluster, list(running))
        raise
    return [results[number] for number in range(len(calls))]


def _take_back(cluster: Cluster, running: list[Call]) -> None:
    """Take back calls that run, and wait for their end: until then they write where the next command will."""
    cluster.cancel(running)
    deadline = time.monotonic() + PATIENCE
    while running and time.monotonic() < deadline:
        ended = set(cluster.finished(running, LOOK_SECONDS))
        running = [call for call in running if call not in ended]
    cluster.cancel(running, force=True)
