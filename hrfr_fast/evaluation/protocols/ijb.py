"""IJB-B and IJB-C: templates of stills and video frames, verified in pairs and searched in two galleries.

Whitelam et al., "IARPA Janus Benchmark-B Face Dataset", CVPRW 2017; Maze et al., "IARPA Janus Benchmark - C", ICB 2018,
in the layout of the loose crops that InsightFace publishes. A crop is aligned by its five points; a picture weighs as
much as the norm of its embedding times the score of the face detector, as in the public evaluation (its N1 D1 F1).
``ijbb.py`` and ``ijbc.py`` name the protocols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.protocols.form import Identification, PictureFiles, Pictures, TestSet, VerificationPairs
from hrfr_fast.evaluation.protocols.ijb_lists import read_faces, read_subjects, read_template_pairs
from hrfr_fast.evaluation.protocols.listed import require_pictures
from hrfr_fast.face_templates import ARCFACE
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.resampling.similarity import similarity_transform, warped
from hrfr_fast.runtime.errors import UsageError

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
RANKS, FPIRS = (1, 5, 10), (1e-1, 1e-2, 1e-3)
CROPS = "loose_crop"


def layout(name: str) -> str:
    """What belongs into a folder of the data set ``name``."""
    return (
        f"meta/{name}_face_tid_mid.txt, meta/{name}_name_5pts_score.txt, meta/{name}_template_pair_label.txt,"
        f" meta/{name}_1N_gallery_*.csv, meta/{name}_1N_probe_mixed.csv and {CROPS}/"
    )


def root_of(place: Path, name: str) -> Path:
    """The folder with meta/ and loose_crop/: ``place`` itself, or the one called IJBB or IJBC in it."""
    inner = place / name.upper()
    return inner if (inner / "meta").is_dir() and not (place / "meta").is_dir() else place


def recognises(place: Path, name: str) -> bool:
    """Whether the lists of ``name`` are there."""
    return (root_of(place, name) / "meta" / f"{name}_face_tid_mid.txt").is_file()


def read(place: Path, pictures: Path | None, name: str, galleries: tuple[str, str]) -> Sequence[TestSet]:
    """The test set ``name`` ("ijbb" or "ijbc").

    Args:
        pictures: the folder of the loose crops, where it is not loose_crop/.
        galleries: what the two galleries are called in the names of their files.

    Raises:
        UsageError: a list or a picture that it names is missing, or the lists do not fit together.
    """
    root = root_of(place, name)
    meta, crops = root / "meta", pictures or root / CROPS
    names = meta / f"{name}_face_tid_mid.txt"
    faces = read_faces(names, meta / f"{name}_name_5pts_score.txt")
    require_pictures(crops.parent, crops.name, faces.names, names)
    templates, template_of = np.unique(faces.templates, return_inverse=True)
    first, second, same = read_template_pairs(meta / f"{name}_template_pair_label.txt", templates)
    files = [meta / f"{name}_1N_gallery_{gallery}.csv" for gallery in galleries]
    probes = meta / f"{name}_1N_probe_mixed.csv"
    there = [path for path in (*files, probes) if path.is_file()]
    notes: list[str] = []
    searches: tuple[Identification, ...] = ()
    if len(there) == 3:
        known = _Templates(templates, {path: read_subjects(path) for path in there})
        subjects = known.subjects(first, second, same)
        searches = tuple(known.search(number, path, probes) for number, path in enumerate(files, 1))
    elif there:
        absent = [path for path in (*files, probes) if path not in there]
        raise UsageError(f"{absent[0]}: no such file; the 1:N lists belong together ({there[0].name} is there)")
    else:
        notes.append("no 1:N lists: identification is left out, and subjects are what the genuine pairs connect")
        subjects = _connected(len(templates), first[same], second[same])
    if contradicting := int(((subjects[first] == subjects[second]) != same).sum()):
        notes.append(f"{contradicting:,} pair labels contradict the subjects of their templates")
    pairs = VerificationPairs(first, second, same, unit="template", fars=FARS)
    loose = Pictures(
        PictureFiles(crops, faces.names), subjects=subjects[template_of], templates=template_of, media=faces.media,
        weights=faces.scores, norms_weigh=True, prepare=_Alignment(faces.landmarks),
    )  # fmt: skip
    return [TestSet(name, place, loose, verification=(pairs,), identification=searches, notes=tuple(notes))]


@dataclass(frozen=True)
class _Alignment:
    """A loose crop, aligned to the 112-px template. ``landmarks``: float32 [N, 5, 2] of all crops."""

    landmarks: NDArray[np.float32]

    def __call__(self, number: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            matrix = similarity_transform(self.landmarks[number], ARCFACE.landmarks)
        except ValueError as reason:
            raise Rejected(str(reason)) from None
        return warped(image, matrix, ARCFACE.width, ARCFACE.height)


@dataclass(frozen=True)
class _Templates:
    """The templates of a data set, int64 [T] rising, and the subjects that its 1:N lists give to some of them."""

    templates: NDArray[np.int64]
    lists: dict[Path, dict[int, int]]

    def subjects(
        self, first: NDArray[np.int32], second: NDArray[np.int32], same: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """The subject of each template, int64 [T]; a number of its own for each that no list names.

        Raises:
            UsageError: two lists contradict each other.
        """
        subjects = np.full(len(self.templates), -1, np.int64)
        for path in self.lists:
            rows, numbers = self.rows_and_subjects(path)
            before = subjects[rows]
            if ((before >= 0) & (before != numbers)).any():
                raise UsageError(f"{path}: gives a template another subject than another list does")
            subjects[rows] = numbers
        unknown = np.flatnonzero(subjects < 0)
        subjects[unknown] = subjects.max(initial=0) + 1 + np.arange(len(unknown))
        return subjects

    def rows_and_subjects(self, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of a list's templates and their subjects, int64 each.

        Raises:
            UsageError: a template has no picture.
        """
        numbers = np.array(sorted(self.lists[path]), np.int64)
        rows = np.searchsorted(self.templates, numbers)
        known = self.templates[np.minimum(rows, len(self.templates) - 1)] == numbers
        if not known.all():
            raise UsageError(f"{path}: template {int(numbers[~known][0])} has no picture in the list of faces")
        return rows, np.array([self.lists[path][int(number)] for number in numbers], np.int64)

    def search(self, number: int, gallery: Path, probes: Path) -> Identification:
        """All probes searched in one gallery."""
        enrolled, enrolled_subjects = self.rows_and_subjects(gallery)
        searched, searched_subjects = self.rows_and_subjects(probes)
        return Identification(
            f"gallery {number}", enrolled, enrolled_subjects, searched, searched_subjects,
            unit="template", ranks=RANKS, fpirs=FPIRS, open_set_rank=1,
        )  # fmt: skip


def _connected(templates: int, first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.int64]:
    """A number for each group of templates that genuine pairs connect, int64 [T]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(templates, templates))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)
