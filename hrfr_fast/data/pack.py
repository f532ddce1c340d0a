"""``hrfr-fast pack``: folders of faces -> shards. List, decide what there is to do, decode and write, match, commit."""

import errno
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.data import beton, commit, manifest
from hrfr_fast.data.decode import usual_size
from hrfr_fast.data.journal import Journal
from hrfr_fast.data.matching import recover
from hrfr_fast.data.pairs import BcolzPairs, PathPairs, choose_identities, development_pairs, find_pair_sets
from hrfr_fast.data.shards import Split, check_shard_files, pair_set_of, split_of
from hrfr_fast.data.sources import (
    Candidates,
    FolderCandidates,
    Listing,
    changes,
    list_split,
    refuse_shared_identities,
    save_listing,
    saved_key,
)
from hrfr_fast.data.synthetic import MARKER
from hrfr_fast.data.workers import Decoders
from hrfr_fast.data.writer import SplitWriter
from hrfr_fast.errors import DamageFound, HrfrError, Interrupted, StrictRefusal, UsageError
from hrfr_fast.files import write_bytes, write_json
from hrfr_fast.progress import progress_bar
from hrfr_fast.stopping import StopFlag

SIZES = {"lowres": 36, "highres": 144}
EVALUATION_SIZES = (36, 144)
TRAINING = ("lowres", "highres")
PAIR_FOLDER = "hres_eval_pairs"
AUTO_RAW_BYTES = 8_000_000_000  # auto: a split larger than this as raw pixels is stored as JPEG
SYNC_BYTES, SYNC_SECONDS = 64 << 20, 1.0  # how much work a kill may cost
LIBRARIES = ("numpy", "simplejpeg", "opencv-python")


@dataclass
class ShardSummary:
    """What became of one split or pair set."""

    name: str
    samples: int
    identities: int
    size: int
    encoding: str
    quarantined: int
    action: str  # "packed", "continued from 1,234 of 5,678", "finished earlier" or "unchanged"
    why: str = ""  # for a shard packed anew though there was one: what changed


@dataclass
class PackSummary:
    """What a pack did. ``lines()`` is what the command prints."""

    out: Path
    digest: str
    nothing_to_do: bool
    shards: dict[str, ShardSummary] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    encoding: str = ""  # the choice and its reason
    completed_earlier: bool = False  # an interrupted move into place was completed first

    @property
    def quarantined(self) -> int:
        """Pictures and list lines refused, over all shards."""
        return sum(shard.quarantined for shard in self.shards.values())

    def lines(self) -> list[str]:
        """Human-readable account."""
        lines = ["nothing to do: the input is unchanged"] if self.nothing_to_do else []
        for s in self.shards.values():
            what = f"{s.samples // 2:,} pairs" if s.name.startswith("pairs-") else f"{s.identities:,} identities"
            refused = f", {s.quarantined:,} in quarantine" if s.quarantined else ""
            why = f" ({s.why})" if s.why else ""
            lines.append(f"{s.name}: {s.samples:,} faces, {what}, {s.size} px, {s.encoding}{refused}: {s.action}{why}")
        if self.encoding and not self.nothing_to_do:
            lines.append(self.encoding)
        if self.quarantined:
            lines.append(f"{self.quarantined:,} refused; files and reasons: {self.out / commit.QUARANTINE}")
        return lines


@dataclass(frozen=True)
class Request:
    """The settings that shape the output; all of them are in the manifest."""

    encoding: str
    dev_identities: int
    resize: bool
    sizes: Mapping[str, int]
    page_size: int


def pack(
    data: str | Path,
    out: str | Path,
    *,
    encoding: str = "auto",
    workers: int = 0,
    dev_identities: int = 0,
    strict: bool = False,
    resize: bool = False,
    sizes: Mapping[str, int] | None = None,
    show_progress: bool = True,
    stop: StopFlag | None = None,
    page_size: int = beton.PAGE_SIZE,
) -> PackSummary:
    """Pack the tree ``data`` into the directory ``out``.

    An interrupted pack is continued, unchanged input is left alone, a changed split is packed anew; ``out`` holds the
    old output until the new one is whole. The bytes written depend on the input alone, not on ``workers``.

    Args:
        data: holds ``lowres``, ``highres``, ``highres_eval`` (``<identity>/<picture>``; one of them at least) and
            perhaps ``hres_eval_pairs``.
        encoding: "raw" pixels, "jpeg" (JPEG files of the right size byte for byte, others encoded) or "auto": raw
            while a split's pixels take at most 8 GB. Pair pictures are never re-encoded.
        workers: decoding processes; 0 for all cores, 1 for none beside this one.
        dev_identities: how many identities to take out of each training split for development pairs.
        strict: raise StrictRefusal, after everything else is packed, if anything was refused.
        resize: accept pictures of other sizes (centre square, resampled) instead of refusing them.
        sizes: pixels a side by split or pair set name, instead of 36 for lowres, 144 for highres, and what most
            pictures have for the others.
        stop: looked at between chunks; set, it ends the work with Interrupted, ready to be continued.
        page_size: bytes a page of the shards, a power of two.

    Raises:
        UsageError: a wrong setting, nothing to pack, an identity in two splits, a broken pair set.
        HrfrError: unreadable folder, full disk, dead worker.
        StrictRefusal, Interrupted: see above.
    """
    data, out = Path(data), Path(out)
    request = Request(encoding, dev_identities, resize, dict(sizes or {}), page_size)
    _validate(data, out, request, workers)
    warnings: list[str] = []
    summary = PackSummary(out, "", False, warnings=warnings)
    with Decoders(workers or _cores()) as decoders:
        if not (out / manifest.NAME).exists():
            decoders.start()  # while files are listed; a second run may have nothing to decode
        todo = _candidates(data, request, warnings)
        _run(data, out, todo, request, decoders, show_progress, stop, summary)
    if strict and summary.quarantined:
        raise StrictRefusal(
            f"{summary.quarantined} inputs were refused (--strict); everything else is packed, files and reasons are in"
            f" {out / commit.QUARANTINE}"
        )
    return summary


def pack_pairs(folder: str | Path, out: str | Path, *, workers: int = 0, show_progress: bool = False) -> PackSummary:
    """Pack the pair sets of ``folder`` alone: itself a folder of sets, or a tree with ``hres_eval_pairs`` in it.

    Without splits beside them no identities can be recovered. Raises UsageError where there is no pair set.
    """
    folder, out = Path(folder), Path(out)
    folder = folder / PAIR_FOLDER if (folder / PAIR_FOLDER).is_dir() else folder
    request = Request("auto", 0, False, {}, beton.PAGE_SIZE)
    todo: list[Candidates] = list(find_pair_sets(folder))
    if not todo:
        raise UsageError(
            f"{folder}: no pair set here; expected <name>.csv, or <name>/data, <name>/meta, <name>_list.npy"
        )
    for candidates in todo:
        candidates.size = _size(candidates, request)
    summary = PackSummary(out, "", False)
    with Decoders(workers or _cores()) as decoders:
        _run(folder, out, todo, request, decoders, show_progress, None, summary)
    return summary


def _run(
    data: Path,
    out: Path,
    todo: list[Candidates],
    request: Request,
    decoders: Decoders,
    show_progress: bool,
    stop: StopFlag | None,
    summary: PackSummary,
) -> None:
    """Bring ``out`` up to date with ``todo`` and fill in ``summary``."""
    summary.encoding = _choose_encoding(todo, request.encoding)
    with _disk_errors(out), commit.locked(out) as work:
        summary.completed_earlier = commit.complete(out)
        old = _old_manifest(out)
        keys = {c.name: _key(c, request.page_size) for c in todo}
        current = {c.name: _is_current(out, old, c.name, keys[c.name]) for c in todo}
        if old is not None and all(current.values()) and _entries(old).keys() == keys.keys():
            commit.clear(work)
            summary.nothing_to_do, content = True, old
            summary.shards = {name: _summary(name, entry, "unchanged") for name, entry in _entries(old).items()}
        else:
            content = _pack_all(
                data, out, work, todo, keys, current, old, request, decoders, show_progress, stop, summary
            )
    summary.digest = content["digest"]
    _warn_about_pairs(content, summary.warnings)


def _validate(data: Path, out: Path, request: Request, workers: int) -> None:
    if request.encoding not in ("auto", "raw", "jpeg"):
        raise UsageError(f"--encoding {request.encoding}: choose auto, raw or jpeg")
    if workers < 0 or request.dev_identities < 0:
        raise UsageError("--workers and --dev-identities take 0 or more")
    if any(not 1 <= size <= 4096 for size in request.sizes.values()):
        raise UsageError("picture sizes must be within 1..4096 pixels")
    if not data.is_dir():
        raise UsageError(f"{data}: no such directory")
    if not any((data / name).is_dir() for name in manifest.SPLITS):
        raise UsageError(f"{data}: expected at least one of the folders {', '.join(manifest.SPLITS)}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: not a directory")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# What there is to pack


def _candidates(data: Path, request: Request, warnings: list[str]) -> list[Candidates]:
    listings = {name: list_split(data / name) for name in manifest.SPLITS if (data / name).is_dir()}
    refuse_shared_identities(listings)
    for name, listing in listings.items():
        _warn_about_listing(name, listing, warnings)
    found: list[Candidates] = []
    development: list[Candidates] = []
    for name, listing in listings.items():
        training = listing
        if request.dev_identities and name in TRAINING:
            aside = choose_identities(listing, request.dev_identities, name)
            training = listing.select(sorted(set(range(len(listing.identities))) - set(aside)))
            size = request.sizes.get(name, SIZES[name])
            development.append(development_pairs(name, data / name, listing.select(aside), size))
        found.append(FolderCandidates(name, data / name, training, 0))
    found += development
    found += find_pair_sets(data / PAIR_FOLDER)
    for candidates in found:
        candidates.size = _size(candidates, request)
        candidates.resize = request.resize
    return found


def _size(candidates: Candidates, request: Request) -> int:
    """The expected side: asked for, fixed by the split's name, or what most of a sample of the pictures have."""
    name = candidates.name.removeprefix("pairs-")
    if isinstance(candidates, BcolzPairs) or candidates.name.startswith("pairs-dev-"):
        return candidates.size
    asked = request.sizes.get(candidates.name, request.sizes.get(name))
    if asked is not None:
        return asked
    if candidates.name in SIZES:
        return SIZES[candidates.name]
    allowed = EVALUATION_SIZES if candidates.name == "highres_eval" else None
    return usual_size(str(candidates.root), candidates.sample(), allowed) or max(EVALUATION_SIZES)


def _choose_encoding(todo: list[Candidates], encoding: str) -> str:
    """Settle each shard's encoding; returns the choice in words."""
    said = []
    for candidates in todo:
        raw = candidates.count * candidates.size**2 * 3
        jpeg = encoding == "jpeg" or (encoding == "auto" and raw > AUTO_RAW_BYTES)
        candidates.encoding = "raw" if not jpeg else "jpeg-or-raw" if candidates.paired else "jpeg"
        if encoding == "auto" and not candidates.paired:
            limit = "above" if jpeg else "within"
            said.append(f"{candidates.name} {'jpeg' if jpeg else 'raw'} ({raw / 1e9:.3g} GB of pixels, {limit} 8 GB)")
    return "encoding auto: " + ", ".join(said) if encoding == "auto" else f"encoding {encoding}: as asked for"


def _warn_about_listing(name: str, listing: Listing, warnings: list[str]) -> None:
    empty = [i for i, n in zip(listing.identities, listing.counts, strict=True) if not n]
    if empty:
        some = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        warnings.append(f"{name}: {len(empty)} identities without pictures get no label ({some})")
    if listing.ignored:
        warnings.append(f"{name}: {listing.ignored} files are not pictures by their names and were ignored")


# What has been done already


def _key(candidates: Candidates, page_size: int) -> dict[str, Any]:
    """All that decides a shard's bytes."""
    return {
        "format": manifest.VERSION,
        "listing": candidates.fingerprint,
        "size": candidates.size,
        "encoding": candidates.encoding,
        "resize": candidates.resize,
        "page_size": page_size,
        "candidates": candidates.count,
    }


def _old_manifest(out: Path) -> dict[str, Any] | None:
    try:
        return manifest.read(out)
    except (UsageError, DamageFound):
        return None


def _entries(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Manifest entries by shard name."""
    return {**content["splits"], **{f"pairs-{name}": entry for name, entry in content["pairs"].items()}}


def _is_current(out: Path, old: dict[str, Any] | None, name: str, key: dict[str, Any]) -> bool:
    entry = _entries(old).get(name) if old is not None else None
    if entry is None or saved_key(out / commit.listing_name(name)) != key:
        return False
    try:
        check_shard_files(out, entry)
        return not entry.get("identities_file") or (out / entry["identities_file"]).is_file()
    except (HrfrError, KeyError, TypeError):
        return False


def _why(out: Path, old: dict[str, Any] | None, candidates: Candidates, key: dict[str, Any]) -> str:
    """What is different from the shard that ``out`` holds; empty where it holds none."""
    if old is None or candidates.name not in _entries(old):
        return ""
    path = out / commit.listing_name(candidates.name)
    before = saved_key(path)
    if before is None or before == key:
        return "the packed files are missing or damaged"
    said = []
    if before.get("listing") != key["listing"]:
        added, removed, changed = changes(path, candidates.listing_lines())
        said.append(f"files: {added} added, {removed} removed, {changed} changed")
    names = [n for n in ("size", "encoding", "resize", "page_size", "format") if before.get(n) != key[n]]
    return "; ".join([*said, *(f"{n}: {before.get(n)} -> {key[n]}" for n in names)])


# Doing it


def _pack_all(
    data: Path,
    out: Path,
    work: Path,
    todo: list[Candidates],
    keys: dict[str, dict[str, Any]],
    current: dict[str, bool],
    old: dict[str, Any] | None,
    request: Request,
    decoders: Decoders,
    show_progress: bool,
    stop: StopFlag | None,
    summary: PackSummary,
) -> dict[str, Any]:
    """Pack what is not current, match the pairs, write the manifest, commit. Returns the manifest."""
    names = {c.name for c in todo}
    for path in work.iterdir():
        # Only unfinished work on what this run packs may stay: anything else could be taken for this run's output.
        if path.name != "lock" and (path.name.split(".")[0] not in names or current[path.name.split(".")[0]]):
            path.unlink()
    _check_space(out, work, [c for c in todo if not current[c.name]])
    entries: dict[str, dict[str, Any]] = {}
    refusals: list[dict[str, Any]] = []
    with progress_bar(show_progress) as progress:
        for candidates in todo:
            name = candidates.name
            if current[name]:
                assert old is not None
                entries[name] = dict(_entries(old)[name])
                refusals += [line for line in _old_refusals(out) if line["split"] == name]
                summary.shards[name] = _summary(name, entries[name], "unchanged")
                continue
            why = _why(out, old, candidates, keys[name])
            task = progress.add_task(name, total=candidates.count, note="")

            def advance(done: int, task: Any = task) -> None:
                progress.update(task, completed=done)

            shard = _pack_shard(candidates, work, keys[name], decoders, advance, stop)
            entries[name], refused, action = shard
            refusals += refused
            summary.shards[name] = _summary(name, entries[name], action, why)
    splits = {
        name: split_of(work if not current[name] else out, name, entries[name])
        for name in entries
        if name in manifest.SPLITS
    }
    for candidates in todo:
        if candidates.name.startswith("pairs-"):
            _identify(candidates, entries[candidates.name], splits, work, out, current[candidates.name])
    write_bytes(work / commit.QUARANTINE, "".join(json.dumps(line) + "\n" for line in refusals).encode())
    pairs = {n.removeprefix("pairs-"): e for n, e in entries.items() if n.startswith("pairs-")}
    content = manifest.build(
        {n: e for n, e in entries.items() if n in manifest.SPLITS}, pairs, _provenance(data, request, summary.encoding)
    )
    for index, split in splits.items():
        _warn_about_lost(index, split, todo, summary)
    commit.decide(out, content)
    commit.clear(work)
    return content


def _pack_shard(
    candidates: Candidates,
    work: Path,
    key: dict[str, Any],
    decoders: Decoders,
    advance: Any,
    stop: StopFlag | None,
) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """One shard from wherever it stands: (manifest entry, refusals, what was done)."""
    name = candidates.name
    done = work / f"{name}.done.json"
    try:
        finished = json.loads(done.read_bytes())
        if finished["key"] == json.loads(json.dumps(key)):
            advance(candidates.count)
            return finished["entry"], finished["refusals"], "finished earlier"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    done.unlink(missing_ok=True)
    path = work / f"{name}.beton"
    partial = path.with_name(path.name + ".partial")
    if path.exists():
        os.replace(path, partial)  # killed after the file was renamed and before it was accounted for
    if not partial.exists():
        (work / f"{name}.journal").unlink(missing_ok=True)
    journal = Journal(work, name, key)
    restored = journal.rows() if journal.continued else None
    writer = SplitWriter(path, candidates.count, candidates.size, key["page_size"], restored)
    begun = journal.candidates
    try:
        _fill(writer, journal, candidates, decoders, advance, stop)
    except BaseException:
        writer.close()
        journal.close()
        raise
    entry, refusals = _finish(writer, journal, candidates, work)
    write_json(done, {"key": key, "entry": entry, "refusals": refusals})
    journal.remove()
    return entry, refusals, f"continued from {begun:,} of {candidates.count:,}" if begun else "packed"


def _fill(
    writer: SplitWriter,
    journal: Journal,
    candidates: Candidates,
    decoders: Decoders,
    advance: Any,
    stop: StopFlag | None,
) -> None:
    """Decode and append every candidate the journal does not account for yet."""
    since, unsynced = time.monotonic(), 0
    advance(journal.candidates)
    for first, last, chunk in decoders.chunks(candidates, journal.candidates):
        labels = candidates.labels(first, last)[chunk.kept]
        rows = writer.extend(chunk.blob, chunk.lengths, labels, chunk.modes, chunk.crc32)
        journal.add(last, rows, _refusals(candidates, first, last, chunk.refused))
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


def _refusals(candidates: Candidates, first: int, last: int, refused: list[tuple[int, str]]) -> list[dict[str, Any]]:
    if not refused:
        return []
    paths = candidates.paths(first, last)
    lines: list[dict[str, Any]] = []
    for position, reason in refused:
        line: dict[str, Any] = {
            "split": candidates.name,
            "file": f"{candidates.folder}/{paths[position]}",
            "reason": reason,
        }
        if candidates.paired:
            line["pair"] = (first + position) // 2
        lines.append(line)
    return lines


def _finish(
    writer: SplitWriter, journal: Journal, candidates: Candidates, work: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    name, refusals = candidates.name, journal.refusals()
    if not writer.samples:
        writer.close()
        reasons = "; ".join(f"{line['file']}: {line['reason']}" for line in refusals[:3])
        raise UsageError(f"{name}: none of its {candidates.count} pictures can be packed. {reasons}")
    labels = writer.rows["label"][: writer.samples].astype(np.int64)
    source: dict[str, Any] = {
        "listing": candidates.content,
        "candidates": candidates.count,
        "quarantined": len(refusals),
        "encoding": candidates.encoding,
        "resize": candidates.resize,
    }
    entry: dict[str, Any]
    if isinstance(candidates, PathPairs | BcolzPairs):
        same = candidates.same[np.arange(candidates.count) // 2].astype(np.int64)
        info = writer.finish(same)
        refusals += [
            {"split": name, "file": f"{PAIR_FOLDER}/{name.removeprefix('pairs-')}.csv", **line}
            for line in candidates.malformed
        ]
        source["quarantined"] = len(refusals)
        if isinstance(candidates, BcolzPairs) and candidates.dtype.base != np.uint8:
            source["levels"] = f"rint(value * {candidates.factor:g} + 127.5)"
        entry = manifest.pair_entry(
            name.removeprefix("pairs-"), info, size=candidates.size, kind=candidates.kind, source=source
        )
        if candidates.identities is not None:
            _save_identities(work, entry, candidates.identities[labels], 1.0)
    else:
        assert candidates.listing is not None
        used = np.unique(labels)
        relabel = np.full(len(candidates.listing.identities), -1, np.int64)
        relabel[used] = np.arange(len(used))
        info = writer.finish(relabel)
        names = [candidates.listing.identities[i] for i in used.tolist()]
        source["identities_listed"] = len(relabel)
        entry = manifest.split_entry(name, info, size=candidates.size, identity_names=names, source=source)
    save_listing(work / commit.listing_name(name), _key(candidates, writer.page_size), candidates.listing_lines())
    return entry, refusals


def _save_identities(work: Path, entry: dict[str, Any], clusters: Any, coverage: float) -> None:
    path = work / f"{Path(entry['file']).stem}.identities.npy"
    with open(path, "wb") as file:
        np.save(file, np.asarray(clusters, np.int32), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    entry["identities_file"], entry["identities_digest"] = path.name, beton.file_digest(path)
    entry["identity_coverage"] = coverage


def _identify(
    candidates: Candidates,
    entry: dict[str, Any],
    splits: Mapping[str, Split],
    work: Path,
    out: Path,
    current: bool,
) -> None:
    """Find a test pair set's pictures among the splits, and note what that says in its manifest entry."""
    if entry["kind"] != "test":
        return
    entry["identities_file"] = entry["identities_digest"] = None
    pairs = pair_set_of(out if current else work, candidates.name.removeprefix("pairs-"), entry)
    found = recover(pairs.split, pairs.same, splits)
    entry["identity_coverage"] = found.coverage
    entry["overlap"] = {name: n for name, n in found.found.items() if name in TRAINING}
    entry["contradictions"] = found.contradictions
    if found.clusters is not None:
        _save_identities(work, entry, found.clusters, found.coverage)


def _warn_about_pairs(content: dict[str, Any], warnings: list[str]) -> None:
    for name, entry in content["pairs"].items():
        for split, n in entry["overlap"].items():
            if n:
                warnings.append(
                    f"pair set {name}: {n} of its {entry['samples']} pictures are also in the training split {split};"
                    " accuracies on it are too optimistic"
                )
        if entry.get("contradictions"):
            warnings.append(f"pair set {name}: {entry['contradictions']} pairs labelled 0 show one identity")


def _warn_about_lost(name: str, split: Split, todo: list[Candidates], summary: PackSummary) -> None:
    listing = next(c.listing for c in todo if c.name == name)
    assert listing is not None
    lost = sum(n > 0 for n in listing.counts) - split.identities
    if lost > 0:
        summary.warnings.append(f"{name}: of {lost} identities every picture was refused; they get no label")


def _old_refusals(out: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (out / commit.QUARANTINE).read_text().splitlines()]
    except (OSError, ValueError):
        return []


def _summary(name: str, entry: dict[str, Any], action: str, why: str = "") -> ShardSummary:
    quarantined = entry["source"].get("quarantined", 0)
    return ShardSummary(
        name, entry["samples"], entry.get("identities", 0), entry["size"], entry["encoding"], quarantined, action, why
    )


def _provenance(data: Path, request: Request, encoding: str) -> dict[str, Any]:
    versions = {}
    for name in ("hrfr-fast", *LIBRARIES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    return {
        "made_by": "hrfr-fast pack",
        "versions": versions,
        "source": data.resolve().name,
        "settings": asdict(request),
        "encoding": encoding,
        **({"synthetic": True} if (data / MARKER).exists() else {}),
    }


# Space


def _bytes_needed(candidates: Candidates) -> int:
    raw = candidates.count * candidates.size**2 * 3
    payload = raw if candidates.encoding == "raw" else min(raw, candidates.bytes_on_disk or raw)
    tables = candidates.count * (beton.METADATA.itemsize + beton.ALLOCATION.itemsize + 20)
    return payload + tables + 2 * beton.PAGE_SIZE


def _check_space(out: Path, work: Path, todo: list[Candidates]) -> None:
    need = sum(_bytes_needed(c) for c in todo)
    have = shutil.disk_usage(out).free + sum(p.stat().st_blocks * 512 for p in work.iterdir())
    if need > have:
        raise HrfrError(
            f"{out}: packing takes about {need / 1e9:.2f} GB and {have / 1e9:.2f} GB are free; make room or choose"
            " another --out (what is packed already is untouched)"
        )


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HrfrError(
                f"{out}: the disk is full. What was packed before is untouched and what is finished is kept in"
                f" {out / manifest.WORK}: make room and run the same command again to continue"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HrfrError(f"{error.filename or out}: cannot be written: {error.strerror}") from error
        raise
