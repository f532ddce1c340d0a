"""``hrfr-fast derive``: the study's data tree from any aligned set of known people."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.face_templates import TEMPLATES, FaceTemplate, template_named
from hrfr_fast.format.alignment_record import (
    NAME,
    REJECTED,
    UNFINISHED,
    UNKNOWN_ALIGNER,
    AlignmentRecord,
    read_record,
    refuse_unfinished,
    versions,
    write_record,
)  # fmt: skip
from hrfr_fast.format.names import PAIR_FOLDER, SPLITS
from hrfr_fast.packing.sources.formats import open_source
from hrfr_fast.packing.sources.identity_source import NO_OPTIONS, IdentitySource, SourceOptions
from hrfr_fast.preparation.derive_settings import DeriveSettings
from hrfr_fast.preparation.derived_pairs import check_pairs, write_pairs
from hrfr_fast.preparation.derived_splits import PARTIAL, FolderLog, write_splits
from hrfr_fast.preparation.people import Part, divide
from hrfr_fast.preparation.source_resolution import check_resolution
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_bytes, write_json
from hrfr_fast.runtime.lock import NAME as LOCK
from hrfr_fast.runtime.output_directory import raise_if_stopped, writing_in
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import cores
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.words import counted

LAYOUT = 1  # of the marker: a change of the tree must not continue an older one
MARKER, COMPLETE = "settings.json", "complete"  # in UNFINISHED
ADVICE = "what is finished is kept, and the same `hrfr-fast derive` continues it"


@dataclass
class DerivedTree:
    """What was derived."""

    path: Path
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Identities and pictures by split."""
    pairs: int = 0
    rejected: int = 0
    nothing_to_do: bool = False
    record: AlignmentRecord | None = None
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account that the command prints."""
        lines = ["nothing to do: this tree was derived before, with the same settings"] if self.nothing_to_do else []
        sizes = self.record.sizes if self.record else {}
        for split, (identities, pictures) in self.counts.items():
            lines.append(f"{split}: {counted(identities, 'identity')}, {counted(pictures, 'face')}, {sizes[split]} px")
        if self.pairs:
            lines.append(f"{PAIR_FOLDER}: {counted(self.pairs, 'pair')}, half of them genuine")
        if self.rejected:
            lines.append(f"{counted(self.rejected, 'picture')} not used; files and reasons: {self.path / REJECTED}")
        lines += [f"note: {note}" for note in self.record.notes()] if self.record else []
        return lines + [f"warning: {warning}" for warning in self.warnings]


def derive(
    source: str | Path,
    data: str | Path,
    *,
    settings: DeriveSettings | None = None,
    format: str = "",
    options: SourceOptions = NO_OPTIONS,
    workers: int = 0,
    show_progress: bool = True,
    stop: StopFlag | None = None,
) -> DerivedTree:
    """Make the study's data tree ``data`` from the aligned faces in ``source``, or complete one that was interrupted.

    Every file is a function of the source and the settings, whatever ``workers`` is. The tree appears in its place when
    it is whole; until then it lies in ``data/.unfinished``.

    Args:
        source: what ``pack`` reads: an identity folder, or another format of known people.
        data: gets ``lowres``, ``highres``, ``highres_eval``, ``hres_eval_pairs/hres.csv`` and ``alignment.json``.
        format, options: as in ``packing.sources.formats.open_source``.
        workers: processes; 0 for one a core.
        stop: checked between chunks of work; by default SIGINT and SIGTERM set one.

    Raises:
        UsageError: a source that is too small, or whose pictures are; ``data`` holds something else.
        CannotWrite, HrfrError: a full disk, a file that cannot be read; what is finished is kept.
        Interrupted: stopped; calling again continues.
    """
    source, data, settings = Path(source), Path(data), settings or DeriveSettings()
    if workers < 0:
        raise UsageError(f"workers is {workers}; it must be at least 0 (0: as many as there are cores)")
    if source.is_dir() and data.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{data} lies in the source {source}; choose a directory of its own")
    if source.is_dir():
        refuse_unfinished(source)
    people = open_source(source, format, options)
    before = read_record(people.root)
    template = _template(settings, before)
    parts = divide(people.labels, len(people.identities), settings, source)
    # What can be refused is refused before anything is written, so that the next try finds an empty directory.
    check_resolution(people, parts, settings, template, source)
    if "highres_eval" in parts:
        check_pairs(np.diff(parts["highres_eval"].starts), settings.pairs)
    made = DerivedTree(data, warnings=list(people.warnings))
    with (
        writing_in(data, ADVICE),
        StopFlag() if stop is None else nullcontext(stop) as flag,
        progress_bar(show_progress) as bars,
    ):
        if _claim(data, _marker(settings, template, people)):
            made.nothing_to_do = True
        else:
            work = data / UNFINISHED
            if not (work / COMPLETE).exists():
                log = write_splits(people, parts, settings, template, work, workers or cores(), flag, bars)
                raise_if_stopped(flag, f"{data} is incomplete; {ADVICE}")
                _complete(work, log, parts, settings, _record(settings, template, people, source, before, log))
            _move_into_place(data)
    return _described(made)


def _template(settings: DeriveSettings, before: AlignmentRecord | None) -> FaceTemplate:
    name = settings.template or (before.template if before and before.template in TEMPLATES else "arcface")
    return template_named(name)


def _marker(settings: DeriveSettings, template: FaceTemplate, people: IdentitySource) -> dict[str, Any]:
    chosen = settings.model_dump() | {"template": template.name}
    return {"layout": LAYOUT, "settings": chosen, "source": people.content}


def _claim(data: Path, marker: dict[str, Any]) -> bool:
    """Whether ``data`` is finished with these settings; else it is marked with them.

    Raises UsageError where it holds anything else than an unfinished tree of the same settings.
    """
    work, finished = data / UNFINISHED, read_record(data)
    other = f"{data} holds a tree derived from another source or with other settings; choose an empty directory"
    if finished is not None:
        if {key: finished.settings.get(key) for key in marker} != marker:
            raise UsageError(other)
        # The record is moved last of all: whatever a kill left of the unfinished work is not needed.
        shutil.rmtree(work, ignore_errors=True)
        return True
    if (work / MARKER).exists():
        try:
            found = parsed_json((work / MARKER).read_bytes())
        except ValueError:
            found = None
        if found != marker:
            raise UsageError(f"{other}, or remove {work} to begin anew")
    elif any(path.name not in (LOCK, UNFINISHED) for path in data.iterdir()):
        raise UsageError(f"{data} is not empty; choose an empty directory")
    (work / PARTIAL).mkdir(parents=True, exist_ok=True)
    write_json(work / MARKER, marker)
    return False


def _record(
    settings: DeriveSettings, template: FaceTemplate, people: IdentitySource, source: Path,
    before: AlignmentRecord | None, log: FolderLog,
) -> AlignmentRecord:  # fmt: skip
    sizes = {split: settings.size_of(split) for split in SPLITS if split in log.splits()}
    return AlignmentRecord(
        made_by="hrfr-fast derive",
        source=source.resolve().name,
        aligner=before.aligner if before else UNKNOWN_ALIGNER,
        source_template=template.name,
        template="hrfr" if template.landmarks or settings.inter_eye else template.name,
        sizes=sizes,
        enlarged={split: log.enlarged(split) for split in sizes if log.enlarged(split)},
        settings=_marker(settings, template, people) | {"format": people.format},
        versions=versions(),
    )


def _complete(
    work: Path, log: FolderLog, parts: dict[str, Part], settings: DeriveSettings, record: AlignmentRecord
) -> None:
    """Write what belongs beside the splits, and mark the tree as whole."""
    if "highres_eval" in parts and settings.pairs != 0:
        write_pairs(work, settings.pairs, settings.seed)
    write_bytes(work / REJECTED, log.rejected_lines().encode())
    write_record(work, record)
    write_json(work / COMPLETE, True)


def _move_into_place(data: Path) -> None:
    """Move the whole tree out of the folder of unfinished work; a kill in between is mended by calling this again."""
    work = data / UNFINISHED
    for name in (*SPLITS, PAIR_FOLDER, REJECTED, NAME):
        if (work / name).exists():
            os.replace(work / name, data / name)
    shutil.rmtree(work)


def _described(made: DerivedTree) -> DerivedTree:
    """``made`` with the counts of what lies in its folder."""
    data = made.path
    made.record = read_record(data)
    for split in SPLITS:
        if (data / split).is_dir():
            folders = [path for path in (data / split).iterdir() if path.is_dir()]
            made.counts[split] = len(folders), sum(len(os.listdir(folder)) for folder in folders)
    lists = list((data / PAIR_FOLDER).glob("*.csv"))
    made.pairs = sum(path.read_bytes().count(b"\n") for path in lists)
    rejected = data / REJECTED
    made.rejected = rejected.read_bytes().count(b"\n") if rejected.exists() else 0  # removed since, perhaps
    return made
