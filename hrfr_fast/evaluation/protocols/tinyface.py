"""TinyFace: closed-set identification of 3,728 faces of about 20 x 16 px among 4,443 gallery faces and 153,428 others.

Cheng, Zhu & Gong, "Low-Resolution Face Recognition", ACCV 2018. The gallery is searched picture by picture; a probe is
found at rank K where any of the first K pictures shows its person.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrfr_fast.evaluation.protocols.form import Identification, PictureFiles, Pictures, TestSet
from hrfr_fast.evaluation.protocols.listed import (
    names_and_identities,
    pictures_in,
    require_pictures,
    unlisted_note,
)

NAME = "tinyface"
TITLE = "TinyFace: closed-set identification of low-resolution faces among 153,428 distractors"
LAYOUT = (
    "Testing_Set/ with Gallery_Match/, Probe/, Gallery_Distractor/, gallery_match_img_ID_pairs.mat and"
    " probe_img_ID_pairs.mat"
)
GALLERY, PROBE, DISTRACTOR = "Gallery_Match", "Probe", "Gallery_Distractor"
GALLERY_LIST, PROBE_LIST = "gallery_match_img_ID_pairs.mat", "probe_img_ID_pairs.mat"
RANKS = (1, 5, 20)


def _testing_set(place: Path) -> Path:
    return place / "Testing_Set" if (place / "Testing_Set").is_dir() else place


def recognises(place: Path) -> bool:
    """Whether ``place`` is TinyFace, or its Testing_Set."""
    return (_testing_set(place) / GALLERY_LIST).is_file()


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """TinyFace's test set.

    Args:
        pictures: a folder with Gallery_Match/, Probe/ and Gallery_Distractor/ of aligned pictures of the same names.

    Raises:
        UsageError: a list or a picture that it names is missing, or the lists do not fit together.
    """
    lists = _testing_set(place)
    root = pictures or lists
    gallery, gallery_ids = names_and_identities(lists / GALLERY_LIST, "gallery_set", "gallery_ids")
    probes, probe_ids = names_and_identities(lists / PROBE_LIST, "probe_set", "probe_ids")
    others = pictures_in(root / DISTRACTOR)
    paths = [
        *require_pictures(root, GALLERY, gallery, lists / GALLERY_LIST),
        *(f"{DISTRACTOR}/{name}" for name in others),
        *require_pictures(root, PROBE, probes, lists / PROBE_LIST),
    ]
    gallery_subjects = np.concatenate([gallery_ids, np.full(len(others), -1)])
    numbers = np.arange(len(paths))
    notes = [*unlisted_note(root, GALLERY, gallery), *unlisted_note(root, PROBE, probes)]
    if not others:
        notes.append("there are no distractors: the numbers are not comparable with published ones")
    if absent := int((~np.isin(probe_ids, gallery_ids)).sum()):
        notes.append(f"{absent:,} probes have no picture of their person in the gallery and were left out")
    search = Identification(
        name="",
        gallery=numbers[: len(gallery_subjects)],
        gallery_subjects=gallery_subjects,
        probes=numbers[len(gallery_subjects) :],
        probe_subjects=probe_ids,
        ranks=RANKS,
        mean_average_precision=True,
    )
    faces = Pictures(PictureFiles(root, paths), subjects=np.concatenate([gallery_subjects, probe_ids]))
    return [TestSet(NAME, place, faces, identification=(search,), notes=tuple(notes))]
