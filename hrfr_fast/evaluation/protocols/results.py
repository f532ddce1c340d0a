"""What a protocol reports: measures with their intervals, by part of a test set, and the caveats beside them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["identity", "pair"]


@dataclass(frozen=True)
class Measure:
    """One number of a protocol.

    Attributes:
        name: as the literature calls it: "accuracy", "TAR@FAR 1e-3", "rank-1", "TPIR@FPIR 0.1", "mAP".
        value: a share in [0, 1].
        interval: 95 %, by resampling identities (or what ``PartResult.interval_level`` says); None: not resampled.
        deviation: standard deviation over folds, where the protocol reports it.
        method: how it was computed, where there is more than one way; "" otherwise.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    deviation: float | None = None
    method: str = ""


@dataclass(frozen=True)
class Decisions:
    """N right or wrong decisions of one model, for the paired comparison with another on the same test.

    Attributes:
        correct: bool [N]: a pair decided rightly by the threshold of other folds, a probe identified at rank 1.
        same: bool [N]: genuine pairs; all True for probes.
        identities: int32 [2N], the people of each pair, or of each probe twice; None where they are unknown.
        measure: what the share of right decisions is: "accuracy", "rank-1".
    """

    correct: NDArray[np.bool_]
    same: NDArray[np.bool_]
    identities: NDArray[np.int32] | None
    measure: str


@dataclass(frozen=True)
class PartResult:
    """The measures of one part of a test set: all of it, a group of people, a search in a gallery.

    Attributes:
        part: its name; "" where it is all of the set.
        counts: what it holds ("pairs": 6000, or "gallery" and "probes").
        interval_level: what was resampled: "identity", or "pair" where no identities are known.
        warnings: caveats of these measures.
        decisions: None for a part that only sums up others.
    """

    part: str
    kind: Literal["verification", "identification"]
    counts: dict[str, int]
    measures: tuple[Measure, ...]
    interval_level: Level
    warnings: tuple[str, ...] = ()
    decisions: Decisions | None = field(default=None, repr=False)

    def measure(self, name: str) -> Measure:
        """The first measure called ``name``. Raises KeyError."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the decisions."""
        facts = {"part": self.part, "kind": self.kind, "counts": self.counts, "interval_level": self.interval_level}
        return facts | {"measures": [asdict(one) for one in self.measures], "warnings": list(self.warnings)}


@dataclass(frozen=True)
class SetResult:
    """The results on one test set.

    Attributes:
        pictures: how many pictures of each size were embedded, "112x112" -> 12000.
        notes: caveats of the whole set: overlap with training, pictures that were not cropped.
    """

    name: str
    place: Path
    parts: tuple[PartResult, ...]
    pictures: dict[str, int]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        parts = [part.to_json() for part in self.parts]
        return {"place": str(self.place), "pictures": self.pictures, "notes": list(self.notes), "parts": parts}


@dataclass(frozen=True)
class ProtocolResult:
    """The results of one model on the test sets of one protocol.

    Attributes:
        model: its name.
        embedder: the facts of ``Embedder.describe``.
        crop: what was cropped, and why.
        sets: by name.
    """

    model: str
    protocol: str
    title: str
    embedder: dict[str, Any]
    crop: str
    sets: dict[str, SetResult]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as in ``evaluate --protocol --json``."""
        facts = {
            "protocol": self.protocol,
            "title": self.title,
            "model": {"name": self.model} | self.embedder,
            "crop": self.crop,
        }
        return facts | {"sets": {name: one.to_json() for name, one in self.sets.items()}}
