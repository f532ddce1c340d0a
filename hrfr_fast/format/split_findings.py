"""What looks wrong in a packed split though every file is whole: colours, contrast, copies with another identity.

Counted once, when a split is packed (``packing/split_checks.py``), and kept in its manifest entry. ``pack`` prints it
as warnings, and so does every training on the split.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

KEY = "findings"
"""Of a split's entry in a manifest; packs of earlier versions have none."""
FEWEST_COLOURED = 20
"""Pictures with colour below which nothing is said about the order of the channels."""
EXCHANGED_SHARE = 0.8
"""Share of pictures bluer than red in their centre from which red and blue count as exchanged.

Of 3,974 real faces 0.0 to 0.5 % were, of 2,750 synthetic ones 0.2 to 0.7 %; with the channels exchanged 99 %."""
FLAT_SHARE = 0.01
"""Share of pictures without contrast from which a split is suspicious."""


@dataclass(frozen=True)
class SplitFindings:
    """Counts, and examples as numbers of records."""

    looked_at: int = 0
    """Pictures whose colours and contrast were measured, evenly spread."""
    flat: int = 0
    """Of those: whose grey values deviate by less than 2 levels, as those of a black picture do."""
    flat_example: int = -1
    coloured: int = 0
    """Of those: whose centre has different means of red and blue."""
    exchanged: int = 0
    """Of the coloured: bluer than red in their centre; skin is redder than blue in any light."""
    other_identity: int = 0
    """Pictures that equal an earlier one of this split, byte for byte, and have another identity."""
    other_identity_example: tuple[int, ...] = ()
    compared: int = 0
    """Pictures that were compared with those of other splits by what they show, evenly spread."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """Other split -> how many pictures show the same there, whatever their size and compression."""
    copy_examples: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Other split -> a record here and its copy there."""

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> Self:
        """The findings in a split's manifest entry."""
        known = entry.get(KEY, {})
        return cls(**{one.name: known[one.name] for one in fields(cls) if one.name in known})

    def warnings(self, split: str) -> list[str]:
        """Sentences with their evidence; none where all is well."""
        lines = []
        if self.coloured >= FEWEST_COLOURED and self.exchanged >= EXCHANGED_SHARE * self.coloured:
            lines.append(
                f"{split}: red and blue seem to be exchanged: of {self.coloured:,} pictures with colour"
                f" {self.exchanged:,} ({self.exchanged / self.coloured:.0%}) are bluer than red in the middle, of faces"
                " hardly 1 % are. Whoever wrote the pictures took BGR for RGB; models trained on them fail on others"
            )
        if self.flat and self.flat >= FLAT_SHARE * self.looked_at:
            lines.append(
                f"{split}: {self.flat:,} of {self.looked_at:,} pictures looked at show nothing (their grey values"
                f" deviate by less than 2 levels, as in a black picture), such as record {self.flat_example}"
            )
        if self.other_identity:
            lines.append(
                f"{split}: {self.other_identity:,} pictures equal another one of a different identity byte for byte,"
                f" such as {_records(self.other_identity_example)}: labels are wrong, perhaps out of step, or pictures"
                " are in two folders"
            )
        for other, count in self.copies.items():
            if count:
                lines.append(
                    f"{split}: {count:,} of {self.compared:,} pictures looked at show the same as a picture of {other},"
                    f" such as {_records(self.copy_examples.get(other, ()), other)}: {_consequence(split, other)}"
                )
        return lines


def split_warnings(content: Mapping[str, Any], splits: "tuple[str, ...] | None" = None) -> list[str]:
    """The warnings about the ``splits`` of the manifest ``content``, None for all."""
    return [
        line
        for name, entry in content["splits"].items()
        if splits is None or name in splits
        for line in SplitFindings.of_entry(entry).warnings(name)
    ]


def _records(example: tuple[int, ...], other: str = "") -> str:
    first, second = (*example, -1, -1)[:2]
    return f"records {first} and {second}" if not other else f"record {first} and record {second} of {other}"


def _consequence(split: str, other: str) -> str:
    if "eval" in split or "eval" in other:
        return "evaluations on it are too optimistic"
    return "one face has two identities"
