"""``hrfr-fast pack``: folders of faces become shards, or a folder of pair sets alone does."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.names import PAIR_FOLDER
from hrfr_fast.format.pair_defects import pair_warnings
from hrfr_fast.format.quarantine import QUARANTINE
from hrfr_fast.format.reader import Split, open_packed
from hrfr_fast.format.split_findings import split_warnings
from hrfr_fast.packing.discovery import encoding_in_words, pair_candidates, source_candidates, tree_candidates
from hrfr_fast.packing.pack_settings import PackSettings
from hrfr_fast.packing.recognition import PAIRS, TREE, PackInput, recognise
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.packing.sources.identity_folders import FolderSource
from hrfr_fast.packing.sources.identity_source import SourceOptions
from hrfr_fast.packing.sources.left_out import split_folders
from hrfr_fast.packing.summary import PackSummary
from hrfr_fast.packing.update import OutputUpdate
from hrfr_fast.packing.workers import Decoders
from hrfr_fast.runtime.cluster import check_on
from hrfr_fast.runtime.errors import IncompletePack, StrictRefusal, UsageError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import cores
from hrfr_fast.runtime.words import counted


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
    format: str = "",
    root: str | Path | None = None,
    shard_samples: int = 0,
    on: str = "",
) -> PackSummary:
    """Pack the tree ``data``, or any set of known people, into the directory ``out``.

    An interrupted pack is continued, what is unchanged is kept (after a comparison with its digests), a changed split
    is packed anew; ``out`` holds the old output until the new one is whole. The bytes depend on the input alone.

    Args:
        data: holds ``lowres``, ``highres``, ``highres_eval`` or ``faces`` (``<identity>/<picture>``) and perhaps
            ``hres_eval_pairs``; or it is a set of any other format (``packing/sources/formats.py``), which becomes
            the split ``faces``; or a folder of pair sets.
        encoding: "raw" pixels, "jpeg" (JPEG files of the right size byte for byte, others encoded) or "auto": raw
            while a split's pixels take at most 8 GB. Pair pictures are never re-encoded.
        workers: decoding processes; 0 for all cores, 1 for none beside this one.
        dev_identities: how many identities to take out of each training split for development pairs.
        strict: raise StrictRefusal, after everything else is packed, if anything was rejected.
        resize: accept pictures of other sizes (centre square, resampled) instead of rejecting them.
        sizes: width and height in pixels by split or pair set name, instead of 36 for lowres, 144 for highres, and
            what most pictures have for the others.
        stop: checked between chunks; set, it ends the work with Interrupted, ready to be continued.
        page_size: bytes of a page of the shards, a power of two.
        carray_channels: order of the channels in bcolz carrays, "bgr" or "rgb": of all, or by pair set name.
        format: what ``data`` is, of ``recognition.TITLES``; "" to recognise it.
        root: folder that the paths of a list file are relative to; None: that of the list.
        shard_samples: most pictures of a split in one file; 0: one file a split. Pair sets stay whole.
        on: a Ray cluster that decodes, see ``cluster.connect``; "" for processes of this machine.

    Raises:
        UsageError: a wrong setting, nothing to pack, another layout, an identity in two splits, a broken pair set, a
            carray whose channels are in the other order.
        HrfrError: a folder or many files that cannot be read, full disk, dead worker.
        IncompletePack: after everything else is packed, if a few files could not be read; the next pack tries them.
        StrictRefusal, Interrupted: see above.
    """
    data, out, channels = Path(data), Path(out), _by_name(carray_channels)
    settings = PackSettings(encoding, dev_identities, resize, dict(sizes or {}), page_size, channels, shard_samples)
    given = recognise(data, format, SourceOptions(None if root is None else Path(root), show_progress))
    _check(given, out, workers, on)
    with _decoders(on, workers) as decoders:
        summary = _pack(given, out, settings, decoders, show_progress, stop)
    _raise_if_not_all(summary, strict)
    return summary


@contextmanager
def _decoders(on: str, workers: int) -> Iterator[Decoders]:
    """What decodes: ``workers`` processes (0: one a core), or the cluster ``on``."""
    if not on:
        with Decoders(workers or cores()) as decoders:
            yield decoders
        return
    from hrfr_fast.packing.cluster_decoders import ClusterDecoders

    with ClusterDecoders(on, workers) as decoders:
        yield decoders


def _pack(
    given: PackInput, out: Path, settings: PackSettings, decoders: Decoders, show_progress: bool, stop: StopFlag | None
) -> PackSummary:
    """Bring ``out`` up to date; the summary says what was done."""
    if show_progress:
        console.print(str(given), markup=False, highlight=False)
    if not (out / manifest.NAME).exists():
        decoders.start()  # while files are listed; a second run may have nothing to decode
    candidates, warnings = _candidates(given, out, settings)
    summary = PackSummary(out, warnings=warnings, encoding=encoding_in_words(candidates, settings))
    OutputUpdate(
        given.path, out, settings, candidates, decoders, show_progress, stop, summary,
        source_format="" if given.format == TREE else given.format,
    ).run()  # fmt: skip
    packed = open_packed(out)
    summary.warnings += split_warnings(packed.manifest)
    for name, pairs in packed.pairs.items():
        summary.warnings += [f"pair set {name}: {line}" for line in pair_warnings(pairs)]
    return summary


def _candidates(given: PackInput, out: Path, settings: PackSettings) -> tuple[list[Candidates], list[str]]:
    """What is to be packed of ``given``, and warnings about it."""
    if given.format == TREE:
        return tree_candidates(given.path, out, settings)
    if given.format == PAIRS:
        return pair_candidates(_pair_folder(given.path), settings)
    return source_candidates(given.open(), settings)


def _pair_folder(folder: Path) -> Path:
    """The folder of the pair sets: ``folder`` itself, or that in a tree."""
    return folder / PAIR_FOLDER if (folder / PAIR_FOLDER).is_dir() else folder


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

    The warnings of the summary are about the folder; defects of a pair set are in its manifest entry.

    Args:
        folder, out, workers, show_progress: as in ``pack``.
        known: packed splits, by name, among which the pictures are looked up to find identities and overlap with
            training; without any, no identities can be recovered.
        carray_channels: as in ``pack``.

    Raises:
        UsageError: there is no pair set, a broken one, or a carray whose channels are in the other order.
        IncompletePack: a few files cannot be read.
    """
    folder, out, settings = Path(folder), Path(out), PackSettings(carray_channels=_by_name(carray_channels))
    folder = _pair_folder(folder)
    candidates, warnings = pair_candidates(folder, settings)
    summary = PackSummary(out, warnings=warnings)
    with Decoders(workers or cores()) as decoders:
        OutputUpdate(folder, out, settings, candidates, decoders, show_progress, None, summary, dict(known or {})).run()
    _raise_if_incomplete(summary)
    return summary


def _by_name(carray_channels: str | Mapping[str, str]) -> dict[str, str]:
    return {"": carray_channels} if isinstance(carray_channels, str) else {"": "bgr"} | dict(carray_channels)


def _raise_if_not_all(summary: PackSummary, strict: bool) -> None:
    """Raise IncompletePack where files could not be read, StrictRefusal where any were rejected and ``strict`` is."""
    _raise_if_incomplete(summary, f': it tries what is marked "retry" in {summary.out / QUARANTINE}')
    if strict and summary.rejected:
        raise StrictRefusal(
            f"{counted(summary.rejected, 'input')} rejected (--strict); everything else is packed, files and reasons"
            f" are in {summary.out / QUARANTINE}"
        )


def _raise_if_incomplete(summary: PackSummary, retries: str = "") -> None:
    if summary.unreadable:
        lines = map(json.loads, (summary.out / QUARANTINE).read_bytes().splitlines())
        first = next(line for line in lines if line.get("retry"))
        raise IncompletePack(
            f"{counted(summary.unreadable, 'file')} could not be read, such as {one_line(first['file'])}"
            f" ({first['reason']}), so the pack is incomplete; mend that (rights, links, the disk) or remove them, and"
            f" run the same command again{retries}",
            summary,
        )


def _check(given: PackInput, out: Path, workers: int, on: str) -> None:
    data = given.path
    if workers < 0:
        raise UsageError(f"--workers {workers}: it takes 0 or more")
    if on:
        check_on(on)
    folders = [data.resolve()] if given.format == FolderSource.format else []
    if given.format == TREE:
        folders = [(data / name).resolve() for name in (*split_folders(data), PAIR_FOLDER)]
    if out.resolve() == data.resolve() or any(out.resolve().is_relative_to(folder) for folder in folders):
        raise UsageError(f"--out {out}: it lies among the pictures of {data}; choose a directory of its own")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: not a directory")
