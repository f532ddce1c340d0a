"""Pictures of a test set that the model was trained on, by looking them up in the training data.

Equal pictures are found whatever their names (``packing.picture_matching``), where they have one size. That reads all
of the training data, so larger ones are searched on request only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.evaluate import training_data
from hrfr_fast.evaluation.protocols.embedding import face_picture
from hrfr_fast.evaluation.protocols.form import Pictures
from hrfr_fast.format.names import TRAINING
from hrfr_fast.format.reader import Packed, Split
from hrfr_fast.model.lineage import ADOPTED, PUBLIC_NOTE, trained_on
from hrfr_fast.packing.picture_matching import distinct, match
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.words import counted

MOST_PICTURES = 200_000
"""Training pictures that are searched without being asked to: some 20 s on two cores."""


@dataclass(frozen=True)
class _DecodedPictures:
    """The pictures of a test set, all of one size, as ``picture_matching`` reads them."""

    pictures: Pictures
    size: int

    @property
    def samples(self) -> int:
        return len(self.pictures)

    def read(self, records: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([face_picture(self.pictures, number) for number in records.tolist()])

    def free_pages(self) -> None:
        """Nothing is mapped."""


def overlap_notes(
    pictures: Pictures, sizes: dict[str, int], metadata: dict[str, Any], weights: Path, *, whatever_it_takes: bool
) -> list[str]:
    """Caveats on test pictures that are among the training data of a checkpoint.

    Args:
        sizes: of the pictures, "112x112" -> how many.
        metadata, weights: of the checkpoint, which say where its training data are.
        whatever_it_takes: search training data of any size.
    """
    notes = [PUBLIC_NOTE] if ADOPTED in trained_on(metadata) else []
    trained = training_data(metadata, weights)
    if trained is None:
        gone = "its training data are no longer there: whether it was trained on some of these pictures is unknown"
        return notes or [gone]
    splits = _training_splits(metadata, trained)
    comparable = [split for split in splits if sizes == {f"{split.size}x{split.size}": len(pictures)}]
    if not comparable:
        trained_sizes = ", ".join(sorted({f"{split.size} px" for split in splits}))
        return [
            *notes,
            f"its training pictures have another size ({trained_sizes}): whether it was trained on some of these people"
            " is unknown",
        ]
    for split in comparable:
        if split.samples > MOST_PICTURES and not whatever_it_takes:
            notes.append(
                f"not looked up among the {split.samples:,} training pictures (--overlap does): whether it was trained"
                " on some of these is unknown"
            )
        elif (known := _known(split, pictures)).any():
            people = ""
            if pictures.subjects is not None:
                subjects = np.unique(pictures.subjects[known])
                named = int((subjects >= 0).sum())  # distractors have -1 and are nobody known
                people = f", of {counted(named, 'person')}," if named == len(subjects) else ""
            notes.append(
                f"{counted(int(known.sum()), 'picture')} of {len(pictures):,}{people} are among those it was trained on"
                f" ({split.name}): the numbers flatter the model"
            )
    return notes


def _training_splits(metadata: dict[str, Any], trained: Packed) -> list[Split]:
    names = metadata["data"].get("splits", dict.fromkeys(TRAINING))
    return [split for name, split in trained.splits.items() if name in names]


def _known(split: Split, pictures: Pictures) -> NDArray[np.bool_]:
    """bool [N]: which of the pictures are equal to one in ``split``."""
    console.print(f"looking {len(pictures):,} test pictures up among {split.samples:,} of {split.name}")
    table = _DecodedPictures(pictures, split.size)
    numbers, records = distinct(table)
    equal, _ = match(table, records, split)
    return np.asarray((equal >= 0)[numbers])
