"""The eye-distance rule: which part of a published 112-px face a model should see.

In the study's pictures the eyes lie a third of the side apart; on the usual 112-px template they lie 35.2 px apart, so
the same face is a little smaller. A model sees faces as it was trained on them: one trained on the study's pictures
gets the published ones cropped to the study's scale, one trained on pictures of the usual template gets them whole.
"""

from collections.abc import Mapping
from typing import Any

from hrfr_fast.evaluation.protocols.embedding import Crop
from hrfr_fast.face_templates import ARCFACE, crop_box
from hrfr_fast.runtime.errors import UsageError

CHOICES = ("auto", "template", "none")
STUDY_SPLITS = ("lowres", "highres")
PUBLISHED_SPLIT = "faces"
"""Training splits with the study's eye distance, and the one whose pictures are as they were published."""


def choose_crop(choice: str, model: Mapping[str, Any]) -> tuple[Crop | None, str]:
    """The crop of 112-px pictures, None for none, and the sentence that says what is done and why.

    Args:
        choice: "auto", "template" (crop) or "none".
        model: the facts of ``Embedder.describe``; ``trained_on`` decides where the choice is left to us.

    Raises:
        UsageError: another choice.
    """
    if choice not in CHOICES:
        raise UsageError(f"--crop is {choice!r}; it must be one of {', '.join(CHOICES)}")
    splits = [name for name in model.get("trained_on") or () if name in (*STUDY_SPLITS, PUBLISHED_SPLIT)]
    of_the_study = bool(splits) and set(splits) <= set(STUDY_SPLITS)
    if choice == "auto":
        if of_the_study:
            why = f"since the model was trained on {' and '.join(splits)}, whose eyes are a third of the side apart"
        elif splits:
            why = f"since the model was trained on {' and '.join(splits)}, pictures as they are published"
        else:
            why = "since nothing is known of the pictures that the model was trained on"
    else:
        why = f"as --crop {choice} says"
    if not (of_the_study if choice == "auto" else choice == "template"):
        return None, f"pictures are not cropped, {why}"
    box = crop_box(ARCFACE.width, ARCFACE.height, ARCFACE)
    text = f"{ARCFACE.width}-px pictures are cropped to {box.side:.1f} px ({box.x0:.1f}, {box.y0:.1f} is the corner)"
    return Crop(ARCFACE.width, box), f"{text}, {why}"


def crop_note(crop: Crop | None, sizes: Mapping[str, int]) -> str:
    """A caveat where ``crop`` applied to some of the pictures of these sizes ("112x112") only, or to none; else ""."""
    if crop is None:
        return ""
    others = sum(count for size, count in sizes.items() if size != f"{crop.side}x{crop.side}")
    if not others:
        return ""
    return (
        f"{others:,} of {sum(sizes.values()):,} pictures are not {crop.side}x{crop.side} px and were not cropped:"
        " whether their faces have the scale that the model knows is unknown"
    )
