"""IJB-B: 12,115 templates of 1,845 people, 8,010,270 pairs of them, two galleries. See ``ijb.py``."""

from collections.abc import Sequence
from pathlib import Path

from hrfr_fast.evaluation.protocols import ijb
from hrfr_fast.evaluation.protocols.form import TestSet

NAME = "ijbb"
TITLE = "IJB-B: verification of template pairs (TAR at FAR 1e-1 to 1e-6) and search in two galleries"
LAYOUT = ijb.layout(NAME)


def recognises(place: Path) -> bool:
    """Whether IJB-B's lists are there."""
    return ijb.recognises(place, NAME)


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """IJB-B's test set, see ``ijb.read``."""
    return ijb.read(place, pictures, NAME, ("S1", "S2"))
