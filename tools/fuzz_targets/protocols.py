"""Targets: the files of public test protocols."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.evaluation.protocols import bin_file, tinyface
from hrfr_fast.evaluation.protocols.ijb_lists import read_faces, read_subjects, read_template_pairs
from hrfr_fast.evaluation.protocols.mat_files import identities_of, names_of, read_mat
from hrfr_fast.evaluation.protocols.pair_names import read_pair_list, test_faces
from tools.fuzz_targets.pictures import pictures
from tools.fuzz_targets.target import ALLOWED, Target, written


def _bin(content: bytes, folder: Path) -> None:
    path = written(folder, "lfw.bin", content)
    for test in bin_file.read(path, None):
        assert len(test.verification[0].first) == len(test.verification[0].same)


def _bins(_folder: Path) -> Sequence[bytes]:
    jpeg = pictures()["jpeg"]
    value = ([jpeg, jpeg[::-1], jpeg, jpeg], [True, False])
    arrays = ([np.frombuffer(jpeg, np.uint8)] * 4, np.array([True, False]))
    return [*(pickle.dumps(value, protocol) for protocol in range(6)), pickle.dumps(arrays, 2), pickle.dumps(arrays, 5)]


def _mat(content: bytes, folder: Path) -> None:
    path = written(folder, "list.mat", content)
    found = read_mat(path)
    refused: Exception | None = None
    for read, key in ((names_of, "names"), (identities_of, "ids"), (names_of, "pairs")):
        try:
            read(found, key, path, *([2] if key == "pairs" else []))
        except ALLOWED as error:
            refused = error
    if refused:
        raise refused


def _mats(_folder: Path) -> Sequence[bytes]:
    from scipy.io import savemat

    names: Any = np.empty((2, 1), object)
    names[:, 0] = ["a.jpg", "äß.jpg"]
    values = {"names": names, "ids": np.array([[1], [2]]), "pairs": np.array([["a", "b"], ["c", "d"]], object)}
    contents = []
    for compressed in (False, True):
        file = io.BytesIO()
        savemat(file, values, do_compression=compressed)
        contents.append(file.getvalue())
    return contents


def _tinyface(content: bytes, folder: Path) -> None:
    """A MATLAB list among the files that it belongs to: names in it must not lead anywhere."""
    from scipy.io import savemat

    root = folder / "Testing_Set"
    for place in ("Gallery_Match", "Gallery_Distractor", "Probe"):
        written(root, f"{place}/1_1.jpg", pictures()["jpeg"])
    names: Any = np.empty((1, 1), object)
    names[:, 0] = ["1_1.jpg"]
    savemat(root / "gallery_match_img_ID_pairs.mat", {"gallery_set": names, "gallery_ids": np.array([[1]])})
    written(root, "probe_img_ID_pairs.mat", content)
    tinyface.read(folder, None)


def _tinyface_seeds(_folder: Path) -> Sequence[bytes]:
    from scipy.io import savemat

    names: Any = np.empty((1, 1), object)
    names[:, 0] = ["1_1.jpg"]
    file = io.BytesIO()
    savemat(file, {"probe_set": names, "probe_ids": np.array([[1]])})
    return [file.getvalue()]


def _pair_names(content: bytes, folder: Path) -> None:
    for person in ("ann", "bob"):
        written(folder, f"{person}/{person}_0001.jpg", pictures()["jpeg"])
    found = read_pair_list(written(folder, "pairs.txt", content))
    test_faces({"": found}, folder)


FACES = b"1.jpg 101 7\n2.jpg 102 8\n"
POINTS = b"1.jpg 1 2 3 4 5 6 7 8 9 10 0.5\n2.jpg 1 2 3 4 5 6 7 8 9 10 0.9\n"


def _faces(content: bytes, folder: Path) -> None:
    read_faces(written(folder, "face_tid_mid.txt", content), written(folder, "5pts.txt", POINTS))


def _points(content: bytes, folder: Path) -> None:
    read_faces(written(folder, "face_tid_mid.txt", FACES), written(folder, "5pts.txt", content))


TARGETS = (
    Target("bin", _bin, _bins),
    Target("mat", _mat, _mats),
    Target("tinyface", _tinyface, _tinyface_seeds),
    Target("pairs-txt", _pair_names, lambda _folder: [b"1\t1\nann\t1\t1\nann\t1\tbob\t1\n"]),
    Target("ijb-faces", _faces, lambda _folder: [FACES]),
    Target("ijb-points", _points, lambda _folder: [POINTS]),
    Target(
        "ijb-pairs",
        lambda content, folder: read_template_pairs(written(folder, "pairs.txt", content), np.array([101, 102])),
        lambda _folder: [b"101 102 0\n101 101 1\n"],
    ),
    Target(
        "ijb-subjects",
        lambda content, folder: read_subjects(written(folder, "1N.csv", content)),
        lambda _folder: [b"TEMPLATE_ID,SUBJECT_ID,FILENAME\n101,7,a.png\n"],
    ),
)
