"""SCface: a mugshot of each of 130 people, and surveillance pictures of them by five cameras at three distances.

Grgic, Delac & Grgic, "SCface - surveillance cameras face database", Multimedia Tools and Applications 51(3), 2011.
Distance 1 is the farthest (4.20 m), 3 the nearest (1.00 m). Each distance is a closed-set search in all mugshots.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrfr_fast.evaluation.protocols.form import Identification, PictureFiles, Pictures, TestSet
from hrfr_fast.evaluation.protocols.listed import pictures_in
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line

NAME = "scface"
TITLE = "SCface: closed-set identification of surveillance pictures at three distances among mugshots"
LAYOUT = (
    "mugshot_frontal_cropped_all/ with 001_frontal.JPG ... and surveillance_cameras_distance_{1,2,3}/cam_N/ with"
    " 001_camN_D.jpg ..."
)
MUGSHOTS = "mugshot_frontal_cropped_all"
DISTANCES = {1: "4.20 m", 2: "2.60 m", 3: "1.00 m"}
CAMERAS = (1, 2, 3, 4, 5)
"""The cameras of visible light; 6 and 7 are cameras 1 and 5 at night, in infrared, which is another test."""
RANKS = (1, 5)
_MUGSHOT = re.compile(r"(\d{1,9})_frontal\.[a-z]+", re.IGNORECASE)
_PROBE = re.compile(r"(\d{1,9})_cam(\d)_([123])\.[a-z]+", re.IGNORECASE)


def recognises(place: Path) -> bool:
    """Whether ``place`` has the mugshots and a distance."""
    return (place / MUGSHOTS).is_dir() and any((place / _folder(distance)).is_dir() for distance in DISTANCES)


def _folder(distance: int) -> str:
    return f"surveillance_cameras_distance_{distance}"


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """SCface's test set.

    Args:
        pictures: a folder of the same layout with aligned pictures.

    Raises:
        UsageError: a folder is missing, or a file's name is not the data set's.
    """
    root = pictures or place
    mugshots = _mugshots(root)
    paths, people, distances = [path for path, _ in mugshots], [person for _, person in mugshots], [0] * len(mugshots)
    for distance in DISTANCES:
        for camera in CAMERAS:
            for path, person in _seen(root, distance, camera):
                paths.append(path)
                people.append(person)
                distances.append(distance)
    subjects, distance_of, gallery = np.array(people), np.array(distances), np.arange(len(mugshots))
    searches = []
    for distance, metres in DISTANCES.items():
        probes = np.flatnonzero(distance_of == distance)
        searches.append(
            Identification(
                name=f"distance {distance} ({metres})",
                gallery=gallery,
                gallery_subjects=subjects[gallery],
                probes=probes,
                probe_subjects=subjects[probes],
                ranks=RANKS,
            )  # fmt: skip
        )
    notes = [f"all {len(mugshots)} mugshots are the gallery, cameras 1 to 5 the probes, infrared left out;"
             " papers that fine-tune on 50 of the people report the other 80"]  # fmt: skip
    faces = Pictures(PictureFiles(root, paths), subjects=subjects)
    return [TestSet(NAME, place, faces, identification=tuple(searches), notes=tuple(notes))]


def _mugshots(root: Path) -> list[tuple[str, int]]:
    """Path and person of each mugshot, one a person."""
    found: dict[int, str] = {}
    for name in pictures_in(root / MUGSHOTS):
        match = _MUGSHOT.fullmatch(name)
        if not match:
            raise UsageError(f"{root / MUGSHOTS}: {one_line(name)!r} is no mugshot's name, such as 001_frontal.JPG")
        if int(match[1]) in found:
            raise UsageError(f"{root / MUGSHOTS}: person {match[1]} has two mugshots; one of each is the gallery")
        found[int(match[1])] = f"{MUGSHOTS}/{name}"
    if len(found) < 2:
        raise UsageError(f"{root / MUGSHOTS}: {len(found)} mugshots; identification needs two people at least")
    return [(path, person) for person, path in found.items()]


def _seen(root: Path, distance: int, camera: int) -> list[tuple[str, int]]:
    """Path and person of each picture by ``camera`` at ``distance``."""
    folder = f"{_folder(distance)}/cam_{camera}"
    names = pictures_in(root / folder)
    matches = [_PROBE.fullmatch(name) for name in names]
    odd = [
        one_line(name)
        for name, match in zip(names, matches, strict=True)
        if not match or (int(match[2]), int(match[3])) != (camera, distance)
    ]
    if odd:
        raise UsageError(f"{root / folder}: {few(odd)}: not the names that belong here, 001_cam{camera}_{distance}.jpg")
    if not names:
        raise UsageError(f"{root / folder}: holds no pictures; distance {distance} would be another test without them")
    return [(f"{folder}/{name}", int(match[1])) for name, match in zip(names, matches, strict=True) if match]
