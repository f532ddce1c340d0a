"""Defects of verification pairs: wrong labels, pictures paired with themselves, overlap with training.

They are counted once, when pictures are matched (``packing/identity_linking.py``), and kept in the manifest. ``pack``
prints them as warnings, every evaluation beside the accuracy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from hrfr_fast.format.reader import PairSet


@dataclass(frozen=True)
class PairDefects:
    """Counts of pairs (of pictures where it says so) for which the accuracy does not mean what it seems to."""

    same_known_different: int = 0
    """Labelled same; their pictures are known to show two identities. Known identities win."""
    different_known_same: int = 0
    """Labelled different; their pictures are known to show one identity."""
    labels_disagree: int = 0
    """Labelled different; other pairs, labelled same, link their pictures."""
    identical_genuine: int = 0
    """Labelled same; both pictures are one, or its mirror image."""
    identical_impostor: int = 0
    """Labelled different; both pictures are one, or its mirror image."""
    repeated: int = 0
    """The same two pictures as an earlier pair, in either order."""
    left_out: int = 0
    """Listed pairs that were not packed: a picture or the line of the list was rejected."""
    swapped_channels: int = 0
    """Pictures that are found among the splits only with red and blue exchanged."""
    identity_overlap: Mapping[str, int] = field(default_factory=dict)
    """Training split -> how many pictures show one of its identities, as far as is known."""
    name_overlap: Mapping[str, int] = field(default_factory=dict)
    """Training split -> how many other pictures lie in a folder named like one of its identities."""

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> Self:
        """The defects in a pair set's manifest entry.

        Packs of earlier versions counted contradictory impostor pairs only.
        """
        known = entry.get("defects", {"different_known_same": entry.get("contradictions", 0)})
        return cls(**{count.name: known[count.name] for count in fields(cls) if count.name in known})


def pair_warnings(pairs: "PairSet") -> list[str]:
    """The overlap and defects of ``pairs`` as sentences with their counts; none where all is well."""
    found = pairs.defects
    return [
        *_overlap(pairs),
        *_labels(found),
        *_repetitions(found, int(pairs.same.sum())),
        *_counted(
            found.left_out,
            f"listed pairs are left out, a picture or the line was rejected (it has {len(pairs):,} others)",
        ),
        *_counted(
            found.swapped_channels,
            "of its pictures match known pictures only with red and blue exchanged: the order of its channels is wrong,"
            " and so is the accuracy",
        ),
    ]


def _overlap(pairs: "PairSet") -> list[str]:
    lines = []
    for split, count in pairs.overlap.items():
        people = pairs.defects.identity_overlap.get(split, 0)
        if count:
            shown = f", {people:,} show its identities" if people > count else ""
            lines.append(
                f"{count:,} of its {pairs.split.samples:,} pictures are also in the training split {split}{shown}:"
                " accuracies on it are too optimistic"
            )
        lines += _counted(
            pairs.defects.name_overlap.get(split, 0),
            f"of its pictures lie in folders named like identities of the training split {split}: if they are the same"
            " people, accuracies on it are too optimistic",
        )
    return lines


def _labels(found: PairDefects) -> list[str]:
    return [
        *_counted(
            found.same_known_different,
            "of its pairs are labelled same and known to show two identities: labels or folders are wrong (the interval"
            " follows the known identities, the accuracy the labels)",
        ),
        *_counted(
            found.different_known_same,
            "of its pairs are labelled different and known to show one identity: labels or folders are wrong (the"
            " accuracy follows the labels)",
        ),
        *_counted(
            found.labels_disagree,
            "of its pairs are labelled different while other pairs, labelled same, make their pictures one person: the"
            " labels contradict each other",
        ),
    ]


def _repetitions(found: PairDefects, genuine: int) -> list[str]:
    return [
        *_counted(
            found.identical_genuine,
            f"of its {genuine:,} pairs labelled same show one picture twice (or its mirror image): every model decides"
            " them rightly, accuracies on it are too optimistic",
        ),
        *_counted(
            found.identical_impostor,
            "of its pairs are labelled different and show one picture twice (or its mirror image): no model can decide"
            " them rightly",
        ),
        *_counted(found.repeated, "of its pairs repeat an earlier pair (in either order): they count more than once"),
    ]


def _counted(count: int, text: str) -> list[str]:
    return [f"{count:,} {text}"] if count else []
