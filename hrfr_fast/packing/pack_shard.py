"""Packing of one shard, continued where an interrupted pack left it."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.names import identities_file, listing_file, without_prefix
from hrfr_fast.format.saved_listing import save_listing, saved_key
from hrfr_fast.format.writer import SplitWriter, holds
from hrfr_fast.packing.chunks import Chunk
from hrfr_fast.packing.journal import Journal
from hrfr_fast.packing.previous import is_whole
from hrfr_fast.packing.sources.candidates import Candidates, PairCandidates
from hrfr_fast.packing.workers import Decoders
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.files import write_array, write_json
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.untrusted import parsed_json

SYNC_BYTES, SYNC_SECONDS = 256 << 20, 2.0  # the most work that a kill can cost
# Up to so many files of a shard (the larger of a number and a share) may be unreadable; the rest is packed. With more
# of them, a disk or a mount has failed, and the remains must not replace what was packed before.
UNREADABLE, UNREADABLE_SHARE = 100, 0.05


@dataclass(frozen=True)
class FinishedShard:
    """A shard that lies whole in the work directory."""

    entry: dict[str, Any]
    """Of the manifest."""
    rejected: list[dict[str, Any]]
    """Lines of ``quarantine.jsonl``."""
    action: str
    """"packed", "continued from 1,234 of 5,678", "finished earlier" or "unchanged"."""


def pack_shard(
    candidates: Candidates,
    work: Path,
    key: dict[str, Any],
    decoders: Decoders,
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> FinishedShard:
    """Pack ``candidates`` into ``work``.

    Args:
        key: all that decides the shard's bytes, as plain JSON values; unfinished work of another key is discarded.
        advance: called with the number of candidates done so far.
        stop: set, it ends the work after the chunk at hand with Interrupted.

    Raises:
        UsageError: none of the pictures can be packed.
        HrfrError: a worker died, or too many files cannot be read.
    """
    finished = finished_earlier(work, key, candidates)
    if finished:
        advance(candidates.count)
        return finished
    journal, writer = open_shard(candidates, work, key)
    begun = journal.candidates
    action = f"continued from {begun:,} of {candidates.count:,}" if begun else "packed"
    try:
        fill_shard(writer, journal, candidates, decoders, advance, stop)
        finished = _finish(writer, journal, candidates, work, action)
    except BaseException:
        close_unfinished(writer, journal)
        raise
    mark_finished(candidates, work, key, finished)
    journal.remove()
    return finished


def mark_finished(candidates: Candidates, work: Path, key: dict[str, Any], finished: FinishedShard) -> None:
    """Save the listing that the shard was packed from, and that it lies whole in ``work``."""
    save_listing(work / listing_file(candidates.name), key, finished.entry["digest"], candidates.listing_lines())
    write_json(_done(work, candidates), manifest.with_checksum({"key": key} | asdict(finished)))


def _done(work: Path, candidates: Candidates) -> Path:
    return work / f"{candidates.name}.done.json"


def finished_earlier(work: Path, key: dict[str, Any], candidates: Candidates) -> FinishedShard | None:
    """The shard if an interrupted pack finished it, it is whole, and no file can be read now that could not then."""
    done = _done(work, candidates)
    try:
        saved = manifest.without_checksum(parsed_json(done.read_bytes()))
        finished = FinishedShard(saved["entry"], saved["rejected"], "finished earlier")
        whole = is_whole(work, finished.entry) and not candidates.readable_again(unreadable_of(finished.rejected))
        listing = work / listing_file(candidates.name)
        if whole and saved["key"] == key == saved_key(listing, finished.entry["digest"]):
            return finished
    except (OSError, ValueError, KeyError, TypeError):
        pass
    done.unlink(missing_ok=True)
    return None


def open_shard(candidates: Candidates, work: Path, key: dict[str, Any]) -> tuple[Journal, SplitWriter]:
    """Journal and writer of the shard, both as the last run left them."""
    path = work / f"{candidates.name}.beton"
    partial = unfinished(path)
    journal = Journal(work, candidates.name, key)
    if journal.continued and not _may_continue(journal, partial, candidates, key["page_size"]):
        journal.remove()
        journal = Journal(work, candidates.name, key)
    restored = journal.rows() if journal.continued else None
    try:
        return journal, SplitWriter(path, candidates.count, candidates.size, key["page_size"], restored)
    except BaseException:
        journal.close()
        raise


def close_unfinished(writer: SplitWriter, journal: Journal) -> None:
    """Close both, whatever one of them says: a full disk refuses what is still in a buffer."""
    with ExitStack() as both:
        both.callback(journal.close)
        both.callback(writer.close)


def unfinished(path: Path) -> Path:
    """The file that becomes ``path``; it is named so again where a kill came between its end and the next step."""
    partial = path.with_name(path.name + ".partial")
    if path.exists():
        os.replace(path, partial)
    return partial


def _may_continue(journal: Journal, partial: Path, candidates: Candidates, page_size: int) -> bool:
    """Whether all that was written is still there, and no file can be read now that could not then."""
    whole = partial.exists() and holds(partial, journal.rows(), candidates.count, page_size)
    return whole and not candidates.readable_again(unreadable_of(journal.rejected()))


def unreadable_of(rejected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in rejected if line.get("retry")]


def fill_shard(
    writer: SplitWriter,
    journal: Journal,
    candidates: Candidates,
    decoders: Decoders,
    advance: Callable[[int], None],
    stop: StopFlag | None,
) -> None:
    """Decode and append the candidates that are not in the journal yet."""
    since, unsynced = time.monotonic(), 0
    unreadable = len(unreadable_of(journal.rejected()))
    advance(journal.candidates)
    for first, last, chunk in decoders.chunks(candidates, journal.candidates):
        labels = candidates.labels(first, last)[chunk.kept]
        rows = writer.extend(chunk.blob, chunk.lengths, labels, chunk.modes, chunk.crc32)
        rejected = _rejected(candidates, first, last, chunk)
        unreadable = too_many_unreadable(candidates, last, rejected, unreadable)
        journal.add(last, rows, rejected)
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


def too_many_unreadable(candidates: Candidates, done: int, rejected: list[dict[str, Any]], before: int = 0) -> int:
    """How many files of the first ``done`` could not be read: ``before``, and those among ``rejected``.

    Raises HrfrError where they are so many that the disk or a mount must have failed.
    """
    unreadable = before + len(unreadable_of(rejected))
    if unreadable > max(UNREADABLE, UNREADABLE_SHARE * candidates.count):
        raise HrfrError(
            f"{candidates.name}: {unreadable:,} of the first {done:,} files could not be read, such as"
            f" {one_line(rejected[-1]['file'])}: {rejected[-1]['reason']}. With that many, the rest is not packed:"
            " mend this (rights, the disk, a mount) and run the same command again; what was packed"
            " before is untouched"
        )
    return unreadable


def _rejected(candidates: Candidates, first: int, last: int, chunk: Chunk) -> list[dict[str, Any]]:
    """Quarantine lines of the ``chunk`` that the candidates first..last-1 gave."""
    if not chunk.rejected:
        return []
    paths = candidates.paths(first, last)
    lines: list[dict[str, Any]] = []
    for position, reason in chunk.rejected:
        file = f"{candidates.folder}/{paths[position]}"
        line: dict[str, Any] = {"split": candidates.name, "file": file, "reason": reason}
        if not candidates.in_files and position in chunk.unreadable:
            line["record"] = first + position
        if candidates.paired:
            line["pair"] = (first + position) // 2
        if position in chunk.unreadable:
            line["retry"] = True
        lines.append(line)
    return lines


def _finish(writer: SplitWriter, journal: Journal, candidates: Candidates, work: Path, action: str) -> FinishedShard:
    """Write the tables of the shard and make its manifest entry."""
    rejected = journal.rejected()
    if not writer.samples:
        raise nothing_left(candidates, rejected)
    if isinstance(candidates, PairCandidates):
        rejected += [{"split": candidates.name} | line for line in candidates.malformed]
        entry = _pair_entry(writer, candidates, source_of(candidates, rejected), work)
    else:
        entry = _split_entry(writer, candidates, source_of(candidates, rejected))
    return FinishedShard(entry, rejected, action)


def nothing_left(candidates: Candidates, rejected: list[dict[str, Any]]) -> HrfrError:
    """The error for a shard of which every picture was rejected."""
    reasons = "; ".join(f"{one_line(line['file'])}: {line['reason']}" for line in rejected[:3])
    kind = HrfrError if unreadable_of(rejected) else UsageError
    return kind(f"{candidates.name}: none of its {candidates.count} pictures can be packed. {reasons}")


def source_of(candidates: Candidates, rejected: list[dict[str, Any]]) -> dict[str, Any]:
    """Origin of the pictures, for the manifest."""
    return {
        "listing": candidates.content,
        "candidates": candidates.count,
        "quarantined": len(rejected),
        "unreadable": len(unreadable_of(rejected)),
        "encoding": candidates.encoding,
        "resize": candidates.resize,
    }


def _pair_entry(writer: SplitWriter, candidates: PairCandidates, source: dict[str, Any], work: Path) -> dict[str, Any]:
    kept = writer.rows["label"][: writer.samples].astype(np.int64)
    info = writer.finish(candidates.same[np.arange(candidates.count) // 2].astype(np.int64))
    source |= candidates.conversion
    name = without_prefix(candidates.name)
    entry = manifest.pair_entry(name, info, size=candidates.size, kind=candidates.kind, source=source)
    if candidates.identities is not None:
        save_identities(work, entry, candidates.identities[kept], 1.0)
    return entry


def _split_entry(writer: SplitWriter, candidates: Candidates, source: dict[str, Any]) -> dict[str, Any]:
    """Finish a split: identities that lost every picture get no label, the others are numbered without gaps."""
    used = writer.labels_used()
    relabel = np.full(len(candidates.identity_names), -1, np.int64)
    relabel[used] = np.arange(len(used))
    info = writer.finish(relabel)
    names = [candidates.identity_names[identity] for identity in used.tolist()]
    source["identities_listed"] = len(relabel)
    return manifest.split_entry(candidates.name, info, size=candidates.size, identity_names=names, source=source)


def save_identities(work: Path, entry: dict[str, Any], people: ArrayLike, coverage: float) -> None:
    """Write the identities of a pair set, int32 [2P], equal for one person, and enter their file in ``entry``."""
    path = work / identities_file(Path(entry["file"]).stem)
    write_array(path, np.asarray(people, np.int32))
    entry["identities_file"], entry["identities_digest"] = path.name, beton.file_digest(path)
    entry["identity_coverage"] = coverage
