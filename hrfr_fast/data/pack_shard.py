"""One shard, from wherever an interrupted pack left it: decode, append, account, finish."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hrfr_fast.data import beton, commit, manifest
from hrfr_fast.data.bcolz_arrays import BcolzPairs
from hrfr_fast.data.decode import Chunk
from hrfr_fast.data.earlier import is_whole
from hrfr_fast.data.journal import Journal
from hrfr_fast.data.names import one_line
from hrfr_fast.data.pairs import PathPairs
from hrfr_fast.data.saved_listing import save_listing, saved_key
from hrfr_fast.data.sources import Candidates
from hrfr_fast.data.workers import Decoders
from hrfr_fast.data.writer import SplitWriter, holds
from hrfr_fast.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.files import write_array, write_json
from hrfr_fast.stopping import StopFlag

SYNC_BYTES, SYNC_SECONDS = 64 << 20, 1.0  # how much work a kill may cost
# So many files of a shard may be unreadable (the larger of a number and a share) and the rest is still packed. Beyond
# it the disk or a mount is at fault, and what was packed before must not be replaced by the remains.
UNREADABLE, UNREADABLE_SHARE = 100, 0.05


@dataclass(frozen=True)
class Finished:
    """A shard that lies whole in the work directory."""

    entry: dict[str, Any]
    """Of the manifest."""
    refusals: list[dict[str, Any]]
    """Lines of the quarantine."""
    action: str
    """"packed", "continued from 1,234 of 5,678", "finished earlier" or "unchanged"."""


def pack_shard(
    candidates: Candidates,
    work: Path,
    key: dict[str, Any],
    decoders: Decoders,
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> Finished:
    """Pack ``candidates`` into ``work``.

    Args:
        key: all that decides the shard's bytes, as plain JSON values; unfinished work of another key is discarded.
        advance: called with the number of candidates done so far.
        stop: set, it ends the work after the chunk at hand with Interrupted.

    Raises:
        UsageError: none of the pictures can be packed.
        HrfrError: a worker died, or too many files cannot be read.
    """
    done = work / f"{candidates.name}.done.json"
    finished = _finished_earlier(done, key, candidates)
    if finished:
        advance(candidates.count)
        return finished
    journal, writer = _open(candidates, work, key)
    begun = journal.candidates
    action = f"continued from {begun:,} of {candidates.count:,}" if begun else "packed"
    try:
        _fill(writer, journal, candidates, decoders, advance, stop)
        finished = _finish(writer, journal, candidates, work, action)
    except BaseException:
        writer.close()
        journal.close()
        raise
    listing = work / commit.listing_name(candidates.name)
    save_listing(listing, key, finished.entry["digest"], candidates.listing_lines())
    write_json(done, manifest.with_checksum({"key": key} | asdict(finished)))
    journal.remove()
    return finished


def _finished_earlier(done: Path, key: dict[str, Any], candidates: Candidates) -> Finished | None:
    """What an interrupted pack finished, if all of it is whole and no file can be read now that could not then."""
    try:
        said = manifest.without_checksum(json.loads(done.read_bytes()))
        finished = Finished(said["entry"], said["refusals"], "finished earlier")
        whole = is_whole(done.parent, finished.entry) and not candidates.readable_again(_unreadable(finished.refusals))
        listing = done.parent / commit.listing_name(candidates.name)
        if whole and said["key"] == key == saved_key(listing, finished.entry["digest"]):
            return finished
    except (OSError, ValueError, KeyError, TypeError):
        pass
    done.unlink(missing_ok=True)
    return None


def _open(candidates: Candidates, work: Path, key: dict[str, Any]) -> tuple[Journal, SplitWriter]:
    """The account of the shard and its writer, both where the last run left them."""
    path = work / f"{candidates.name}.beton"
    partial = path.with_name(path.name + ".partial")
    if path.exists():
        os.replace(path, partial)  # killed after the file was renamed and before it was accounted for
    journal = Journal(work, candidates.name, key)
    if journal.continued and not _may_continue(journal, partial, candidates, key["page_size"]):
        journal.remove()
        journal = Journal(work, candidates.name, key)
    restored = journal.rows() if journal.continued else None
    return journal, SplitWriter(path, candidates.count, candidates.size, key["page_size"], restored)


def _may_continue(journal: Journal, partial: Path, candidates: Candidates, page_size: int) -> bool:
    """Whether all that was written is still there, and no file can be read now that could not then."""
    whole = partial.exists() and holds(partial, journal.rows(), candidates.count, page_size)
    return whole and not candidates.readable_again(_unreadable(journal.refusals()))


def _unreadable(refusals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in refusals if line.get("retry")]


def _fill(
    writer: SplitWriter,
    journal: Journal,
    candidates: Candidates,
    decoders: Decoders,
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> None:
    """Decode and append every candidate the journal does not account for yet."""
    since, unsynced = time.monotonic(), 0
    unreadable = len(_unreadable(journal.refusals()))
    advance(journal.candidates)
    for first, last, chunk in decoders.chunks(candidates, journal.candidates):
        labels = candidates.labels(first, last)[chunk.kept]
        rows = writer.extend(chunk.blob, chunk.lengths, labels, chunk.modes, chunk.crc32)
        refusals = _refusals(candidates, first, last, chunk)
        unreadable += len(_unreadable(refusals))
        if unreadable > max(UNREADABLE, UNREADABLE_SHARE * candidates.count):
            raise HrfrError(
                f"{candidates.name}: {unreadable:,} of the first {last:,} files could not be read, such as"
                f" {one_line(refusals[-1]['file'])}: {refusals[-1]['reason']}. That many are not packed around: mend it"
                " (rights, the disk, a mount) and run the same command again; what was packed before is untouched"
            )
        journal.add(last, rows, refusals)
        advance(last)
        unsynced += len(chunk.blob)
        now = time.monotonic()
        if stop or unsynced >= SYNC_BYTES or now - since >= SYNC_SECONDS or last == candidates.count:
            writer.sync()
            journal.commit()
            since, unsynced = now, 0
        if stop:
            raise Interrupted(
                f"stopped after {last:,} of {candidates.count:,} of {candidates.name}; run the same command again to"
                " continue",
                stop.signal_number or 2,
            )


def _refusals(candidates: Candidates, first: int, last: int, chunk: Chunk) -> list[dict[str, Any]]:
    if not chunk.refused:
        return []
    paths = candidates.paths(first, last)
    lines: list[dict[str, Any]] = []
    for position, reason in chunk.refused:
        file = f"{candidates.folder}/{paths[position]}"
        line: dict[str, Any] = {"split": candidates.name, "file": file, "reason": reason}
        if candidates.paired:
            line["pair"] = (first + position) // 2
        if position in chunk.unreadable:
            line["retry"] = True
        lines.append(line)
    return lines


def _finish(writer: SplitWriter, journal: Journal, candidates: Candidates, work: Path, action: str) -> Finished:
    refusals = journal.refusals()
    if not writer.samples:
        writer.close()
        reasons = "; ".join(f"{one_line(line['file'])}: {line['reason']}" for line in refusals[:3])
        kind = HrfrError if _unreadable(refusals) else UsageError
        raise kind(f"{candidates.name}: none of its {candidates.count} pictures can be packed. {reasons}")
    if isinstance(candidates, PathPairs | BcolzPairs):
        refusals += [{"split": candidates.name} | line for line in candidates.malformed]
        entry = _pair_entry(writer, candidates, _source(candidates, refusals), work)
    else:
        entry = _split_entry(writer, candidates, _source(candidates, refusals))
    return Finished(entry, refusals, action)


def _source(candidates: Candidates, refusals: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "listing": candidates.content,
        "candidates": candidates.count,
        "quarantined": len(refusals),
        "unreadable": len(_unreadable(refusals)),
        "encoding": candidates.encoding,
        "resize": candidates.resize,
    }


def _pair_entry(
    writer: SplitWriter, candidates: PathPairs | BcolzPairs, source: dict[str, Any], work: Path
) -> dict[str, Any]:
    kept = writer.rows["label"][: writer.samples].astype(np.int64)
    info = writer.finish(candidates.same[np.arange(candidates.count) // 2].astype(np.int64))
    if isinstance(candidates, BcolzPairs):
        source |= {"levels": candidates.levels} | candidates.options
    name = candidates.name.removeprefix("pairs-")
    entry = manifest.pair_entry(name, info, size=candidates.size, kind=candidates.kind, source=source)
    if candidates.identities is not None:
        save_identities(work, entry, candidates.identities[kept], 1.0)
    return entry


def _split_entry(writer: SplitWriter, candidates: Candidates, source: dict[str, Any]) -> dict[str, Any]:
    """Finish a split: identities that lost every picture get no label, the others are numbered without gaps."""
    assert candidates.listing is not None
    used = np.unique(writer.rows["label"][: writer.samples].astype(np.int64))
    relabel = np.full(len(candidates.listing.identities), -1, np.int64)
    relabel[used] = np.arange(len(used))
    info = writer.finish(relabel)
    names = [candidates.listing.identities[i] for i in used.tolist()]
    source["identities_listed"] = len(relabel)
    return manifest.split_entry(candidates.name, info, size=candidates.size, identity_names=names, source=source)


def save_identities(work: Path, entry: dict[str, Any], clusters: ArrayLike, coverage: float) -> None:
    """Write ``pairs-<name>.identities.npy``, int32 [2P], equal for one person, and enter it in ``entry``."""
    path = work / f"{Path(entry['file']).stem}.identities.npy"
    write_array(path, np.asarray(clusters, np.int32))
    entry["identities_file"], entry["identities_digest"] = path.name, beton.file_digest(path)
    entry["identity_coverage"] = coverage
