"""What decides the study's tree that is derived from a set of known people."""

from typing import Annotated

from pydantic import AfterValidator, Field

from hrfr_fast.runtime.validation import Checked

SIZES = {"lowres": 36, "highres": 144, "highres_eval": 144}
"""Width of the pictures of each split in px."""
STUDY = {"lowres": 50_000, "highres": 2_500, "highres_eval": 2_000}
"""Identities of each split in the study: the default where a source has enough."""
STUDY_PAIRS = 6_000
SHARE = 5
"""Of a smaller source at most one identity in so many goes to highres, and as many to highres_eval."""


def _either_size(value: int) -> int:
    if value not in (36, 144):
        raise ValueError("it must be 36 or 144")
    return value


class DeriveSettings(Checked):
    """Counts, seed and crop. Raises UsageError for values out of range.

    A number of identities that is None follows from the source: that of the study, or a fifth of the identities with
    enough pictures where that is less, and what is left for lowres. With 0 the split is left out.
    """

    seed: int = Field(default=0, ge=0, lt=2**64)
    lowres: int | None = Field(default=None, ge=0)
    highres: int | None = Field(default=None, ge=0)
    highres_eval: int | None = Field(default=None, ge=0)
    lowres_pictures: int = Field(default=20, ge=1)
    """Most pictures of an identity; those with more lose some, by the seed."""
    highres_pictures: int = Field(default=4, ge=1)
    """Pictures of an identity; those with fewer are not taken."""
    eval_pictures: int = Field(default=3, ge=2)
    """As ``highres_pictures``; two at least, of which genuine pairs are made."""
    fewest: int = Field(default=2, ge=1)
    """Identities with fewer pictures are not taken into lowres."""
    pairs: int | None = Field(default=None, ge=0)
    """Half of them genuine; None: 6,000, or as many as can be made; 0: none."""
    eval_size: Annotated[int, AfterValidator(_either_size)] = 144
    """Width of the pictures of highres_eval and of the pairs in px."""
    template: str = ""
    """How the source was aligned; "": as its alignment.json says, else arcface."""
    inter_eye: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Distance between the eyes in px of the source, where it is not the template's."""
    allow_upsampling: bool = False

    def size_of(self, split: str) -> int:
        """Width of the pictures of ``split`` in px."""
        return self.eval_size if split == "highres_eval" else SIZES[split]

    def pictures_of(self, split: str) -> tuple[int, int]:
        """Fewest and most pictures of an identity of ``split``."""
        if split == "lowres":
            return self.fewest, max(self.fewest, self.lowres_pictures)
        exact = self.highres_pictures if split == "highres" else self.eval_pictures
        return exact, exact
