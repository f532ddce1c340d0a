"""``alignment.json``: how the faces beside it were aligned, cropped and brought to their size.

``align`` and ``derive`` write it, ``pack`` copies it into the manifest, and every evaluation repeats it beside its
numbers: published numbers on the same pictures differ by many points for the alignment alone.
"""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.validation import Checked, PathText

NAME = "alignment.json"
REJECTED = "rejected.jsonl"
"""One line a picture that could not be used: file, reason."""
LANDMARKS = "landmarks.csv"
"""The five landmarks of every face that was aligned, in px of its photograph."""
UNFINISHED = ".unfinished"
"""Folder in a directory that ``align`` or ``derive`` has not finished; ``pack`` refuses such a directory."""
KEY = "alignment"
"""Of the record in a manifest's provenance."""
MOST_BYTES = 1 << 20
UNKNOWN_ALIGNER = "unknown"
_LIBRARIES = ("numpy", "opencv-python", "simplejpeg")


class AlignmentRecord(Checked):
    """What was done to the faces in a directory. Keys of later versions are left alone."""

    model_config = ConfigDict(extra="ignore")

    made_by: PathText
    """The command: "hrfr-fast align" or "hrfr-fast derive"."""
    source: PathText
    """Name of the directory or file that the pictures were taken from."""
    aligner: PathText = UNKNOWN_ALIGNER
    """Whoever found the landmarks, with its version."""
    source_template: PathText
    """The template that the pictures came in (derive), "unknown" for photographs."""
    template: PathText
    """The template that the pictures here have."""
    sizes: dict[str, int]
    """Width in px by split; of a folder of aligned faces under "faces"."""
    enlarged: dict[str, int] = Field(default_factory=dict)
    """Pictures by split whose crop had fewer pixels than they have."""
    settings: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)

    def notes(self) -> list[str]:
        """Sentences that belong beside every number on these faces."""
        who = f"aligned by {self.aligner}" if self.aligner != UNKNOWN_ALIGNER else "aligned by an unrecorded aligner"
        came = self.template if self.source_template == "unknown" else self.source_template
        cropped = f" and cropped to {self.template}" if came != self.template else ""
        notes = [f"faces {who} to the template {came}{cropped}; numbers on other alignments are not comparable"]
        if any(self.enlarged.values()):
            shown = ", ".join(f"{count:,} of {split}" for split, count in self.enlarged.items() if count)
            notes.append(f"enlarged from smaller crops, so without true high resolution: {shown}")
        return notes


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that decide the pixels."""
    found = {}
    for name in ("hrfr-fast", *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def write_record(directory: Path, record: AlignmentRecord) -> None:
    """Write ``record`` into ``directory`` atomically."""
    write_json(directory / NAME, record.model_dump())


def read_record(directory: Path) -> AlignmentRecord | None:
    """The record in ``directory``, None where there is none. Raises UsageError for one that cannot be understood."""
    path = directory / NAME
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        return record_of(parsed_json(content))
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(
            f"{path}: not a record of an alignment ({error}); mend it, or remove it where nothing is known"
        ) from error


def record_of(content: Any) -> AlignmentRecord:
    """The record of JSON values. Raises ValueError or UsageError."""
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return AlignmentRecord(**{str(key): value for key, value in content.items()})


def notes_of(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """The sentences of the record in a manifest's provenance, if there is one that this version understands."""
    if KEY not in provenance:
        return ()
    try:
        return tuple(record_of(provenance[KEY]).notes())
    except (ValueError, UsageError):
        return ("how its faces were aligned is recorded in a way that this version of hrfr-fast does not understand",)


def refuse_unfinished(directory: Path) -> None:
    """Raise UsageError where ``align`` or ``derive`` has not finished ``directory``."""
    if (directory / UNFINISHED).exists():
        raise UsageError(
            f"{directory} is incomplete: `hrfr-fast align` or `hrfr-fast derive` was interrupted there. Run the same"
            f" command again to complete it"
        )
