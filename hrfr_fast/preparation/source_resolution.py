"""Whether the pictures of a source have the pixels that the splits of a derived tree ask for, seen in a sample."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hrfr_fast.face_templates import FaceTemplate
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.sources.identity_source import IdentitySource
from hrfr_fast.preparation.derive_settings import DeriveSettings
from hrfr_fast.preparation.face_crop import ROUNDING, Crop, read_pixels
from hrfr_fast.preparation.people import Part
from hrfr_fast.runtime.errors import UsageError

LOOKED_AT = 24  # pictures of each split


def check_resolution(
    people: IdentitySource, parts: Mapping[str, Part], settings: DeriveSettings, template: FaceTemplate, source: Path
) -> None:
    """Raise UsageError where most pictures of a sample have another shape than the template's, or too few pixels."""
    small: dict[str, float] = {}
    seen = ""
    for split, part in parts.items():
        crop = Crop(settings.size_of(split), template, settings.inter_eye)
        chosen = np.unique(np.linspace(0, len(part.pictures) - 1, min(LOOKED_AT, len(part.pictures))).astype(np.int64))
        sides, wrong = list[float](), list[UsageError]()
        for read in people.readers(part.pictures[chosen].tolist()):
            try:
                image = read_pixels(read)
                sides.append(crop.side(image))
                seen = f"{image.shape[1]}x{image.shape[0]}"
            except Rejected:
                continue  # It is rejected again, and counted, when the split is written.
            except UsageError as error:
                wrong.append(error)
        if len(wrong) > len(sides):
            raise UsageError(f"{source}: {wrong[0]}")
        if sides and float(np.median(sides)) < crop.size - ROUNDING:
            small[split] = float(np.median(sides))
    if small and not settings.allow_upsampling:
        raise UsageError(_too_few_pixels(small, settings, template, source, seen))


def _too_few_pixels(
    small: Mapping[str, float], settings: DeriveSettings, template: FaceTemplate, source: Path, seen: str
) -> str:
    """The message for pictures of which true faces of the wanted size cannot be made, with what is possible."""
    sizes = " and ".join(f"{settings.size_of(split)}-px faces of {split}" for split in small)
    without = " ".join(f"--{split.replace('_', '-')} 0" for split in small)
    smaller = " (or --eval-size 36 for highres_eval)" if "highres_eval" in small else ""
    return (
        f"{source}: its pictures are {seen} px, of which the crop for the template {template.name} is"
        f" {max(small.values()):.1f} px: the {sizes} would be enlarged, with no more detail than the source has. Leave"
        f" the splits out with {without}{smaller}; or take enlarged faces with --allow-upsampling, which alignment.json"
        " records and every evaluation repeats. As one ordinary set the faces are packed as they are with `hrfr-fast"
        " pack`"
    )
