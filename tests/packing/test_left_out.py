"""Nothing in a data tree is dropped without a count and a place, and no name falsifies a count."""

import json
import shutil

import pytest

from hrfr_fast.format.manifest import read
from hrfr_fast.format.verify import check_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line

pytestmark = pytest.mark.usefixtures("no_fsync")


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, **settings})


def deeper(low):
    for identity in list(low.iterdir())[4:]:
        shutil.move(identity, low / "l000" / identity.name)


def loose(low):
    for file in list(low.rglob("*.jpg")):
        file.rename(low / f"{file.parent.name}-{file.name}")


def tiffs(low):
    for file in list(low.rglob("*.jpg"))[20:]:
        file.rename(file.with_suffix(".tif"))


def zipped(low):
    shutil.make_archive(str(low / "faces"), "zip", low)
    for identity in low.glob("l*"):
        shutil.rmtree(identity)


REFUSED = {
    "a level deeper": (deeper, r"only 20 of 60 pictures.*40 pictures lie in 8 folders deeper than lowres/<identity>/"),
    "no level of identities": (loose, r"only 0 of 60 pictures.*60 pictures lie outside.*such as lowres/l000-0.jpg"),
    "another format": (tiffs, r"only 20 of 60 pictures.*40 pictures have a format that is not read .*\.tif"),
    "still packed": (zipped, r"no pictures.*1 files are not pictures by their names, such as lowres/faces.zip"),
    "misspelt": (lambda low: low.rename(low.with_name("Low_Res")), "Low_Res: did you mean lowres"),
    "misspelt pairs": (lambda low: (low.parent / "hres-eval-pairs").mkdir(), "did you mean hres_eval_pairs"),
    "a tree in a tree": (
        lambda low: [shutil.move(f, low.parent / "d" / f.name) for f in [*low.parent.glob("*res*")]],
        "they are in .*data/d: give that",
    ),
    "no split at all": (
        lambda low: (
            [shutil.move(f, low.parent / "d" / f.name) for f in [*low.glob("*")]]
            and [shutil.rmtree(f) for f in low.parent.glob("*res*")]
        ),
        "data/d looks like a folder of identities",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_layout_is_refused_with_counts_and_places(tree, tmp_path, name):
    make, message = REFUSED[name]
    (tree / "d").mkdir()
    make(tree / "lowres")
    with pytest.raises(UsageError, match=message):
        run(tree, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_split_given_as_the_tree_and_an_output_among_the_pictures_are_refused(tree, tmp_path):
    with pytest.raises(UsageError, match="is a split itself: give the folder that holds it"):
        run(tree / "lowres", tmp_path / "out")
    for out in (tree, tree / "lowres/packed"):
        with pytest.raises(UsageError, match="among the pictures"):
            run(tree, out)
    run(tree, tree / "packed")
    with pytest.raises(UsageError, match="packed directory already"):
        run(tree / "packed", tmp_path / "out")
    assert run(tree, tree / "packed").nothing_to_do


def test_little_that_is_left_out_is_warned_about_each_with_its_place(tree, tmp_path):
    low, picture = tree / "lowres", tree / "lowres/l000/0.jpg"
    places = ["lowres/l000/s/x.jpg", "lowres/x.PNG", "lowres/l001/.x.jpg", "lowres/.cache/x.jpg", "other/a/x.bmp"]
    for place in (*places, "x.jpg", "faces.tar.gz", "lowres/l002/x.gif", "lowres/l002/.DS_Store"):
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tree / place)
    (low / "l003/0.jpg").rename(low / "l003/0.JPG")  # upper case is a picture like any other
    summary = run(tree, tmp_path / "out")
    assert summary.shards["lowres"].samples == 60 and len(summary.warnings) == 7
    for said in (
        "1 pictures lie in 1 folders deeper than lowres/<identity>/<picture>, such as lowres/l000/s/x.jpg",
        "1 pictures lie outside the identities' folders, lowres/<identity>/, such as lowres/x.PNG",
        "2 pictures are hidden (their names, or their folders', begin with a dot), such as lowres/.cache/x.jpg",
        "1 pictures have a format that is not read",
        "data/other: 1 picture in no split, such as",
        "data: 1 picture in no split, such as x.jpg",
        "1 archives, such as faces.tar.gz, are not opened",
    ):
        assert sum(said in warning for warning in summary.warnings) == 1, said


NAMES = {"newline": "a\nb", "tab": "a\t7\t8", "escape": "a\x1b[31m", "separator": "a\u2028b\x85", "backslash": "a\\nb"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_on_one_line_wherever_it_is_written(tree, tmp_path, name):
    odd, out = NAMES[name], tmp_path / "out"
    (tree / f"lowres/l000/{odd}.jpg").write_bytes(b"broken")
    (tree / "lowres/l001").rename(tree / f"lowres/{odd}")
    (tree / f"highres/{odd} of nobody").mkdir()
    folder = tree / "hres_eval_pairs"
    folder.mkdir()
    shutil.copy(tree / "highres_eval/e000/0.jpg", folder / f"{odd}.jpg")
    (folder / "test.csv").write_bytes(f'"{odd}.jpg","{odd}.jpg",1\n'.encode())
    summary = run(tree, out)
    assert all(warning.isprintable() for warning in summary.warnings) and len(summary.warnings) >= 1
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [line["file"] for line in lines] == [f"lowres/l000/{odd}.jpg"] and check_packed(out) == []
    assert odd in read(out)["splits"]["lowres"]["identity_names"]
    (tree / f"lowres/l000/{odd}.jpg").unlink()
    (tree / f"lowres/{odd}/0.jpg").touch()
    shutil.copy(tree / "lowres/l002/0.jpg", tree / f"lowres/l002/{odd}.jpg")
    assert run(tree, out).shards["lowres"].why == "files: 1 added, 1 removed, 1 changed"


def test_different_names_stay_different_on_one_line():
    names = ["a\nb", "a\\nb", "a\\u000ab", "a\\\nb", "plain é"]
    shown = [one_line(name) for name in names]
    assert len(set(shown)) == len(names) and shown[-1] == names[-1] and all(line.isprintable() for line in shown)
