"""The eye-distance rule: which part of a published 112-px face a model should see.

In the study's pictures the eyes lie a third of the side apart; on the usual 112-px template they lie 35.2 px apart, so
the same face is a little smaller. A model sees faces as it was trained on them: one trained on the study's pictures
gets the published ones cropped to the study's scale, one trained on pictures of the usual template gets them whole.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hrfr_fast.evaluation.evaluate import training_data
from hrfr_fast.evaluation.protocols.embedding import Crop
from hrfr_fast.face_templates import ARCFACE, HRFR, TEMPLATES, UNKNOWN, crop_box
from hrfr_fast.format.alignment_record import KEY, record_of
from hrfr_fast.runtime.errors import UsageError

CHOICES = ("auto", "template", "none")
STUDY_SPLITS = ("lowres", "highres")
PUBLISHED_SPLIT = "faces"
"""Training splits with the study's eye distance, and the one whose pictures are as they were published."""


def training_template(metadata: Mapping[str, Any], weights: Path) -> str:
    """Name of the template of a checkpoint's training pictures; "" where nothing is known.

    Their pack records it, or for a public checkpoint its layout tells it.
    """
    if "adopted" in metadata:
        return str(metadata["adopted"].get("template", ""))
    trained = training_data(metadata, weights)
    record = None if trained is None else trained.manifest["provenance"].get(KEY)
    try:
        template = "" if record is None else record_of(record).template
    except (ValueError, UsageError):
        return ""
    return "" if template == UNKNOWN.name else template


def described_template(model: Mapping[str, Any]) -> str:
    """The same for an exported model, from the facts of ``Embedder.describe``: its file repeats what its run knew."""
    name = str(model.get("alignment", "")).partition(",")[0]  # whoever aligned the pictures follows
    return name if name in TEMPLATES and name != UNKNOWN.name else ""


def choose_crop(choice: str, model: Mapping[str, Any], template: str = "", shown: str = "") -> tuple[Crop | None, str]:
    """The crop of 112-px pictures, None for none, and the sentence that says what is done and why.

    Args:
        choice: "auto", "template" (crop) or "none".
        model: the facts of ``Embedder.describe``; its ``trained_on`` decides where no template is known.
        template: of the model's training pictures, which decides where the choice is left to us; "" where unknown.
        shown: template of the test pictures, "" for the published one.

    Raises:
        UsageError: another choice.
    """
    if choice not in CHOICES:
        raise UsageError(f"--crop is {choice!r}; it must be one of {', '.join(CHOICES)}")
    if choice != "auto":
        crops, why = choice == "template", f"as --crop {choice} says"
    elif shown == HRFR.name:
        crops, why = False, "since their own eyes are a third of the side apart"
    elif template:
        crops, why = template == HRFR.name, f"since the model's training pictures have the template {template}"
    else:
        crops, why = _by_splits(model.get("trained_on") or ())
    if not crops:
        return None, f"pictures are not cropped, {why}"
    box = crop_box(ARCFACE.width, ARCFACE.height, ARCFACE)
    text = f"{ARCFACE.width}-px pictures are cropped to {box.side:.1f} px ({box.x0:.1f}, {box.y0:.1f} is the corner)"
    return Crop(ARCFACE.width, box), f"{text}, {why}"


def _by_splits(trained_on: Iterable[str]) -> tuple[bool, str]:
    """Whether to crop for a model trained on these splits, and why."""
    splits = [name for name in trained_on if name in (*STUDY_SPLITS, PUBLISHED_SPLIT)]
    if not splits:
        return False, "since nothing is known of the pictures that the model was trained on"
    names = " and ".join(splits)
    if PUBLISHED_SPLIT in splits:
        return False, f"since the model was trained on {names}, pictures as they are published"
    return True, f"since the model was trained on {names}, whose eyes are a third of the side apart"


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
