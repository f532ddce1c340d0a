"""The entries of a manifest as types: what a reader relies on, checked before anything is opened."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.validation import Checked, PathText


def _counts(source: dict[str, Any]) -> dict[str, Any]:
    for name in ("quarantined", "unreadable"):
        if not _is_count(source.get(name, 0)):
            raise ValueError(f"{name} is {source[name]!r}; it must be a number of pictures")
    return source


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _defects(known: dict[str, Any]) -> dict[str, Any]:
    """Counts, and counts by training split."""
    for name, value in known.items():
        values = value.values() if isinstance(value, dict) else [value]
        if not all(map(_is_count, values)):
            raise ValueError(f"{name} is {value!r}; it must be a number")
    return known


def _findings(known: dict[str, Any]) -> dict[str, Any]:
    """Whole numbers, lists of them, and either by the name of a split."""
    for name, value in known.items():
        values = list(value.values()) if isinstance(value, dict) else [value]
        values = [one for some in values for one in (some if isinstance(some, list) else [some])]
        if not all(type(one) is int for one in values):
            raise ValueError(f"{name} is {value!r}; it must be numbers")
    return known


LARGEST_SIZE = 4096
"""Width and height of a picture in px, as ``pack`` allows it: a few bytes of JPEG claim 65,535, which takes 12 GB."""
Source = Annotated[dict[str, Any], AfterValidator(_counts)]
Findings = Annotated[dict[str, Any], AfterValidator(_findings)]


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

    size: int = Field(ge=1, le=LARGEST_SIZE)
    identities: int = Field(ge=1)
    identity_names: list[PathText]
    source: Source
    findings: Findings = {}


class DividedSplitEntry(Counted):
    """The entry of a split in several files."""

    files: list[dict[str, Any]] = Field(min_length=1)
    size: int = Field(ge=1, le=LARGEST_SIZE)
    identities: int = Field(ge=1)
    identity_names: list[PathText]
    source: Source
    findings: Findings = {}

    def check_files(self) -> None:
        """Raise UsageError where a file's entry is wrong or their samples do not add up."""
        found = sum(FileEntry(**file).samples for file in self.files)
        if found != self.samples:
            raise UsageError(f"its files hold {found} samples, not {self.samples}")


class PairEntry(FileEntry):
    """The entry of a pair set."""

    size: int = Field(ge=1, le=LARGEST_SIZE)
    pairs: int = Field(ge=1)
    source: Source
    kind: str
    identities_file: PathText | None
    identities_digest: str | None
    identity_coverage: float = Field(ge=0, le=1)
    overlap: Annotated[dict[str, Any], AfterValidator(_defects)]
    defects: Annotated[dict[str, Any], AfterValidator(_defects)] = {}
    contradictions: int = Field(default=0, ge=0)


class Provenance(Checked):
    """What advice on how to pack again is made of."""

    model_config = ConfigDict(extra="ignore")

    made_by: str = ""
    format: str = ""
    settings: dict[str, Any] = {}
    synthetic: bool | dict[str, Any] = False


def _check_provenance(found: Mapping[str, Any]) -> None:
    known = Provenance(**found)
    for name in ("sizes", "carray_channels"):
        if not isinstance(known.settings.get(name, {}), Mapping):
            raise UsageError(f"settings.{name} is no table")
    if isinstance(known.synthetic, Mapping) and not {"scale", "seed"} <= known.synthetic.keys():
        raise UsageError("synthetic has no scale or no seed")


def check_entries(content: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first entry of the manifest ``content`` that is not what it should be, and why."""
    try:
        _check_provenance(content["provenance"])
    except (UsageError, TypeError) as error:
        raise ValueError(f"provenance: {error}") from None
    for group, kind in (("splits", SplitEntry), ("pairs", PairEntry)):
        for name, entry in content[group].items():
            try:
                if group == "splits" and "files" in entry:
                    DividedSplitEntry(**entry).check_files()
                else:
                    kind(**entry)
            except (UsageError, TypeError) as error:
                raise ValueError(f"{group}.{name}: {error}") from None
