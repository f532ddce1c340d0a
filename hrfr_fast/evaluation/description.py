"""Description of an exported embedder, kept as text in the metadata of its file: what it takes and what it returns.

Everything here is read from files that anybody may have written, so values are checked before they are used.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from hrfr_fast.evaluation.thresholds import Threshold, threshold_from_json
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.runtime.validation import Checked

FORMAT = "hrfr-fast embedder 1"
EMBEDDING_RULE = "normalise(f(x) + f(flip x)), the summands not normalised; similarity is the cosine"
MOST_METADATA = 1 << 20  # bytes; ours are a few thousand

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALISATIONS = {
    "0.5": HALF,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""Name -> (mean, std) of RGB values in [0, 1]; "none" leaves pixel values from 0 to 255 as they are."""


def _numbers(value: Any) -> Any:
    """The numbers of a text with spaces or commas between; anything else as it is."""
    if isinstance(value, str):
        return tuple(float(part) for part in value.replace(",", " ").split())
    return value


_Number = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Triple = Annotated[
    tuple[_Number, _Number, _Number],
    BeforeValidator(_numbers),
    Field(description="of the red, green and blue values in [0, 1]"),
]
PositiveTriple = Annotated[
    tuple[_Positive, _Positive, _Positive],
    BeforeValidator(_numbers),
    Field(description="of the red, green and blue values in [0, 1], above 0"),
]


class EmbedderDescription(Checked):
    """What a model file takes and returns. Raises UsageError for values out of range.

    ``layout`` NHWC with ``dtype`` uint8 means pixel values, which the graph itself normalises; otherwise the caller
    gives (value / 255 - mean) / std. ``flip_sum``: the graph returns f(x) + f(flip x) and not f(x). Outputs are not
    normalised.
    """

    input_size: int = Field(ge=8, le=4096)
    layout: Literal["NHWC", "NCHW"] = "NCHW"
    dtype: Literal["uint8", "float32", "float16"] = "float32"
    colour_order: Literal["rgb", "bgr"] = "rgb"
    mean: Triple = HALF[0]
    std: PositiveTriple = HALF[1]
    flip_sum: bool = False
    embedding_size: int = Field(ge=2, le=1 << 16)
    precision: str = "fp32"
    run: str = ""
    regime: str = ""
    weights_sha256: str = ""
    trained_on: str = ""
    """Splits that it was trained on, with spaces between."""
    hrfr_fast: str = ""
    domain: Literal["", "low", "high"] = ""
    """Which pictures it is for, of a network with BatchNorm by resolution; empty: all."""
    domain_limit: int = Field(default=0, ge=0, le=4096)
    """Largest side in pixels of a picture of low resolution, where ``domain`` is given."""
    alignment: str = ""
    threshold_pairs: str = ""
    """Which pairs ``thresholds`` come from, in words; empty where there are none."""
    thresholds: tuple[Threshold, ...] = ()

    def to_text(self) -> dict[str, str]:
        """Name -> text, for metadata that hold text alone; ``from_text`` is the inverse."""
        values = {
            name: _text(value)
            for name, value in dict(self).items()
            if value not in ("", ()) and (name, value) != ("domain_limit", 0)
        }
        thresholds = json.dumps([threshold.to_json() for threshold in self.thresholds])
        return {"format": FORMAT, **values, "thresholds": thresholds, "embedding": EMBEDDING_RULE}

    @classmethod
    def from_text(cls, metadata: Mapping[str, str]) -> Self | None:
        """The description in a file's metadata; None where hrfr-fast has not written them.

        Raises:
            UsageError: a value that is missing, damaged or out of range.
        """
        if metadata.get("format") != FORMAT:
            return None
        if sum(map(len, metadata.values())) > MOST_METADATA:
            raise UsageError(f"its metadata have more than {MOST_METADATA:,} bytes")
        values: dict[str, Any] = {name: metadata[name] for name in cls.model_fields if name in metadata}
        for name in ("input_size", "embedding_size", "domain_limit"):
            if name in values:
                values[name] = _whole(name, values[name])
        values["flip_sum"] = metadata.get("flip_sum") == "true"
        values["thresholds"] = _thresholds(metadata.get("thresholds", "[]"))
        try:
            return cls(**values)
        except ValueError as error:  # of numbers that are none
            raise UsageError(f"its metadata are damaged: {error}") from None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"its metadata are damaged: {name} is {text[:40]!r}")
    return int(text)


def _thresholds(text: str) -> tuple[Threshold, ...]:
    try:
        values = parsed_json(text)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ValueError("no list of thresholds")
    except ValueError as error:
        raise UsageError(f"its metadata are damaged: thresholds: {error}") from None
    return tuple(threshold_from_json(value) for value in values)
