"""Update of a packed directory: pack what is not current, match the pairs, replace the old output."""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.alignment_record import KEY, read_record
from hrfr_fast.format.names import is_pair_shard, part_shard, without_prefix
from hrfr_fast.format.quarantine import QUARANTINE
from hrfr_fast.format.reader import Split, split_of
from hrfr_fast.format.split_findings import KEY as KEY_OF_FINDINGS
from hrfr_fast.packing import transaction
from hrfr_fast.packing.disk import check_space, disk_errors
from hrfr_fast.packing.pack_parts import pack_parts
from hrfr_fast.packing.pack_settings import PackSettings
from hrfr_fast.packing.pack_shard import FinishedShard, pack_shard
from hrfr_fast.packing.pair_identities import identify
from hrfr_fast.packing.previous import PreviousPack
from hrfr_fast.packing.sources.candidates import Candidates, PairCandidates
from hrfr_fast.packing.split_checks import look_at, look_for_copies
from hrfr_fast.packing.summary import PackSummary, shard_summary
from hrfr_fast.packing.workers import Decoders
from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.words import counted
from hrfr_fast.synthetic.directory import MARKER

LIBRARIES = ("numpy", "simplejpeg", "opencv-python")


@dataclass
class OutputUpdate:
    """Update of the packed directory ``out`` to the ``candidates`` that were found in ``data``."""

    data: Path
    out: Path
    settings: PackSettings
    candidates: list[Candidates]
    decoders: Decoders
    show_progress: bool
    stop: StopFlag | None
    summary: PackSummary
    known: Mapping[str, Split] = field(default_factory=dict)
    """Splits of another pack among which pairs are looked up where this pack has none."""
    source_format: str = ""
    """What ``data`` was taken for, where it is not the study's data tree."""

    def run(self) -> None:
        """Bring the output directory up to date and fill in the summary."""
        summary = self.summary
        with disk_errors(self.out), transaction.locked(self.out) as work:
            transaction.complete(self.out)  # A pack may have been killed after its commit.
            previous = PreviousPack.compare(self.out, self.candidates, self.settings, self.show_progress)
            previous.refuse_other_set(self.data, self.candidates)
            alignment = read_record(self.data)
            if alignment is None and self.source_format:  # a file: the record lies beside it, or in a list's root
                alignment = read_record(self.candidates[0].root)
            recorded = None if alignment is None else alignment.model_dump()
            known = previous.manifest["provenance"].get(KEY) if previous.manifest else None
            if previous.manifest is not None and previous.complete and known == recorded:
                summary.nothing_to_do, content = True, previous.manifest
                summary.shards = {
                    name: shard_summary(name, entry, "unchanged") for name, entry in previous.entries().items()
                }
            else:
                content = self._pack_into(work, previous, recorded)
                transaction.commit(self.out, content)
            transaction.clear(work)
        summary.digest = content["digest"]

    def _pack_into(self, work: Path, previous: PreviousPack, alignment: dict[str, Any] | None) -> dict[str, Any]:
        """Pack what is not current into ``work``, match the pairs, write what was rejected. Returns the manifest.

        ``alignment``: the record of how the faces were aligned, where there is one.
        """
        _keep_unfinished(work, previous)
        changed = [candidates for candidates in self.candidates if candidates.name not in previous.current]
        for candidates in changed:
            candidates.check()
        check_space(self.out, work, changed, self.settings.shard_samples)
        shards = self._shards(work, previous)
        places = {name: self.out if name in previous.current else work for name in shards}
        entries = {name: shard.entry for name, shard in shards.items()}
        pairs = {without_prefix(name): entries.pop(name) for name in shards if is_pair_shard(name)}
        splits = {name: split_of(places[name], name, entry) for name, entry in entries.items()}
        self._look_at_splits(splits, entries, {candidates.name for candidates in changed})
        for candidates in self.candidates:
            name = candidates.name
            if isinstance(candidates, PairCandidates):
                identify(candidates, shards[name], places[name], work, splits or self.known, self.data)
            else:
                self.summary.warnings += _lost_warnings(candidates, splits[name])
        rejected = [line for shard in shards.values() for line in shard.rejected]
        write_bytes(work / QUARANTINE, "".join(json.dumps(line) + "\n" for line in rejected).encode())
        return manifest.build(entries, pairs, self._provenance(alignment), beton.file_digest(work / QUARANTINE))

    def _shards(self, work: Path, previous: PreviousPack) -> dict[str, FinishedShard]:
        """Every shard by name, packed now or kept as it is."""
        shards = {}
        with progress_bar(self.show_progress) as progress:
            for candidates in self.candidates:
                name = candidates.name
                if name not in previous.stale:
                    shards[name] = FinishedShard(dict(previous.entries()[name]), previous.rejected(name), "unchanged")
                else:
                    task = progress.add_task(name, total=candidates.count, note="")

                    def advance(done: int, task: Any = task) -> None:
                        progress.update(task, completed=done)

                    key = previous.keys[name]
                    pack = pack_parts if "shard_samples" in key else pack_shard
                    shards[name] = pack(candidates, work, key, self.decoders, advance, self.stop)
                self.summary.shards[name] = shard_summary(
                    name, shards[name].entry, shards[name].action, previous.stale.get(name, "")
                )
        return shards

    def _look_at_splits(
        self, splits: Mapping[str, Split], entries: dict[str, dict[str, Any]], changed: set[str]
    ) -> None:
        """Enter what is implausible about the splits into their manifest ``entries``."""
        changed &= splits.keys()
        if not changed:
            return
        with progress_bar(self.show_progress) as progress:
            task = progress.add_task("checks", total=len(changed) + 1, note="")
            for name in sorted(changed):
                entries[name][KEY_OF_FINDINGS] = look_at(splits[name])
                progress.advance(task)
            for name, copies in look_for_copies(splits).items():
                entries[name][KEY_OF_FINDINGS] = entries[name].get(KEY_OF_FINDINGS, {}) | copies
            progress.advance(task)

    def _provenance(self, alignment: dict[str, Any] | None) -> dict[str, Any]:
        """Versions, source and settings, for the manifest."""
        versions = {}
        for name in ("hrfr-fast", *LIBRARIES):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = "not installed as a package"
        return {
            "made_by": "hrfr-fast pack",
            "versions": versions,
            "source": self.data.resolve().name,
            "settings": self.settings.recorded(),
            "encoding": self.summary.encoding,
            **({"format": self.source_format} if self.source_format else {}),
            **({"synthetic": True} if (self.data / MARKER).exists() else {}),
            **({KEY: alignment} if alignment else {}),
        }


def _keep_unfinished(work: Path, previous: PreviousPack) -> None:
    """Delete all unfinished work but that on what this run packs: it could be taken for output of this run."""
    wanted: set[str] = set()
    for name in previous.keys.keys() - previous.current:
        key = previous.keys[name]
        files = -(-key["candidates"] // key["shard_samples"]) if "shard_samples" in key else 0
        wanted |= {name} | {part_shard(name, number) for number in range(files)}
    for path in work.iterdir():
        if path.name.split(".")[0] not in wanted:
            path.unlink()


def _lost_warnings(candidates: Candidates, split: Split) -> list[str]:
    """A warning where identities of ``split`` lost every picture."""
    listed = 0 if candidates.pictures_listed is None else np.count_nonzero(candidates.pictures_listed)
    lost = int(listed) - split.identities
    if lost <= 0:
        return []
    return [f"{split.name}: no label for {counted(lost, 'identity')} of which every picture was rejected"]
