"""What a checkpoint says of itself, checked before anything relies on it: files come from anybody.

Only what other code reads without asking is checked here; other keys, of later versions too, are left alone.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.validation import Checked, PathText

MOST_BYTES = 1 << 24  # of the text; ours are a few thousand


class _Lenient(Checked):
    model_config = ConfigDict(extra="ignore")


class _Data(_Lenient):
    path: PathText
    digest: str
    from_run: PathText = ""
    splits: dict[str, str] = {}
    pairs: dict[str, str] = {}


class _Parent(_Lenient):
    trained_on: dict[str, list[str]] = {}
    data_digest: str = ""

    @model_validator(mode="after")
    def _data_are_known(self) -> Self:
        if not self.model_fields_set & {"trained_on", "data_digest"}:
            raise ValueError("a parent does not say what it was trained on")
        return self


class _Network(_Lenient):
    """The numbers of ``BackboneSettings``, whose own rules are looked at when the network is made."""

    input_size: int = Field(ge=1, le=4096)
    embedding_size: int = Field(ge=1, le=1 << 16)
    width: int = Field(default=64, ge=1, le=1 << 13)
    name: str = "irse18"
    variant: str = ""
    normalisation: str = "half"
    dropout: float = 0.0
    drop_path: float = 0.0


class _Metadata(_Lenient):
    data: _Data
    parents: list[_Parent] = []


def metadata_of(text: str) -> dict[str, Any]:
    """The metadata in the JSON ``text``. Raises ValueError or UsageError, both without the file's name."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    values = parsed_json(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    _Metadata(**{name: values[name] for name in ("data", "parents") if name in values})
    network = values.get("backbone", {"input_size": 1, "embedding_size": 1})  # see checkpoint.require_network
    if not isinstance(network, Mapping):
        raise UsageError("backbone is no description of a network")
    branches = network.get("branches", [])
    if not isinstance(branches, list) or not all(isinstance(one, Mapping) for one in branches):
        raise UsageError("backbone.branches is no list of networks")
    for one in (network, *branches):
        _Network(**one)
    return values
