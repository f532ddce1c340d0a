"""QMUL-SurvFace: surveillance faces of about 24 x 20 px, searched in a watch list (open set), and verified in pairs.

Cheng, Zhu & Gong, "Surveillance Face Recognition Challenge", arXiv 1804.09691, 2018. A person of the watch list is the
mean of their gallery pictures, as public evaluations have it; every probe is one picture.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.protocols.form import Identification, PictureFiles, Pictures, TestSet, VerificationPairs
from hrfr_fast.evaluation.protocols.listed import (
    names_and_identities,
    pictures_in,
    require_pictures,
    unlisted_note,
)
from hrfr_fast.evaluation.protocols.mat_files import names_of, read_mat
from hrfr_fast.runtime.errors import UsageError

NAME = "survface"
TITLE = "QMUL-SurvFace: open-set identification (TPIR20 at FPIR) and verification of surveillance faces"
LAYOUT = (
    "Face_Identification_Test_Set/ with gallery/, mated_probe/, unmated_probe/, gallery_img_ID_pairs.mat and"
    " mated_probe_img_ID_pairs.mat, or Face_Verification_Test_Set/ with verification_images/,"
    " positive_pairs_names.mat and negative_pairs_names.mat"
)
IDENTIFICATION, VERIFICATION = "Face_Identification_Test_Set", "Face_Verification_Test_Set"
GALLERY, MATED, UNMATED, IMAGES = "gallery", "mated_probe", "unmated_probe", "verification_images"
RANKS, FPIRS, OPEN_SET_RANK = (1, 5, 20), (0.3, 0.2, 0.1), 20
FARS = (0.3, 0.1, 0.01, 0.001)
_PERSON = re.compile(r"(\d{1,9})_cam\d+_.*", re.IGNORECASE)


def recognises(place: Path) -> bool:
    """Whether ``place`` holds one of the two test sets."""
    return (place / IDENTIFICATION).is_dir() or (place / VERIFICATION).is_dir()


def read(place: Path, pictures: Path | None) -> Sequence[TestSet]:
    """SurvFace's test sets that are there: of identification and of verification.

    Args:
        pictures: a folder of the same layout with aligned pictures.

    Raises:
        UsageError: a list or a picture that it names is missing, or the lists do not fit together.
    """
    sets = []
    if (place / IDENTIFICATION).is_dir():
        sets.append(_identification(place, (pictures or place) / IDENTIFICATION))
    if (place / VERIFICATION).is_dir():
        sets.append(_verification(place, (pictures or place) / VERIFICATION))
    return sets


def _identification(place: Path, root: Path) -> TestSet:
    """The watch list, the probes of people on it and those of others."""
    lists = place / IDENTIFICATION
    gallery_list, mated_list = lists / f"{GALLERY}_img_ID_pairs.mat", lists / f"{MATED}_img_ID_pairs.mat"
    gallery, gallery_ids = names_and_identities(gallery_list, "gallery_set", "gallery_ids")
    mated, mated_ids = names_and_identities(mated_list, "mated_probe_set", "mated_probe_ids")
    unmated = pictures_in(root / UNMATED)
    if not unmated:
        raise UsageError(f"{root / UNMATED}: holds no pictures; the open-set rates need probes of other people")
    if absent := sorted(set(mated_ids.tolist()) - set(gallery_ids.tolist())):
        raise UsageError(f"{mated_list}: people {absent[:5]} are not in {gallery_list.name}; mated probes must be")
    paths = [
        *require_pictures(root, GALLERY, gallery, gallery_list),
        *require_pictures(root, MATED, mated, mated_list),
        *(f"{UNMATED}/{name}" for name in unmated),
    ]
    strangers, note = _strangers(unmated, int(max(gallery_ids.max(), mated_ids.max())))
    subjects = np.concatenate([gallery_ids, mated_ids, strangers])
    people, gallery_template = np.unique(gallery_ids, return_inverse=True)
    probe_templates = len(people) + np.arange(len(mated) + len(unmated))
    search = Identification(
        name="",
        gallery=np.arange(len(people)),
        gallery_subjects=people,
        probes=probe_templates,
        probe_subjects=subjects[len(gallery) :],
        unit="template",
        ranks=RANKS,
        fpirs=FPIRS,
        open_set_rank=OPEN_SET_RANK,
    )
    faces = Pictures(
        PictureFiles(root, paths), subjects=subjects, templates=np.concatenate([gallery_template, probe_templates])
    )
    notes = ("a person of the watch list is the mean of their gallery pictures", *note,
             *unlisted_note(root, GALLERY, gallery), *unlisted_note(root, MATED, mated))  # fmt: skip
    return TestSet(f"{NAME} identification", place, faces, identification=(search,), notes=notes)


def _strangers(names: list[str], last: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """A number above ``last`` for the person of each unmated probe, from its name (12_cam3_1.jpg), and a caveat.

    Where the names do not say it, each picture counts as a person of its own.
    """
    people = _people(names)
    if people is None:
        note = "the people of the unmated probes are unknown: each picture counts as one in the intervals"
        return last + 1 + np.arange(len(names)), (note,)
    return last + 1 + people, ()


def _people(names: list[str]) -> NDArray[np.int64] | None:
    """The person in each name, int64 [n]; None where a name does not say it."""
    matches = [_PERSON.fullmatch(name) for name in names]
    return np.array([int(match[1]) for match in matches if match]) if all(matches) else None


def _verification(place: Path, root: Path) -> TestSet:
    """The positive and the negative pairs."""
    names: list[tuple[str, str]] = []
    same: list[bool] = []
    for kind, value in (("positive", True), ("negative", False)):
        path = place / VERIFICATION / f"{kind}_pairs_names.mat"
        rows = names_of(read_mat(path), f"{kind}_pairs_names", path, columns=2)
        if not rows:
            raise UsageError(f"{path}: lists no pairs")
        names += [(first, second) for first, second in rows]
        same += [value] * len(rows)
    distinct = sorted({name for pair in names for name in pair})
    paths = require_pictures(root, IMAGES, distinct, place / VERIFICATION / "*_pairs_names.mat")
    number = {name: place_in_list for place_in_list, name in enumerate(distinct)}
    pairs = VerificationPairs(
        first=np.array([number[first] for first, _ in names]),
        second=np.array([number[second] for _, second in names]),
        same=np.array(same),
        fars=FARS,
    )
    people = _people(distinct)
    unknown = "the names do not say who is shown: the intervals treat pairs as independent"
    note = () if people is not None else (unknown,)
    faces = Pictures(PictureFiles(root, paths), subjects=people)
    return TestSet(f"{NAME} verification", place, faces, verification=(pairs,), notes=note)
