"""The entries of a manifest as types: what a reader relies on, checked before anything is opened."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.validation import Checked, PathText


class ShardEntry(Checked):
    """What every shard's entry holds; other keys, of later versions too, are left alone."""

    model_config = ConfigDict(extra="ignore")

    file: PathText
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    digest: str
    checksums_digest: str
    encoding: str
    size: int = Field(ge=1)


class SplitEntry(ShardEntry):
    """The entry of a split."""

    identities: int = Field(ge=1)
    identity_names: list[PathText]


class PairEntry(ShardEntry):
    """The entry of a pair set."""

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
                kind(**entry)
            except (UsageError, TypeError) as error:
                raise ValueError(f"{group}.{name}: {error}") from None
