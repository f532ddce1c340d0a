"""The entries of a manifest as types: what a reader relies on, checked before anything is opened."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.validation import Checked, PathText


class Counted(Checked):
    """What every entry holds; other keys, of later versions too, are left alone."""

    model_config = ConfigDict(extra="ignore")

    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    digest: str
    encoding: str


class FileEntry(Counted):
    """One file of a shard."""

    file: PathText
    checksums_digest: str
    tables_digest: str = ""
    """Of the tables, "" where an earlier version packed the file."""


class SplitEntry(FileEntry):
    """The entry of a split in one file."""

    size: int = Field(ge=1)
    identities: int = Field(ge=1)
    identity_names: list[PathText]


class DividedSplitEntry(Counted):
    """The entry of a split in several files."""

    files: list[dict[str, Any]] = Field(min_length=1)
    size: int = Field(ge=1)
    identities: int = Field(ge=1)
    identity_names: list[PathText]

    def check_files(self) -> None:
        """Raise UsageError where a file's entry is wrong or their samples do not add up."""
        found = sum(FileEntry(**file).samples for file in self.files)
        if found != self.samples:
            raise UsageError(f"its files hold {found} samples, not {self.samples}")


class PairEntry(FileEntry):
    """The entry of a pair set."""

    size: int = Field(ge=1)
    pairs: int = Field(ge=1)
    kind: str
    identities_file: PathText | None
    identities_digest: str | None
    identity_coverage: float = Field(ge=0, le=1)
    overlap: dict[str, Any]


def check_entries(content: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first entry of the manifest ``content`` that is not what it should be, and why."""
    for group, kind in (("splits", SplitEntry), ("pairs", PairEntry)):
        for name, entry in content[group].items():
            try:
                if group == "splits" and "files" in entry:
                    DividedSplitEntry(**entry).check_files()
                else:
                    kind(**entry)
            except (UsageError, TypeError) as error:
                raise ValueError(f"{group}.{name}: {error}") from None
