"""Scales of synthetic data: numbers of people and pictures in each split, and names of identities."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from hrfr_fast.runtime.errors import UsageError

LOW, HIGH = 36, 144  # resolutions in pixels


class SplitSpec(NamedTuple):
    """Contents of one split: its number, how many people, pictures of each, and resolution in pixels."""

    number: int
    identities: int
    pictures: int
    size: int


@dataclass(frozen=True)
class Scale:
    """(identities, pictures of each) of the splits of one tree, and its pairs: an even number, half of them genuine."""

    lowres: tuple[int, int]
    highres: tuple[int, int]
    highres_eval: tuple[int, int]
    pairs: int

    def splits(self) -> dict[str, SplitSpec]:
        """The splits by name."""
        return {
            "lowres": SplitSpec(0, *self.lowres, LOW),
            "highres": SplitSpec(1, *self.highres, HIGH),
            "highres_eval": SplitSpec(2, *self.highres_eval, HIGH),
        }


SCALES = {
    "tiny": Scale((24, 6), (12, 4), (12, 3), 40),
    "small": Scale((300, 12), (75, 4), (150, 3), 600),
    "bench": Scale((500, 20), (125, 4), (10, 3), 20),
    "paper": Scale((50_000, 20), (2_500, 4), (2_000, 3), 6_000),
}


def find_scale(name: str) -> Scale:
    """The scale called ``name``. Raises UsageError where there is none."""
    if name not in SCALES:
        raise UsageError(f"scale is {name!r}; it must be one of {', '.join(SCALES)}")
    return SCALES[name]


def identity_name(split: str, identity: int) -> str:
    """``l00012``, ``h00012`` or ``e00012``: no two splits share a name."""
    return f"{split[0] if split != 'highres_eval' else 'e'}{identity:05d}"


def summary(scale: Scale, name: str, seed: int) -> dict[str, Any]:
    """Contents of a finished tree, as JSON-ready values."""
    splits = {
        split: {"identities": spec.identities, "pictures": spec.identities * spec.pictures, "size": spec.size}
        for split, spec in scale.splits().items()
    }
    return {"scale": name, "seed": seed, "splits": splits, "pairs": scale.pairs}
