"""The splits of a derived tree: each identity's folder appears whole, and a log knows what is finished.

A folder is written aside, logged, and renamed; a folder that was logged and not renamed is made again, and its later
line counts.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from hrfr_fast.face_templates import FaceTemplate
from hrfr_fast.format.names import SPLITS
from hrfr_fast.packing.sources.identity_source import IdentitySource
from hrfr_fast.preparation.derive_settings import DeriveSettings
from hrfr_fast.preparation.derived_folders import Folder, folder_names, jobs_of, written
from hrfr_fast.preparation.face_crop import Crop
from hrfr_fast.preparation.people import Part
from hrfr_fast.runtime.signals import StopFlag

PARTIAL, LOG = "partial", "folders.jsonl"


class LogLine(TypedDict):
    """What became of the pictures of one identity."""

    split: str
    folder: str
    kept: int
    enlarged: int
    rejected: list[tuple[str, str]]


class FolderLog:
    """The folders that are finished, in a file of ``work``."""

    def __init__(self, work: Path) -> None:
        self.path = work / LOG
        self._lines: dict[tuple[str, str], LogLine] = {}
        if self.path.exists():
            for text in self.path.read_bytes().splitlines():
                try:
                    line: LogLine = json.loads(text)
                except ValueError:  # the last line of a killed run
                    continue
                self._lines[line["split"], line["folder"]] = line

    def add(self, split: str, folder: Folder) -> None:
        """Append one folder to the file."""
        line: LogLine = {
            "split": split, "folder": folder.name, "kept": folder.kept, "enlarged": folder.enlarged,
            "rejected": folder.rejected,
        }  # fmt: skip
        with open(self.path, "ab") as file:
            file.write(b"\n" + json.dumps(line).encode())  # begins a new line even after half of one
        self._lines[split, folder.name] = line

    def finished(self, split: str, present: set[str]) -> set[str]:
        """Names of the folders of ``split`` that need not be made: those ``present``, and those without a picture."""
        mine = {name: line for (of, name), line in self._lines.items() if of == split}
        return {name for name, line in mine.items() if not line["kept"] or name in present}

    def splits(self) -> set[str]:
        """The splits with a picture."""
        return {split for (split, _), line in self._lines.items() if line["kept"]}

    def enlarged(self, split: str) -> int:
        """How many faces of ``split`` have more pixels than their crop had."""
        return sum(line["enlarged"] for (of, _), line in self._lines.items() if of == split)

    def rejected_lines(self) -> str:
        """JSON lines about the pictures that were not used, in the order of splits and folders."""
        return "".join(
            json.dumps({"file": file, "split": split, "reason": reason}) + "\n"
            for split in SPLITS
            for (of, _), line in sorted(self._lines.items())
            if of == split
            for file, reason in line["rejected"]
        )


def write_splits(
    people: IdentitySource, parts: Mapping[str, Part], settings: DeriveSettings, template: FaceTemplate, work: Path,
    workers: int, stop: StopFlag, bars: Any,
) -> FolderLog:  # fmt: skip
    """Write the folders of every split that are not there yet, until ``stop``. Raises HrfrError."""
    log = FolderLog(work)
    everyone = np.concatenate([part.identities for part in parts.values()])
    names = dict(zip(everyone.tolist(), folder_names(people, everyone), strict=True))
    for split, part in parts.items():
        crop = Crop(settings.size_of(split), template, settings.inter_eye, settings.allow_upsampling)
        (work / split).mkdir(exist_ok=True)
        finished = log.finished(split, set(os.listdir(work / split)))
        task = bars.add_task(split, total=len(part.identities), completed=len(finished), note="identities")
        own = [names[identity] for identity in part.identities.tolist()]
        jobs = jobs_of(people, part, own, finished, work / PARTIAL, crop)
        for folder in written(jobs, len(part.pictures), workers, stop):
            log.add(split, folder)
            place = work / PARTIAL / folder.name
            if folder.kept:
                os.replace(place, work / split / folder.name)
            else:
                place.rmdir()
            bars.advance(task)
    return log
