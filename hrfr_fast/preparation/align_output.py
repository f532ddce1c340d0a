"""The folder of aligned faces: claimed for one set of settings, filled picture by picture, finished with its record."""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrfr_fast.face_templates import UNKNOWN, FaceTemplate
from hrfr_fast.format.alignment_record import (
    REJECTED,
    UNFINISHED,
    AlignmentRecord,
    read_record,
    versions,
    write_record,
)  # fmt: skip
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.preparation.align_face import Aligned, Aligner
from hrfr_fast.preparation.align_log import AlignLog
from hrfr_fast.preparation.landmarks import Landmarks
from hrfr_fast.resampling.similarity import similarity_transform
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_bytes, write_json
from hrfr_fast.runtime.lock import NAME as LOCK
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.words import counted

LAYOUT, MARKER = 1, "settings.json"
NO_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.EEXIST, errno.ENOTDIR)
"""Errors of a name that is too long, or that another photograph's face or folder has already."""


@dataclass
class AlignedFolder:
    """What was aligned."""

    path: Path
    aligned: int = 0
    kept: int = 0
    """Of ``aligned``, those of an earlier run."""
    several: int = 0
    """Photographs with more than one face."""
    rejected: int = 0
    unreadable: int = 0
    record: AlignmentRecord | None = None
    choice: str = "largest"
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account that the command prints."""
        earlier = f" ({self.kept:,} of them in an earlier run)" if self.kept else ""
        lines = [f"{counted(self.aligned, 'face')} aligned{earlier}: {self.path}"]
        if self.several:
            photographs = counted(self.several, "photograph")
            lines.append(f"{photographs} with several faces: the {self.choice} was taken (see landmarks.csv)")
        if self.rejected:
            photographs = counted(self.rejected, "photograph")
            lines.append(f"{photographs} without an aligned face; files and reasons: {self.path / REJECTED}")
        lines += [f"note: {note}" for note in self.record.notes()] if self.record else []
        return lines + [f"warning: {warning}" for warning in self.warnings]


def record_of_run(
    photographs: Path, template: FaceTemplate, aligner: Aligner, smallest_face: int | None, keep_names: bool,
    landmarks: str | Path | None,
) -> AlignmentRecord:  # fmt: skip
    """The record of a run with these arguments of ``align``."""
    settings: dict[str, Any] = {"layout": LAYOUT, "template": template.name, "size": template.width}
    settings |= {"face": aligner.choice, "keep_names": keep_names}
    if aligner.detector is not None:
        name = aligner.detector.name
        settings |= {"detector": name, "smallest_face": smallest_face}
    else:
        assert landmarks is not None
        name = f"landmarks of {Path(landmarks).name}"
        settings["landmarks"] = hashlib.sha256(Path(landmarks).read_bytes()).hexdigest()
    return AlignmentRecord(
        made_by="hrfr-fast align", source=photographs.resolve().name, aligner=name, source_template=UNKNOWN.name,
        template=template.name, sizes={"faces": template.width}, settings=settings, versions=versions(),
    )  # fmt: skip


def claim(out: Path, record: AlignmentRecord) -> None:
    """Mark ``out`` as unfinished. Raises UsageError where it holds anything else than faces of the same settings."""
    work, finished = out / UNFINISHED, read_record(out)
    settings: Any = finished.settings if finished else None
    if settings is None and (work / MARKER).exists():
        try:
            settings = parsed_json((work / MARKER).read_bytes())
        except ValueError:
            settings = {}
    if settings is None and any(path.name not in (LOCK, UNFINISHED) for path in out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no aligned faces; choose an empty directory")
    if settings is not None and settings != record.settings:
        raise UsageError(
            f"{out} holds faces of other settings, another detector or other landmarks; choose an empty directory"
        )
    work.mkdir(exist_ok=True)
    write_json(work / MARKER, record.settings)


def write_face(path: Path, content: bytes) -> None:
    """Write a picture so that it appears whole; not synced, as ``pack`` rejects what a power cut may have left.

    Raises Rejected where no file can be called so: the name is too long, or a folder has it.
    """
    temporary = path.with_name(".face.tmp")  # short: the face's own name may be as long as names can be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        if error.errno not in NO_NAME:
            raise
        raise Rejected(f"its face cannot be called {one_line(path.name)}: {error.strerror}") from error


def finish(
    result: AlignedFolder, log: AlignLog, rejected: Sequence[Aligned], record: AlignmentRecord, template: FaceTemplate
) -> None:
    """Write the lists and the record, and mark the folder as whole."""
    lines = [
        json.dumps({"file": one.path, "reason": one.reason, **({"retry": True} if one.unreadable else {})}) + "\n"
        for one in rejected
    ]
    log.finish()
    write_bytes(result.path / REJECTED, "".join(lines).encode())
    result.aligned, result.rejected = len(log.done), len(rejected)
    result.several = sum(faces > 1 for _, faces in log.done.values())
    result.unreadable = sum(one.unreadable for one in rejected)
    enlarged = sum(_scale(landmarks, template) > 1 for landmarks, _ in log.done.values())
    result.record = record.replaced(enlarged={"faces": enlarged} if enlarged else {})
    write_record(result.path, result.record)
    shutil.rmtree(result.path / UNFINISHED)


def _scale(landmarks: Landmarks, template: FaceTemplate) -> float:
    matrix = similarity_transform(landmarks, template.landmarks)
    return math.hypot(matrix[0, 0], matrix[1, 0])
