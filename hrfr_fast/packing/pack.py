"""``hrfr-fast pack``: folders of faces -> shards. List, decide what there is to do, decode and write, match, commit."""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.pair_defects import pair_warnings
from hrfr_fast.format.quarantine import QUARANTINE
from hrfr_fast.format.reader import Split, open_packed, split_of
from hrfr_fast.packing import transaction
from hrfr_fast.packing.bcolz_arrays import BcolzPairs
from hrfr_fast.packing.disk import check_space, disk_errors
from hrfr_fast.packing.earlier import Earlier
from hrfr_fast.packing.left_out import PAIR_FOLDER, split_folders
from hrfr_fast.packing.pack_shard import Finished, pack_shard
from hrfr_fast.packing.pair_identities import identify
from hrfr_fast.packing.request import Request, encoding_in_words, pair_candidates, tree_candidates
from hrfr_fast.packing.sources import Candidates
from hrfr_fast.packing.summary import PackSummary, shard_summary
from hrfr_fast.packing.workers import Decoders
from hrfr_fast.runtime.errors import IncompletePack, StrictRefusal, UsageError
from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import cores
from hrfr_fast.synthetic.data_tree import MARKER

LIBRARIES = ("numpy", "simplejpeg", "opencv-python")


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
    carray_channels: str | Mapping[str, str] = "bgr",
) -> PackSummary:
    """Pack the tree ``data`` into the directory ``out``.

    An interrupted pack is continued, unchanged input is left alone, a changed split is packed anew; ``out`` holds the
    old output until the new one is whole. The bytes written depend on the input alone, not on ``workers``. What is
    kept is compared with its digests first, so that packing again repairs whatever was damaged.

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
        carray_channels: order of the channels in bcolz carrays, "bgr" or "rgb": of all, or by pair set name.

    Raises:
        UsageError: a wrong setting, nothing to pack, another layout, an identity in two splits, a broken pair set, a
            carray whose channels are in the other order.
        HrfrError: a folder or many files that cannot be read, full disk, dead worker.
        IncompletePack: after everything else is packed, if a few files could not be read; the next pack tries them.
        StrictRefusal, Interrupted: see above.
    """
    data, out = Path(data), Path(out)
    request = Request(encoding, dev_identities, resize, dict(sizes or {}), page_size, _by_name(carray_channels))
    _validate(data, out, workers)
    with Decoders(workers or cores()) as decoders:
        if not (out / manifest.NAME).exists():
            decoders.start()  # while files are listed; a second run may have nothing to decode
        todo, warnings = tree_candidates(data, out, request)
        summary = PackSummary(out, warnings=warnings, encoding=encoding_in_words(todo, request))
        _Pack(data, out, request, todo, decoders, show_progress, stop, summary).run()
    for name, pairs in open_packed(out).pairs.items():
        summary.warnings += [f"pair set {name}: {line}" for line in pair_warnings(pairs)]
    _raise_if_incomplete(summary, f': it tries what is marked "retry" in {out / QUARANTINE}')
    if strict and summary.quarantined:
        raise StrictRefusal(
            f"{summary.quarantined} inputs were refused (--strict); everything else is packed, files and reasons are in"
            f" {out / QUARANTINE}"
        )
    return summary


def pack_pairs(
    folder: str | Path,
    out: str | Path,
    *,
    known: Mapping[str, Split] | None = None,
    carray_channels: str | Mapping[str, str] = "bgr",
    workers: int = 0,
    show_progress: bool = False,
) -> PackSummary:
    """Pack the pair sets of ``folder`` alone: itself a folder of sets, or a tree with ``hres_eval_pairs`` in it.

    The warnings of its summary are about the folder; what is wrong with a pair set goes with the set.

    Args:
        folder, out, workers, show_progress: as in ``pack``.
        known: packed splits, by name, that tell who is on the pictures and which of them were trained on; without any
            no identities can be recovered.
        carray_channels: as in ``pack``.

    Raises:
        UsageError: there is no pair set, a broken one, or a carray whose channels are in the other order.
        IncompletePack: a few files cannot be read.
    """
    folder, out, request = Path(folder), Path(out), Request(carray_channels=_by_name(carray_channels))
    folder = folder / PAIR_FOLDER if (folder / PAIR_FOLDER).is_dir() else folder
    todo, warnings = pair_candidates(folder, request)
    summary = PackSummary(out, warnings=warnings)
    with Decoders(workers or cores()) as decoders:
        _Pack(folder, out, request, todo, decoders, show_progress, None, summary, dict(known or {})).run()
    _raise_if_incomplete(summary)
    return summary


def _by_name(carray_channels: str | Mapping[str, str]) -> dict[str, str]:
    return {"": carray_channels} if isinstance(carray_channels, str) else {"": "bgr"} | dict(carray_channels)


def _raise_if_incomplete(summary: PackSummary, where: str = "") -> None:
    if summary.unreadable:
        lines = map(json.loads, (summary.out / QUARANTINE).read_bytes().splitlines())
        first = next(line for line in lines if line.get("retry"))
        raise IncompletePack(
            f"{summary.unreadable:,} files could not be read, such as {one_line(first['file'])} ({first['reason']}), so"
            " the pack is incomplete; mend that (rights, links, the disk) or remove them, and run the same command"
            f" again{where}",
            summary,
        )


def _validate(data: Path, out: Path, workers: int) -> None:
    if workers < 0:
        raise UsageError(f"--workers {workers}: it takes 0 or more")
    splits = split_folders(data)
    taken = [data.resolve(), *((data / name).resolve() for name in (*splits, PAIR_FOLDER))]
    if out.resolve() == taken[0] or any(out.resolve().is_relative_to(folder) for folder in taken[1:]):
        raise UsageError(f"--out {out}: it lies among the pictures of {data}; choose a directory of its own")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: not a directory")


@dataclass
class _Pack:
    """One pack: what goes in, what helps with it, and the account of what was done."""

    data: Path
    out: Path
    request: Request
    todo: list[Candidates]
    decoders: Decoders
    show_progress: bool
    stop: StopFlag | None
    summary: PackSummary
    known: Mapping[str, Split] = field(default_factory=dict)
    """Splits packed elsewhere that pairs are looked up in, where this pack has none."""

    def run(self) -> None:
        """Bring the output directory up to date and fill in the summary."""
        summary = self.summary
        with disk_errors(self.out), transaction.locked(self.out) as work:
            transaction.complete(self.out)  # a move into place that a kill interrupted
            earlier = Earlier.look(self.out, self.todo, self.request.page_size, self.show_progress)
            if earlier.manifest is not None and earlier.complete:
                summary.nothing_to_do, content = True, earlier.manifest
                summary.shards = {name: shard_summary(name, e, "unchanged") for name, e in earlier.entries().items()}
            else:
                content = self._pack_into(work, earlier)
                transaction.decide(self.out, content)
            transaction.clear(work)
        summary.digest = content["digest"]

    def _pack_into(self, work: Path, earlier: Earlier) -> dict[str, Any]:
        """Pack what is not current into ``work``, match the pairs, write the quarantine. Returns the manifest."""
        _keep_unfinished(work, earlier)
        for carray in (one for one in self.todo if isinstance(one, BcolzPairs) and one.name not in earlier.current):
            carray.refuse_unknown_values()  # before hours are spent on the splits
        check_space(self.out, work, [one for one in self.todo if one.name not in earlier.current])
        shards = self._shards(work, earlier)
        places = {name: self.out if name in earlier.current else work for name in shards}
        entries = {name: shard.entry for name, shard in shards.items()}
        splits = {name: split_of(places[name], name, entries[name]) for name in entries if name in manifest.SPLITS}
        pairs = {name.removeprefix("pairs-"): entries[name] for name in entries if name not in manifest.SPLITS}
        for candidates in self.todo:
            name = candidates.name
            if name in splits:
                self.summary.warnings += _lost_warnings(candidates, splits[name])
            else:
                known = splits or self.known
                identify(candidates, shards[name], places[name], work, splits=known, data=self.data)
        refusals = [line for shard in shards.values() for line in shard.refusals]
        write_bytes(work / QUARANTINE, "".join(json.dumps(line) + "\n" for line in refusals).encode())
        quarantine_digest = beton.file_digest(work / QUARANTINE)
        return manifest.build({n: entries[n] for n in splits}, pairs, self._provenance(), quarantine_digest)

    def _shards(self, work: Path, earlier: Earlier) -> dict[str, Finished]:
        """Every shard by name, packed now or taken as it is."""
        shards = {}
        with progress_bar(self.show_progress) as progress:
            for candidates in self.todo:
                name = candidates.name
                if name not in earlier.stale:
                    shards[name] = Finished(dict(earlier.entries()[name]), earlier.refusals(name), "unchanged")
                else:
                    task = progress.add_task(name, total=candidates.count, note="")

                    def advance(done: int, task: Any = task) -> None:
                        progress.update(task, completed=done)

                    shards[name] = pack_shard(candidates, work, earlier.keys[name], self.decoders, advance, self.stop)
                self.summary.shards[name] = shard_summary(
                    name, shards[name].entry, shards[name].action, earlier.stale.get(name, "")
                )
        return shards

    def _provenance(self) -> dict[str, Any]:
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
            "settings": asdict(self.request),
            "encoding": self.summary.encoding,
            **({"synthetic": True} if (self.data / MARKER).exists() else {}),
        }


def _keep_unfinished(work: Path, earlier: Earlier) -> None:
    """Only unfinished work on what this run packs may stay: anything else could be taken for this run's output."""
    wanted = earlier.keys.keys() - earlier.current
    for path in work.iterdir():
        if path.name.split(".")[0] not in wanted:
            path.unlink()


def _lost_warnings(candidates: Candidates, split: Split) -> list[str]:
    assert candidates.listing is not None
    lost = sum(n > 0 for n in candidates.listing.counts) - split.identities
    return [f"{split.name}: of {lost} identities every picture was refused; they get no label"] if lost > 0 else []
