"""What lies among the pair sets and is none is named with the reason; identities are known in any spelling."""

import unicodedata

import cv2
import numpy as np
import pytest
from pair_cases import run, write_bcolz, write_csv

from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack_pairs
from hrfr_fast.runtime.errors import UsageError

LINES = ["../highres_eval/e000/0.jpg,../highres_eval/e000/1.jpg,1"]


def file(name, content="x"):
    def make(tree):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    return make


def folder(name):
    return lambda tree: (tree / name).mkdir(parents=True)


LEFT_OUT = {
    "LFW's list": (
        file("hres_eval_pairs/pairs.txt"),
        "hres_eval_pairs/pairs.txt was left out: lists of",
    ),
    "InsightFace's": (file("hres_eval_pairs/lfw.bin"), "hres_eval_pairs/lfw.bin was left out: InsightFace's .bin"),
    "no data": (
        folder("hres_eval_pairs/half/meta"),
        "hres_eval_pairs/half was left out: half of a",
    ),
    "no meta": (folder("hres_eval_pairs/half/data"), "half of a bcolz carray, meta/ is missing"),
    "labels alone": (file("hres_eval_pairs/lfw_list.npy"), "labels without their carray lfw/"),
    "one level deeper": (folder("hres_eval_pairs/sets/lfw/meta"), "hres_eval_pairs/sets was left out: neither"),
    "unused pictures": (file("hres_eval_pairs/more/0.jpg"), "hres_eval_pairs/more was left out: neither"),
    "a dangling link": (lambda t: (t / "hres_eval_pairs/a.csv").symlink_to("gone"), "a.csv was left out: it cannot be"),
    "something else": (file("hres_eval_pairs/README.md"), "README.md was left out: not a pair set"),
    "a misspelt folder": (file("hres_eval_pair/list.csv"), "hres_eval_pair was left out: pair sets are read from"),
    "another folder": (file("pairs/lfw_list.npy"), "pairs was left out: pair sets are read from"),
    "beside the splits": (file("lfw.csv"), "lfw.csv was left out: pair sets are read from"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_no_pair_set_is_named_with_the_reason(tree, tmp_path, name):
    make, message = LEFT_OUT[name]
    write_csv(tree, LINES)
    make(tree)
    summary = run(tree, tmp_path / "out")
    assert len(summary.warnings) == 1 and message in summary.warnings[0]
    assert run(tree, tmp_path / "out").warnings == summary.warnings


def test_many_files_that_are_no_pair_set_are_counted(tree, tmp_path):
    write_csv(tree, LINES)
    for n in range(23):
        file(f"hres_eval_pairs/{n:02d}.txt")(tree)
    warnings = run(tree, tmp_path / "out").warnings
    assert len(warnings) == 21 and warnings[-1] == "hres_eval_pairs: 3 more files were left out"


def test_pictures_of_a_list_its_labels_and_upper_case_are_no_reason_to_warn(tree, tmp_path, make_picture):
    pictures = np.stack([make_picture(i, 144) for i in range(4)])
    write_bcolz(tree, pictures, [True, False], "lfw")
    (tree / "hres_eval_pairs/faces/deep").mkdir(parents=True)
    cv2.imwrite(str(tree / "hres_eval_pairs/a.png"), pictures[0])
    cv2.imwrite(str(tree / "hres_eval_pairs/faces/deep/b.png"), pictures[1])
    write_csv(tree, ["a.png,faces/deep/b.png,0"])
    (tree / "hres_eval_pairs/list.csv").rename(tree / "hres_eval_pairs/LIST.CSV")
    summary = run(tree, tmp_path / "out")
    assert set(open_packed(tmp_path / "out").pairs) == {"LIST", "lfw"}
    assert not any("left out" in line for line in summary.warnings)
    file("hres_eval_pairs/list.csv", "a.png,a.png,1")(tree)
    with pytest.raises(UsageError, match="'list' of a pair set is taken"):
        run(tree, tmp_path / "out")


def test_a_folder_without_a_pair_set_says_what_was_there_instead(tree, tmp_path):
    file("sets/pairs.txt")(tree)
    with pytest.raises(UsageError, match=r"no pair set here(.|\n)*sets/pairs.txt was left out"):
        pack_pairs(tree / "sets", tmp_path / "out")


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("other", [DECOMPOSED, f"{COMPOSED} ", f" {DECOMPOSED}"], ids=["accents", "space", "both"])
def test_an_identity_in_another_spelling_is_shared_all_the_same(tree, tmp_path, other):
    (tree / "highres/h000").rename(tree / f"highres/{COMPOSED}")
    (tree / "highres_eval/e000").rename(tree / f"highres_eval/{other}")
    with pytest.raises(UsageError, match="1 identities are in both highres and highres_eval .* in another spelling"):
        run(tree, tmp_path / "out")


@pytest.mark.parametrize(
    "first,second",
    [
        (f"highres/{COMPOSED}", f"highres/{DECOMPOSED}"),
        ("highres/Ann", "highres/ann"),
        ("highres/Ann", "highres_eval/ANN"),
        ("lowres/Ann", "lowres/Ann "),
    ],
    ids=["accents", "case", "case in two splits", "space"],
)
def test_identities_that_look_alike_are_warned_about(tree, tmp_path, first, second):
    for name in (first, second):
        one = next(path for path in sorted((tree / name).parent.iterdir()) if path.name[0] in "lhe")
        one.rename(tree / name)
    (warning,) = run(tree, tmp_path / "out").warnings
    assert "1 identities have several folders" in warning and ascii(first) in warning and ascii(second) in warning
