"""IJB-C: 23,124 templates of 3,531 people, 15,658,489 pairs of them, two galleries. See ``ijb.py``."""

from collections.abc import Sequence
from pathlib import Path

from hrfr_fast.evaluation.protocols import ijb
from hrfr_fast.evaluation.protocols.form import TestSet

NAME = "ijbc"
TITLE = "IJB-C: verification of template pairs (TAR at FAR 1e-1 to 1e-6) and search in two galleries"
LAYOUT = ijb.layout(NAME)


def recognises(place: Path) -> bool:
    """Whether IJB-C's lists are there."""
    return ijb.recognises(place, NAME)


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """IJB-C's test set, see ``ijb.read``."""
    return ijb.read(place, pictures, NAME, ("G1", "G2"))
