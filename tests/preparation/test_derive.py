import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import reference
from picture_trees import aligned_set

from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.preparation import derived_folders, derived_pairs
from hrfr_fast.preparation.derive import derive
from hrfr_fast.preparation.derive_settings import DeriveSettings
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError

SOME = {"highres": 3, "highres_eval": 4, "seed": 3}


def make(source, data, *, workers=1, stop=None, **settings):
    settings = DeriveSettings(**(SOME | settings))
    return derive(source, data, settings=settings, workers=workers, stop=stop, show_progress=False)


def content(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read(path):
    return cv2.imread(str(path))[:, :, ::-1]


@pytest.fixture(scope="module")
def tree(aligned, tmp_path_factory):
    data = tmp_path_factory.mktemp("tree") / "data"
    make(aligned, data)
    return data


def test_the_layout_counts_and_sizes(tree):
    people = {}
    for split, identities, pictures, size in (
        ("lowres", 11, {2, 5}, 36), ("highres", 3, {4}, 144), ("highres_eval", 4, {3}, 144),
    ):  # fmt: skip
        folders = sorted((tree / split).iterdir())
        people[split] = {folder.name for folder in folders}
        assert len(folders) == identities
        assert {len(list(folder.iterdir())) for folder in folders} == pictures
        assert all(read(path).shape == (size, size, 3) for folder in folders for path in folder.iterdir())
    everyone = [name for names in people.values() for name in names]
    assert len(set(everyone)) == len(everyone) == 18
    assert sorted(path.name for path in tree.iterdir()) == [
        "alignment.json", "highres", "highres_eval", "hres_eval_pairs", "lowres", "rejected.jsonl",
    ]  # fmt: skip


def test_pixels_are_the_crop_of_the_template_antialiased(tree, aligned):
    """Against the float64 definition of resampling, and landmarks written out here."""
    left, right = np.array([38.2946, 51.6963]), np.array([73.5318, 51.5014])
    side = 3 * np.hypot(*(right - left))
    x, y = (left + right) / 2 + 0.5
    box = np.array([x - side / 2, y - 4 / 9 * side, x + side / 2, y + 5 / 9 * side]) / 112
    for split, size in (("lowres", 36), ("highres", 144)):
        folder = min((tree / split).glob("person *[1-9]"))
        source = [read(path).astype(float) for path in sorted((aligned / folder.name).iterdir())]
        down = [reference.matrix(box[i], box[i + 2], 160, size) for i in (1, 0)]
        expected = [reference.separable(image, *down).clip(0, 255) for image in source]
        for path in folder.iterdir():
            found = read(path).astype(float)
            assert min(np.abs(found - image).max() for image in expected) <= 0.7


def test_pairs_are_balanced_each_once_and_true(tree):
    with open(tree / "hres_eval_pairs" / "hres.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    paths = [[(tree / "hres_eval_pairs" / name).resolve() for name in row[:2]] for row in rows]
    assert all(
        path.is_file() and path.parent.parent == (tree / "highres_eval").resolve() for row in paths for path in row
    )
    assert len(rows) == 24 and sum(row[2] == "1" for row in rows) == 12  # 4 identities of 3 pictures: 3 pairs each
    assert len({frozenset(row) for row in paths}) == len(rows)
    assert all(
        (first.parent == second.parent) == (row[2] == "1") for (first, second), row in zip(paths, rows, strict=True)
    )


def test_it_packs_and_says_beside_the_numbers_how_the_faces_were_aligned(tree, tmp_path):
    data = shutil.copytree(tree, tmp_path / "data")
    pack(data, tmp_path / "packed", workers=1, show_progress=False)
    packed = open_packed(tmp_path / "packed")
    assert {name: (split.size, split.identities) for name, split in packed.splits.items()} == {
        "lowres": (36, 11), "highres": (144, 3), "highres_eval": (144, 4),
    }  # fmt: skip
    pairs = packed.pairs["hres"]
    assert pairs.identity_coverage == 1 and not pairs.overlap.get("highres")
    assert pairs.notes == (
        "faces aligned by an unrecorded aligner to the template arcface and cropped to hrfr; numbers on other"
        " alignments are not comparable",
    )
    record = json.loads((data / "alignment.json").read_text())
    (data / "alignment.json").write_text(json.dumps(record | {"aligner": "somebody 1.0"}))
    assert not pack(data, tmp_path / "packed", workers=1, show_progress=False).nothing_to_do
    assert "aligned by somebody 1.0" in open_packed(tmp_path / "packed").pairs["hres"].notes[0]
    (data / "alignment.json").write_text("[]")
    with pytest.raises(UsageError, match=r"alignment\.json: not a record of an alignment \(it is no JSON object\)"):
        pack(data, tmp_path / "packed", workers=1, show_progress=False)


def test_workers_change_no_byte_and_the_seed_changes_the_people(aligned, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(derived_folders, "INLINE_PICTURES", 0)
    monkeypatch.setattr(derived_folders, "JOB_PICTURES", 10)
    make(aligned, tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(tree)
    make(aligned, tmp_path / "other", seed=4)
    names = [{path.name for path in (root / "highres_eval").iterdir()} for root in (tree, tmp_path / "other")]
    assert names[0] != names[1]


class StopAfter:
    """Stands in for StopFlag: becomes true when it has been looked at ``looks`` times."""

    signal_number = 15

    def __init__(self, looks):
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", [0, 2, 4])
def test_an_interrupted_tree_is_no_tree_and_is_completed(aligned, tree, tmp_path, monkeypatch, looks):
    monkeypatch.setattr(derived_folders, "JOB_PICTURES", 10)
    data = tmp_path / "data"
    with pytest.raises(Interrupted, match="the same `hrfr-fast derive` continues it") as stopped:
        make(aligned, data, stop=StopAfter(looks))
    assert stopped.value.exit_code == 143
    assert not (data / "lowres").exists()
    with pytest.raises(UsageError, match="is incomplete: .* was interrupted there"):
        pack(data, tmp_path / "packed", workers=1, show_progress=False)
    with pytest.raises(UsageError, match="other settings"):
        make(aligned, data, seed=9)
    (data / ".unfinished" / "partial" / "person 01").mkdir(exist_ok=True)  # of a killed worker
    if (log := data / ".unfinished" / "folders.jsonl").exists():
        log.write_bytes(log.read_bytes() + b'\n{"split": "lowr')
    make(aligned, data)
    assert content(data) == content(tree)
    (data / ".unfinished").mkdir()  # left by a kill while it was removed
    assert make(aligned, data).nothing_to_do and not (data / ".unfinished").exists()


def test_true_faces_are_not_made_of_fewer_pixels(tmp_path):
    source = aligned_set(tmp_path / "small", 112)
    with pytest.raises(
        UsageError, match=r"112x112 px, of which the crop for the template arcface is 105\.7 px"
    ) as error:
        make(source, tmp_path / "data")
    assert "--highres 0 --highres-eval 0" in str(error.value) and "--allow-upsampling" in str(error.value)
    assert not (tmp_path / "data").exists()
    low = make(source, tmp_path / "low", highres=0, eval_size=36)
    assert low.record.sizes == {"lowres": 36, "highres_eval": 36} and not low.record.enlarged
    enlarged = make(source, tmp_path / "enlarged", allow_upsampling=True)
    assert enlarged.record.enlarged == {"highres": 12, "highres_eval": 12}
    assert "without true high resolution: 12 of highres, 12 of highres_eval" in enlarged.record.notes()[1]


def test_pictures_that_cannot_be_used_are_listed(aligned, tmp_path):
    source = shutil.copytree(aligned, tmp_path / "source")
    for name in ("person 01", "person 02"):
        (source / name / "0.png").write_bytes(b"no picture")
    cv2.imwrite(str(source / "person 04" / "1.png"), np.zeros((60, 160, 3), np.uint8))
    made = make(source, tmp_path / "data", highres_pictures=5, eval_pictures=5, highres=6, highres_eval=4)
    lines = [json.loads(line) for line in (tmp_path / "data" / "rejected.jsonl").read_text().splitlines()]
    assert made.rejected == len(lines) == 3
    assert {line["file"]: line["reason"].split(":")[0] for line in lines} == {
        "person 01/0.png": "not a JPEG, PNG, WebP or BMP picture",
        "person 02/0.png": "not a JPEG, PNG, WebP or BMP picture",
        "person 04/1.png": "a picture of 160x60 px is not of the template arcface, which is 112x112 px or a multiple of"
        " it; name another template (unknown",
    }


MISTAKES = {
    "too small": ({"highres": 11, "highres_eval": 5}, "it has 18 identities; highres takes identities with 4 or more"
                  r" pictures \(12 there; 11 asked for\).*This fits: --lowres 14 --highres 2 --highres-eval 2"),
    "too many pairs": ({"pairs": 26}, "--pairs 26: half of the pairs are genuine .* an even number up to 24"),
    "other shape": ({"template": "sphereface"}, "160x160 px is not of the template sphereface, which is 96x112"),
    "no template": ({"template": "arcfase"}, "there is no 'arcfase'"),
    "nothing wanted": ({"lowres": 0, "highres": 0, "highres_eval": 0}, "every split is 0 identities"),
    "a single identity": ({"highres": 1}, "is too small"),
    "no distance": ({"inter_eye": float("inf")}, "inter_eye is inf; it must be a finite number"),
    "wrong size": ({"eval_size": 72}, "eval_size is 72; it must be 36 or 144"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(aligned, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        make(aligned, tmp_path / "data", **settings)
    assert not (tmp_path / "data").exists()


def test_what_is_there_already_is_kept(aligned, tmp_path):
    (tmp_path / "thesis.tex").write_text("three years of work")
    with pytest.raises(UsageError, match="is not empty; choose an empty directory"):
        make(aligned, tmp_path)
    with pytest.raises(UsageError, match="lies in the source"):
        make(aligned, aligned / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_that_cannot_be_read_is_no_reason_to_leave_it_out(aligned, tmp_path):
    source = shutil.copytree(aligned, tmp_path / "source")
    for picture in (source / "person 01").iterdir():
        picture.unlink()
        picture.symlink_to(tmp_path / "lost disk" / picture.name)
    with pytest.raises(HrfrError, match=r"person 01/\d.png: cannot be read: No such file or directory; mend that"):
        make(source, tmp_path / "data")
    assert not (tmp_path / "data" / "lowres").exists()


@pytest.mark.parametrize("enumerated", [0, 1 << 20], ids=["drawn", "listed and ranked"])
def test_pairs_of_many_people(monkeypatch, enumerated):
    monkeypatch.setattr(derived_pairs, "ENUMERATED", enumerated)
    counts = np.array([3, 2, 5, 4] * 10)
    people = np.repeat(np.arange(len(counts)), counts)
    pairs, same = derived_pairs.choose_pairs(counts, 120, seed=1)
    assert len(pairs) == 120 and same.sum() == 60 and not same[:60].all()
    assert len(np.unique(np.sort(pairs, axis=1), axis=0)) == 120
    assert ((people[pairs[:, 0]] == people[pairs[:, 1]]) == same).all()
    everything, _ = derived_pairs.choose_pairs(counts, None, seed=1)
    assert len(everything) == 2 * sum(n * (n - 1) // 2 for n in counts)
