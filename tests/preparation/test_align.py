import csv
import json
import sys
from importlib import import_module

import cv2
import numpy as np
import pytest
from picture_trees import picture

from hrfr_fast.face_templates import ARCFACE, HRFR, SPHEREFACE
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.preparation import align as align_module
from hrfr_fast.preparation.align import align
from hrfr_fast.preparation.antialiased_warp import aligned_face
from hrfr_fast.preparation.landmarks import chosen_face
from hrfr_fast.preparation.photographs import face_names, list_photographs
from hrfr_fast.resampling.similarity import similarity_transform
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.files import write_json

TEMPLATE = np.array(ARCFACE.landmarks)


def placed(scale=1.0, degrees=0.0, shift=(0.0, 0.0), template=TEMPLATE):
    """The template's landmarks, turned about the origin, enlarged and moved."""
    turn = np.deg2rad(degrees)
    return scale * template @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + np.array(shift)


class Fake:
    """Stands in for a detector: looks the faces up by the colour of the first pixel."""

    name = "Fake 1.0"

    def __init__(self, faces):
        self.faces_of, self.calls = faces, 0

    def faces(self, image):
        self.calls += 1
        return self.faces_of.get(int(image[0, 0, 0]), [])


@pytest.fixture
def photographs(tmp_path):
    """Three people with two photographs of 300x260 px each, the first pixel's red their number."""
    folder, number = tmp_path / "photographs", 10
    for person in ("anna", "ben", "cleo"):
        (folder / person).mkdir(parents=True)
        for n in range(2):
            image = picture(number, 300)[:260].copy()
            image[0, 0] = number
            cv2.imwrite(str(folder / person / f"{n}.png"), image[:, :, ::-1])
            number += 1
    return folder


FACES = {n: [placed(1.2 + n / 100, 3 * n, (60, 20))] for n in range(10, 16)}


def read(path):
    return cv2.imread(str(path))[:, :, ::-1]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def smooth_field(x, y):
    """A picture as a function of the place in px from the centre of the first pixel, without detail to alias."""
    return np.stack([128 + 90 * np.sin(x / 37 + k) * np.cos(y / 29 - k) for k in range(3)], axis=-1)


@pytest.mark.parametrize(("scale", "degrees"), [(0.8, 10), (1.0, 0), (2.5, -20), (6.3, 35)])
@pytest.mark.parametrize("template", [ARCFACE, SPHEREFACE, HRFR], ids=lambda template: template.name)
def test_a_turned_face_is_brought_to_the_template(scale, degrees, template):
    """On a smooth picture the value at every pixel is known: that of the place it comes from."""
    points = placed(scale, degrees, (0, 0), np.array(template.landmarks))
    points += (550, 450) - points.mean(axis=0)
    y, x = np.mgrid[0:900, 0:1100]
    image = np.rint(smooth_field(x, y)).astype(np.uint8)
    matrix = similarity_transform(points, template.landmarks)
    found = aligned_face(image, matrix, template.width, template.height)
    assert found.shape == (template.height, template.width, 3)
    v, u = np.mgrid[0 : template.height, 0 : template.width]
    turn, offset = np.linalg.inv(matrix[:, :2]), matrix[:, 2]
    place = np.einsum("ij,jyx->iyx", turn, np.stack([u - offset[0], v - offset[1]]))
    inside = (place[0] > 20) & (place[0] < 1080) & (place[1] > 20) & (place[1] < 880)
    assert inside.mean() > 0.75
    tolerance = 1.5 + 0.1 * max(1, scale)  # rounding twice, OpenCV's 1/32 px, and the blur of shrinking
    assert np.abs(found - smooth_field(*place))[inside].max() < tolerance


def test_shrinking_is_antialiased():
    """Stripes of one pixel become grey; sampled without antialiasing they stay black and white."""
    image = np.zeros((800, 800, 3), np.uint8)
    image[:, ::2] = 255
    matrix = similarity_transform(placed(5.3, 0, (60, 60)), ARCFACE.landmarks)
    inner = aligned_face(image, matrix, 112, 112)[10:-10, 10:-10].astype(float)
    sampled = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)[10:-10, 10:-10].astype(float)
    assert np.abs(inner - 127.5).max() < 4 < 60 < sampled.std()


def test_photographs_are_aligned_in_their_folders_and_can_be_packed(photographs, tmp_path):
    detector = Fake(FACES | {13: [], 14: [placed(0.4), placed(1.5, 5, (40, 30))]})
    (photographs / "cleo" / "broken.jpg").write_bytes(b"no picture")
    result = align(photographs, tmp_path / "out", detector=detector, show_progress=False)
    out = tmp_path / "out"
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        "anna/0.png", "anna/1.png", "ben/0.png", "cleo/0.png", "cleo/1.png",
    ]  # fmt: skip
    assert (result.aligned, result.several, result.rejected) == (5, 1, 2)
    assert lines(out / "rejected.jsonl") == [
        {"file": "ben/1.png", "reason": "no face was found"},
        {"file": "cleo/broken.jpg", "reason": "not a JPEG, PNG, WebP or BMP picture"},
    ]
    with open(out / "landmarks.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows["cleo/0.png"]["faces"] == "2"
    assert float(rows["cleo/0.png"]["x1"]) == pytest.approx(placed(1.5, 5, (40, 30))[0, 0], abs=1e-3)
    packed = pack_as_one_set(out, tmp_path / "packed")
    assert packed.manifest["provenance"]["alignment"]["aligner"] == "Fake 1.0"
    assert packed.manifest["provenance"]["alignment"]["sizes"] == {"faces": 112}


def pack_as_one_set(folder, out):
    pack(folder, out, workers=1, show_progress=False)
    return open_packed(out)


def test_landmarks_from_a_list_give_the_same_faces(photographs, tmp_path):
    align(photographs, tmp_path / "found", detector=Fake(FACES), show_progress=False)
    listed = align(
        photographs, tmp_path / "listed", landmarks=tmp_path / "found" / "landmarks.csv", show_progress=False
    )
    for path in (tmp_path / "found").rglob("*.png"):
        other = tmp_path / "listed" / path.relative_to(tmp_path / "found")
        # The list has a thousandth of a pixel; OpenCV 4 interpolates more coarsely than 5.
        assert np.abs(read(path).astype(int) - read(other)).max() <= 2
    assert listed.record.aligner == "landmarks of landmarks.csv" and listed.aligned == 6


def test_what_is_aligned_is_kept_and_new_photographs_are_added(photographs, tmp_path):
    class StopAfter:
        signal_number, looks = 2, 0

        def __bool__(self):
            self.looks += 1
            return self.looks > 2

    out, detector = tmp_path / "out", Fake(FACES)
    with pytest.raises(Interrupted, match="the same `hrfr-fast align` continues it"):
        align(photographs, out, detector=detector, stop=StopAfter(), show_progress=False)
    assert detector.calls == 2 and len(list(out.rglob("*.png"))) == 2
    with pytest.raises(UsageError, match="is incomplete"):
        pack(out, tmp_path / "packed", workers=1, show_progress=False)
    (tmp_path / "train.txt").write_text("anna/0.png 1\n")
    with pytest.raises(UsageError, match="is incomplete"):
        pack(tmp_path / "train.txt", tmp_path / "packed", root=out, workers=1, show_progress=False)
    with open(out / ".unfinished" / "landmarks.csv", "a", encoding="utf-8") as log:
        log.write("\nben/0.png,1.0,2.")  # of a killed run
    first = (out / "anna" / "0.png").stat().st_mtime_ns
    result = align(photographs, out, detector=detector, show_progress=False)
    assert (result.aligned, result.kept, detector.calls) == (6, 2, 6)
    assert (out / "anna" / "0.png").stat().st_mtime_ns == first
    cv2.imwrite(str(photographs / "ben" / "new.png"), np.full((300, 300, 3), 11, np.uint8))
    assert align(photographs, out, detector=detector, show_progress=False).kept == 6
    assert (out / "ben" / "new.png").exists() and not (out / ".unfinished").exists()
    with pytest.raises(UsageError, match="holds faces of other settings"):
        align(photographs, out, detector=detector, template="hrfr", show_progress=False)


def test_a_face_is_there_once_whatever_photographs_come_and_go(photographs, tmp_path):
    """The extension is part of a face's name where another photograph differs in it alone."""
    out, other = tmp_path / "out", photographs / "ben" / "0.bmp"
    first = align(photographs, out, detector=Fake(FACES), show_progress=False)
    face = (out / "ben" / "0.png").read_bytes()
    for names, kept in ((["0.png.png", "1.png"], 6), (["0.png", "1.png"], 6)):
        if other.exists():
            other.unlink()
        else:
            cv2.imwrite(str(other), np.zeros((300, 300, 3), np.uint8))  # no face in it
        assert align(photographs, out, detector=Fake(FACES), show_progress=False).kept == kept == first.aligned
        assert sorted(path.name for path in (out / "ben").iterdir()) == names
        assert (out / "ben" / names[0]).read_bytes() == face


def test_a_list_of_aligned_faces_keeps_their_record(photographs, tmp_path):
    align(photographs, tmp_path / "out", detector=Fake(FACES), show_progress=False)
    (tmp_path / "train.txt").write_text("".join(f"{name}/{n}.png {name}\n" for name in ("anna", "ben") for n in (0, 1)))
    options = {"root": tmp_path / "out", "workers": 1, "show_progress": False}
    pack(tmp_path / "train.txt", tmp_path / "packed", **options)
    assert open_packed(tmp_path / "packed").manifest["provenance"]["alignment"]["aligner"] == "Fake 1.0"
    assert pack(tmp_path / "train.txt", tmp_path / "packed", **options).nothing_to_do


def test_workers_change_nothing(photographs, tmp_path, monkeypatch):
    align(photographs, tmp_path / "one", detector=Fake(FACES), show_progress=False)
    table = tmp_path / "one" / "landmarks.csv"
    monkeypatch.setattr(align_module, "INLINE_PHOTOGRAPHS", 0)
    monkeypatch.setattr(align_module, "JOB_PHOTOGRAPHS", 2)
    outs = [tmp_path / "a", tmp_path / "b"]
    for out, workers in zip(outs, (1, 2), strict=True):
        align(photographs, out, landmarks=table, workers=workers, show_progress=False)
    contents = [{p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in outs]
    assert contents[0] == contents[1] and len(contents[0]) == 9


def test_which_of_several_faces():
    small_central, large_aside = placed(0.5, 0, (120, 120)), placed(2.0, 0, (300, 0))
    assert chosen_face([small_central, large_aside], "largest", 300, 300) is large_aside
    assert chosen_face([small_central, large_aside], "central", 300, 300) is small_central


def test_names_of_faces_are_unique():
    assert face_names(["a/1.jpg", "a/1.png", "b/1.jpg"]) == ["a/1.jpg.png", "a/1.png.png", "b/1.png"]
    hard = ["x.jpg", "x.bmp", "x.jpg.bmp"]
    assert len(set(face_names(hard))) == 3
    assert face_names(hard, keep=True) == hard


def test_files_that_cannot_be_read_are_tried_again(photographs, tmp_path):
    lost = photographs / "anna" / "9.png"
    lost.symlink_to(tmp_path / "lost disk")
    with pytest.raises(HrfrError, match=r"1 file could not be read, such as anna/9\.png .* the others are aligned"):
        align(photographs, tmp_path / "out", detector=Fake(FACES), show_progress=False)
    assert lines(tmp_path / "out" / "rejected.jsonl")[0]["retry"]
    lost.unlink()
    assert align(photographs, tmp_path / "out", detector=Fake(FACES), show_progress=False).rejected == 0


GOOD = ",".join(f"{value:.1f}" for value in placed(1.2, 0, (50, 50)).ravel())
LISTS = {
    "too few numbers": ("anna/0.png,1,2,3\n", r"marks\.csv: line 1: expected a path and ten numbers"),
    "no number": (f"path,x1\nanna/0.png,{GOOD}\nben/0.png,{GOOD.replace('1', 'l', 1)}\n", "line 3: expected"),
    "not finite": (f"anna/0.png,{'nan,' * 9}nan\n", "line 1: expected"),
    "absurd": (f"anna/0.png,{'1e9,' * 9}1\n", "line 1: expected"),
}


@pytest.mark.parametrize(("text", "message"), LISTS.values(), ids=LISTS.keys())
def test_broken_lists_of_landmarks(photographs, tmp_path, text, message):
    (tmp_path / "marks.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        align(photographs, tmp_path / "out", landmarks=tmp_path / "marks.csv", show_progress=False)
    assert not (tmp_path / "out").exists()


REASONS = {
    "outside": (placed(1, 0, (2000, 0)), "its landmarks lie outside the picture of 300x260 px"),
    "one point": (np.full((5, 2), 40.0), "its landmarks are one point"),
    "not listed": (None, "the list of landmarks does not name it"),
}


@pytest.mark.parametrize(("points", "reason"), REASONS.values(), ids=REASONS.keys())
def test_reasons_why_a_photograph_gives_no_face(photographs, tmp_path, points, reason):
    rows = [f"anna/1.png,{GOOD}", "gone.png," + GOOD]
    rows += [] if points is None else ["anna/0.png," + ",".join(map(str, points.ravel()))]
    (tmp_path / "marks.csv").write_text("\n".join(rows), encoding="utf-8")
    result = align(photographs, tmp_path / "out", landmarks=tmp_path / "marks.csv", show_progress=False)
    assert result.aligned == 1
    assert result.warnings == ["the list of landmarks names 1 picture not among the photographs, such as gone.png"]
    found = {line["file"]: line["reason"] for line in lines(tmp_path / "out" / "rejected.jsonl")}
    assert found["anna/0.png"].startswith(reason) and len(found) == 5


MISTAKES = {
    "template": ({"template": "unknown"}, "has no landmarks to align to"),
    "size": ({"size": 4}, r"size is 4; it must be within 16\.\.1024 px"),
    "face": ({"face": "prettiest"}, "it must be one of largest, central"),
    "smallest": ({"smallest_face": 3}, "it must be at least 12"),
    "workers": ({"workers": -1}, "it must be at least 0"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(photographs, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        align(photographs, tmp_path / "out", detector=Fake(FACES), show_progress=False, **arguments)
    assert not (tmp_path / "out").exists()


def test_directories_that_do_not_fit(photographs, tmp_path):
    for source, out, message in (
        (tmp_path / "nowhere", tmp_path / "out", "no such directory of photographs"),
        (photographs, photographs / "out", "lies among the photographs"),
        (photographs, tmp_path, "is not empty and holds no aligned faces"),
    ):
        with pytest.raises(UsageError, match=message):
            align(source, out, detector=Fake(FACES), show_progress=False)


def test_without_the_detectors_package_it_says_what_to_install(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    with pytest.raises(UsageError, match=r"pip install 'hrfr-fast\[align\]'.*--landmarks FILE\.csv needs neither"):
        align(photographs, tmp_path / "out", show_progress=False)


def test_mtcnn_is_given_its_own_weights_and_read_as_landmarks(monkeypatch, tmp_path):
    """The package's interface, imitated: stages with their weights, and rows of 16 numbers."""
    given = {}

    class Stage:
        def __init__(self, weights):
            given.setdefault("weights", []).append(weights)

    class Mtcnn:
        def __init__(self, stages, device):
            given["stages"], given["device"] = stages, device

        def detect_faces(self, image, output_type, min_face_size):
            given["smallest"], given["shape"] = min_face_size, image.shape
            if not image.any():
                return np.empty((0, 6))
            return np.array([[0, 1, 2, 3, 4, 0.9, *TEMPLATE[:, 0], *TEMPLATE[:, 1]]])

    package = type(sys)("mtcnn")
    package.__file__, package.MTCNN = str(tmp_path / "mtcnn" / "__init__.py"), Mtcnn
    stages = type(sys)("mtcnn.stages")
    stages.StagePNet = stages.StageRNet = stages.StageONet = Stage
    monkeypatch.setitem(sys.modules, "mtcnn", package)
    monkeypatch.setitem(sys.modules, "mtcnn.stages", stages)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    detector = import_module("hrfr_fast.preparation.detectors").Mtcnn()
    assert given["weights"] == [
        str(tmp_path / "mtcnn" / "assets" / "weights" / f"{n}.lz4") for n in ("pnet", "rnet", "onet")
    ]
    (face,) = detector.faces(np.ones((400, 500, 3), np.uint8))
    np.testing.assert_allclose(face, TEMPLATE)
    assert given["smallest"] == 20 and given["shape"] == (400, 500, 3)
    (face,) = detector.faces(np.ones((400, 3000, 3), np.uint8))  # searched at a third, for faces of 60 px
    np.testing.assert_allclose(face, (TEMPLATE + 0.5) * (3000 / 1000, 400 / 133) - 0.5)
    assert given["smallest"] == 20 and given["shape"] == (133, 1000, 3)
    assert detector.faces(np.zeros((50, 50, 3), np.uint8)) == []


def test_names_that_no_face_can_have_cost_their_own_photograph_alone(tmp_path):
    """Of 255 bytes; of a folder of other photographs; and the others are aligned, whatever is in their names."""
    folder, listed = tmp_path / "photographs", tmp_path / "list.csv"
    good = ["a\rb.png", "b.png", 'c,"1.png', "new\nline.png", "n" * 251 + ".png"]
    good.append("taken.jpg")
    bad = ["m" * 250 + ".jpg", "m" * 250 + ".bmp", "taken.png/x.png"]  # of the first two, both keep their extension
    for n, name in enumerate([*good, *bad]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(cv2.imencode(".png", picture(n, 112))[1].tobytes())
    points = ",".join(map(str, TEMPLATE.ravel()))
    quoted = [name.replace('"', '""') for name in [*good, *bad]]
    listed.write_text("".join(f'"{name}",{points}\n' for name in quoted), newline="")
    for kept in (0, 6):
        aligned = align(folder, tmp_path / "out", landmarks=listed, show_progress=False, workers=1)
        assert (aligned.aligned, aligned.kept, aligned.rejected) == (6, kept, 3)
        assert {line["file"] for line in lines(tmp_path / "out" / "rejected.jsonl")} == set(bad)
        assert all("its face cannot be called" in line["reason"] for line in lines(tmp_path / "out" / "rejected.jsonl"))
        with open(tmp_path / "out" / "landmarks.csv", encoding="utf-8", newline="") as file:
            assert {row[0] for row in csv.reader(file)} == {"path", *good}
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_log_that_a_full_disk_has_cut_is_gone_on_with(photographs, tmp_path):
    """Within quotes, which take what follows along until the next one."""
    out, fake = tmp_path / "out", Fake(FACES)
    align(photographs, out, detector=fake, show_progress=False)
    (out / ".unfinished").mkdir()
    (out / "alignment.json").rename(out / "kept.json")
    (out / "landmarks.csv").unlink()
    write_json(out / ".unfinished" / "settings.json", json.loads((out / "kept.json").read_bytes())["settings"])
    (out / "kept.json").unlink()
    line = f"x.png,{','.join(map(str, TEMPLATE.ravel()))},1\n"
    (out / ".unfinished" / "landmarks.csv").write_text('"anna/0\n' + line * 10_000)
    assert align(photographs, out, detector=fake, show_progress=False).aligned >= 6


def test_links_that_lead_to_one_folder_again_and_again_are_refused(tmp_path):
    for level in range(30):
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}" / name).symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "30").mkdir()
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "first").symlink_to(tmp_path / "0")
    with pytest.raises(UsageError, match="ways lead to this folder"):
        list_photographs(tmp_path / "photographs")
