"""Packing of a split into several files, each from its own range of candidates, here or on the machines of a cluster.

A part is packed as a shard is, with a journal of its own, and knows nothing of the others. Only its labels have to wait
for them: an identity that lost every picture gets none, so that the tables of all files are written once the pages of
all are. Memory is taken for one part at a time, whatever the size of the split.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format import manifest
from hrfr_fast.format.writer import SplitWriter, holds
from hrfr_fast.packing.journal import Journal, remove_journal
from hrfr_fast.packing.pack_shard import (
    FinishedShard,
    close_unfinished,
    fill_shard,
    finished_earlier,
    mark_finished,
    nothing_left,
    open_shard,
    source_of,
    too_many_unreadable,
    unfinished,
)
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.packing.sources.split_part import SplitPart, parts_of_split
from hrfr_fast.packing.workers import Decoders
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import cores

FINISHING = 4  # files whose tables are made at once; each takes about 100 bytes a record


@dataclass(frozen=True)
class FilledPart:
    """A part whose pages are written, and its journal. ``used``: int64, the provisional labels of its records."""

    name: str
    samples: int
    continued: int
    """How many of its candidates an interrupted pack had done."""
    used: NDArray[np.int64]
    rejected: list[dict[str, Any]]


@dataclass(frozen=True)
class PartTables:
    """What the tables of a part are made of, beside its journal."""

    name: str
    count: int
    size: int
    samples: int
    used: NDArray[np.int64]
    labels: NDArray[np.int64]
    """int64, the final label of each of ``used``."""


def pack_parts(
    candidates: Candidates,
    work: Path,
    key: dict[str, Any],
    decoders: Decoders,
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> FinishedShard:
    """Pack ``candidates`` into files of ``key["shard_samples"]`` candidates in ``work``; the rest as ``pack_shard``."""
    if finished := finished_earlier(work, key, candidates):
        advance(candidates.count)
        return finished
    parts = parts_of_split(candidates, key["shard_samples"])
    filled = _fill(parts, work, key, decoders, advance, stop)
    rejected = [part.in_the_split(line) for part, done in zip(parts, filled, strict=True) for line in done.rejected]
    too_many_unreadable(candidates, candidates.count, rejected)
    if not any(part.samples for part in filled):
        raise nothing_left(candidates, rejected)
    used = np.unique(np.concatenate([part.used for part in filled]))
    tables = [
        PartTables(part.name, part.count, part.size, done.samples, done.used, np.searchsorted(used, done.used))
        for part, done in zip(parts, filled, strict=True)
        if done.samples
    ]
    source = source_of(candidates, rejected)
    source["identities_listed"] = len(candidates.identity_names)
    names = [candidates.identity_names[identity] for identity in used.tolist()]
    files = _finish(tables, work, key, decoders)
    entry = manifest.divided_entry(files, size=candidates.size, identity_names=names, source=source)
    begun = sum(part.continued for part in filled)
    action = f"continued from {begun:,} of {candidates.count:,}" if begun else "packed"
    finished = FinishedShard(entry, rejected, action)
    mark_finished(candidates, work, key, finished)
    for part in parts:
        remove_journal(work, part.name)
    return finished


def _fill(
    parts: list[SplitPart],
    work: Path,
    key: dict[str, Any],
    decoders: Decoders,
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> list[FilledPart]:
    if (cluster := decoders.cluster()) is not None:
        from hrfr_fast.packing.cluster_parts import fill_on_cluster

        return fill_on_cluster(cluster, parts, work, key, advance, stop)
    return [
        fill_part(part, work, key, decoders, lambda done, first=part.first: advance(first + done), stop)  # type: ignore[misc]
        for part in parts
    ]


def _finish(tables: list[PartTables], work: Path, key: dict[str, Any], decoders: Decoders) -> list[dict[str, Any]]:
    if (cluster := decoders.cluster()) is not None:
        from hrfr_fast.packing.cluster_parts import finish_on_cluster

        return finish_on_cluster(cluster, tables, work, key)
    with ThreadPoolExecutor(min(cores(), FINISHING)) as pool:
        return list(pool.map(partial(finish_part, work=work, key=key), tables))


def fill_part(
    part: SplitPart,
    work: Path,
    key: dict[str, Any],
    decoders: Decoders,
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> FilledPart:
    """Write the pages of ``part``, from where its journal ends. Raises as ``pack_shard``."""
    journal, writer = open_shard(part, work, _part_key(key, part.name))
    begun = journal.candidates
    try:
        fill_shard(writer, journal, part, decoders, advance, stop)
        return FilledPart(part.name, writer.samples, begun, writer.labels_used(), journal.rejected())
    finally:
        close_unfinished(writer, journal)


def finish_part(tables: PartTables, work: Path, key: dict[str, Any], compare: bool = False) -> dict[str, Any]:
    """Write the tables of a part whose pages are written; returns the manifest's entry of its file.

    ``compare``: compare the pages with the journal's checksums first, where other machines wrote them.

    Raises HrfrError where they differ, or the journal is not that of the whole part.
    """
    path = work / f"{tables.name}.beton"
    journal = Journal(work, tables.name, _part_key(key, tables.name))
    try:
        rows = journal.rows()
        whole = (journal.candidates, len(rows)) == (tables.count, tables.samples)
        partial = unfinished(path)
        if not whole or (compare and not holds(partial, rows, tables.count, key["page_size"])):
            raise HrfrError(
                f"{path}: the pages or their journal are not what was written (two packers at work, or a disk that"
                " fails); run the same command again to pack this part anew"
            )
        writer = SplitWriter(path, tables.count, tables.size, key["page_size"], rows)
        relabel = np.full(int(tables.used[-1]) + 1, -1, np.int64)
        relabel[tables.used] = tables.labels
        try:
            return manifest.part_entry(path.name, writer.finish(relabel))
        finally:
            writer.close()
    finally:
        journal.close()


def _part_key(key: dict[str, Any], name: str) -> dict[str, Any]:
    return {**key, "part": name}
