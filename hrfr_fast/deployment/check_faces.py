"""Faces that an exported file is checked on, and faces that an int8 file is calibrated with."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.deployment.pictures import PictureFiles, framed_batch
from hrfr_fast.deployment.records import record_pixels
from hrfr_fast.format.reader import Packed, Split
from hrfr_fast.regimes import SPLITS
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.system import threads_per_rank

COUNT = 64
CALIBRATION = 512
SYNTHETIC_PEOPLE, SYNTHETIC_SPLIT = 16, 3


@dataclass(frozen=True)
class CheckFaces:
    """``pixels``: uint8 [n, S, S, 3] RGB; ``origin``: where they come from, in words."""

    pixels: NDArray[np.uint8]
    origin: str


def faces_to_check(size: int, given: Sequence[Path], packed: Packed | None) -> CheckFaces:
    """Up to COUNT faces of ``size`` px: of the pictures ``given``, else of the run's data, else synthetic ones."""
    if given:
        return _of_pictures(size, given, COUNT)
    if packed:
        split = _evaluation_split(packed)
        return CheckFaces(_spread(split, size, COUNT), f"{split.name} of {packed.path}")
    return CheckFaces(_synthetic(size), "synthetic faces, since the run's data are not here and no --check is given")


def faces_to_calibrate(size: int, given: Sequence[Path], packed: Packed | None, limits: range) -> CheckFaces:
    """Up to CALIBRATION training faces of the sizes in ``limits``. Raises UsageError where there are no real faces."""
    splits = [packed.splits[name] for name in SPLITS if packed and name in packed.splits] if packed else []
    splits = [split for split in splits if split.size in limits]
    if splits:
        share = CALIBRATION // len(splits)
        pixels = np.concatenate([_spread(split, size, share) for split in splits])
        return CheckFaces(pixels, f"{' and '.join(split.name for split in splits)} of {packed.path if packed else ''}")
    if not given:
        raise UsageError("int8 is calibrated with real faces: say where the run's data are (--data), or give --check")
    return _of_pictures(size, given, CALIBRATION)


def _of_pictures(size: int, given: Sequence[Path], count: int) -> CheckFaces:
    if packed := [str(path) for path in given if (path / "manifest.json").exists()]:
        raise UsageError(f"--check {packed[0]}: it takes pictures; give a packed directory as --data")
    files = PictureFiles(given)
    chosen = np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).astype(np.int64))
    with ThreadPoolExecutor(threads_per_rank()) as threads:
        decoded = [files.decoded(range(number, number + 1), threads)[0] for number in chosen.tolist()]
    images = [image for image in decoded if isinstance(image, np.ndarray)]
    if not images:
        raise UsageError(f"none of the pictures given with --check can be decoded: {files.name(int(chosen[0]))} ...")
    return CheckFaces(framed_batch(images, size), " ".join(map(str, given)))


def _evaluation_split(packed: Packed) -> Split:
    """Faces of people that training has not seen where there are some."""
    if "highres_eval" in packed.splits:
        return packed.splits["highres_eval"]
    held_out = [pairs.split for pairs in packed.pairs.values()]
    return [*held_out, *packed.splits.values()][0]


def _spread(split: Split, size: int, count: int) -> NDArray[np.uint8]:
    records = np.unique(np.linspace(0, split.samples - 1, min(count, split.samples)).astype(np.int64))
    return record_pixels(split, records, size)


def _synthetic(size: int) -> NDArray[np.uint8]:
    from hrfr_fast.synthetic.faces import render

    pictures = np.arange(COUNT // SYNTHETIC_PEOPLE)
    people = range(SYNTHETIC_PEOPLE)
    images = [image for person in people for image in render(0, SYNTHETIC_SPLIT, person, pictures, min(size, 256))[0]]
    return framed_batch(images, size)
