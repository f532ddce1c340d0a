"""Readers of public test sets on miniature trees in the published layouts, and what another layout is told."""

import pickle
import tracemalloc

import numpy as np
import pytest

from hrfr_fast.evaluation.protocols import MODULES, protocol_at, protocol_named
from hrfr_fast.evaluation.protocols.form import PictureFiles
from hrfr_fast.evaluation.protocols.listed import require_pictures
from hrfr_fast.evaluation.protocols.pair_names import read_pair_list
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.runtime.errors import UsageError
from tests.picture_trees import jpeg, picture

PEOPLE = {"Ann_Lee": 3, "Bo": 2, "Cy_de_la_Cruz": 1}


def people(folder, suffix=".jpg", names=PEOPLE):
    """``<name>/<name>_0001.jpg``; the picture of each person and number is another one."""
    for at, (name, count) in enumerate(names.items()):
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / name / f"{name}_{number:04d}{suffix}").write_bytes(jpeg(picture(10 * at + number, 112)))
    return folder


def read(place, protocol=None, pictures=None):
    return protocol_at(protocol, place).read(place, pictures)


def names_of(test_set, numbers):
    return [test_set.pictures.source.name(number).rpartition("/")[2] for number in numbers.tolist()]


LINES = ["Ann_Lee\t1\t3", "Ann_Lee 1 Bo 2", "Bo\t2\t1", "Cy_de_la_Cruz  1\tAnn_Lee 2"]


@pytest.mark.parametrize("where", ["beside", "below", "given"])
@pytest.mark.parametrize("first_line, suffix", [("2\t1\n", ".jpg"), ("2\n", ".PNG"), ("", ".jpeg")])
def test_lists_of_names(tmp_path, where, first_line, suffix):
    folder = {"beside": tmp_path, "below": tmp_path / "lfw-deepfunneled", "given": tmp_path / "a" / "b"}[where]
    people(folder, suffix)
    (tmp_path / "pairs.txt").write_text(first_line + "\r\n".join(LINES) + "\n\n", encoding="utf-8")
    (test_set,) = read(tmp_path, pictures=folder if where == "given" else None)
    (pairs,) = test_set.verification
    assert test_set.name == "lfw" and pairs.same.tolist() == [True, False, True, False]
    left, right = names_of(test_set, pairs.first), names_of(test_set, pairs.second)
    assert left == [f"{name}{suffix}" for name in ("Ann_Lee_0001", "Ann_Lee_0001", "Bo_0002", "Cy_de_la_Cruz_0001")]
    assert right == [f"{name}{suffix}" for name in ("Ann_Lee_0003", "Bo_0002", "Bo_0001", "Ann_Lee_0002")]
    assert len(test_set.pictures) == 6  # each picture once, however many pairs it is in
    assert test_set.pictures.source.read(int(pairs.first[2])) == jpeg(picture(12, 112))
    subjects = test_set.pictures.subjects
    assert ((subjects[pairs.first] == subjects[pairs.second]) == pairs.same).all()
    assert pairs.folds.tolist() == ([0, 0, 1, 1] if first_line == "2\t1\n" else [0, 1, 2, 3])


WRONG_LISTS = {
    "a line of two fields": ("2 1\n" + "\n".join(LINES[:3]) + "\nBo 1\n", "line 5: 2 fields"),
    "a number that is none": ("Ann_Lee 1 one\n", "line 1: 'one' is no number"),
    "fewer pairs than promised": ("10 300\n" + "\n".join(LINES), "4 pairs, its first line promises 6,000"),
    "a name that leads out": ("../../etc 1 2\n", "cannot be the name of a folder"),
    "no pairs": ("10 0\n", "no pairs"),
    "an empty file": ("", "no pairs"),
    "a picture that is missing": ("\n".join([*LINES, "Bo 1 7", "Dee 1 2"]), "3 of 9 pictures are missing: Bo/Bo_0007"),
}


@pytest.mark.parametrize("name", WRONG_LISTS)
def test_a_wrong_list_is_refused_with_its_line(name, tmp_path):
    content, message = WRONG_LISTS[name]
    people(tmp_path)
    (tmp_path / "pairs.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        read(tmp_path, "lfw")


def test_the_folder_of_pictures_is_unambiguous(tmp_path):
    (tmp_path / "pairs.txt").write_text("Bo 1 2\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no folder Bo in it, nor one level below; say with --pictures"):
        read(tmp_path)
    people(tmp_path / "lfw"), people(tmp_path / "lfw_funneled")
    with pytest.raises(UsageError, match="several folders hold the people of pairs.txt"):
        read(tmp_path)
    with pytest.raises(UsageError, match="it has no folder Bo"):
        read(tmp_path, pictures=tmp_path)


def test_lines_behind_the_first_that_is_no_pair_are_not_taken_apart(tmp_path):
    """All of them, short as they were, took 126 times the bytes of the file."""
    content = b"Ann\n" * 200_000
    (tmp_path / "pairs.txt").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="line 1: 'Ann' is no number"):
            read_pair_list(tmp_path / "pairs.txt")
        assert tracemalloc.get_traced_memory()[1] < 40 * len(content)
    finally:
        tracemalloc.stop()


def test_xqlfw_has_a_list_of_its_own(tmp_path):
    people(tmp_path / "lfw_original_imgs_min_qual0.85variant11")
    (tmp_path / "xqlfw_pairs.txt").write_text("2 1\n" + "\n".join(LINES), encoding="utf-8")
    (test_set,) = read(tmp_path)
    assert test_set.name == "xqlfw" and len(test_set.verification[0]) == 4


def test_groups_of_people(tmp_path):
    """RFW: the same number is another person in another group."""
    for group in ("African", "Indian"):
        people(tmp_path / "data" / group, names={"m.01": 2, "m.02": 2})
        (tmp_path / "txts" / group).mkdir(parents=True)
        lines = "m.01\t1\t2\nm.02\t1\t2\nm.01\t1\tm.02\t2\n"
        (tmp_path / "txts" / group / f"{group}_pairs.txt").write_text(lines, encoding="utf-8")
    (test_set,) = read(tmp_path)
    (pairs,) = test_set.verification
    assert pairs.group_names == ("African", "Indian") and pairs.groups.tolist() == [0, 0, 0, 1, 1, 1]
    assert pairs.same.tolist() == [True, True, False] * 2 and pairs.folds.tolist() == [0, 1, 2] * 2
    assert len(test_set.pictures) == 8 and len(np.unique(test_set.pictures.subjects)) == 4
    assert test_set.pictures.source.name(int(pairs.second[5])).endswith("data/Indian/m.02/m.02_0002.jpg")
    (tmp_path / "data" / "Indian").rename(tmp_path / "data" / "other")
    with pytest.raises(UsageError, match="data/Indian: no such folder of pictures"):
        read(tmp_path)


def test_bin_files_of_a_folder(tmp_path):
    encoded = [jpeg(picture(number, 112)) for number in range(40)]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((encoded, [True, False] * 10), 2))
    arrays = [np.frombuffer(one, np.uint8) for one in encoded]
    (tmp_path / "cfp_fp.bin").write_bytes(pickle.dumps([arrays, np.array([True, False] * 10)], 4))
    first, second = read(tmp_path)
    assert [first.name, second.name] == ["cfp_fp", "lfw"]
    for test_set in (first, second):
        (pairs,) = test_set.verification
        assert [test_set.pictures.source.read(number) for number in range(40)] == encoded
        assert pairs.first.tolist() == list(range(0, 40, 2)) and pairs.second.tolist() == list(range(1, 40, 2))
        assert pairs.same.tolist() == [True, False] * 10 and test_set.pictures.subjects is None
        assert pairs.folds.tolist() == sorted([*range(10)] * 2)
    (single,) = read(tmp_path / "lfw.bin")
    assert single.name == "lfw"


def test_a_picture_of_several_pairs_is_embedded_once(tmp_path):
    (tmp_path / "a.bin").write_bytes(pickle.dumps(([b"a", b"b", b"a", b"c", b"c", b"a"], [True, False, True])))
    (test_set,) = read(tmp_path)
    (pairs,) = test_set.verification
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 0, 2], [1, 2, 0])
    source = test_set.pictures.source
    assert [source.read(number) for number in range(3)] == [b"a", b"b", b"c"]
    assert source.name(2).endswith("a.bin, picture 3")


WRONG_BINS = {
    "too few pictures": ((["a"], [True]), "1 pictures for 1 labels"),
    "no pairs": (([], []), "0 pictures for 0 labels"),
    "three things": (([b"a"], [True], [b"b"]), "does not hold two lists"),
    "a number alone": (5, "does not hold two lists"),
    "a label of two": (([b"a", b"b"], [2]), "label 0 is no boolean but int"),
    "a label of text": (([b"a", b"b"], ["True"]), "label 0 is no boolean but str"),
    "pixels in place of files": (([np.zeros((4, 4, 3), np.uint8)] * 2, [True]), r"picture 0 .* shape \(4, 4, 3\)"),
    "names in place of files": ((["a.jpg", "b.jpg"], [True]), "picture 0 is no encoded picture but str"),
}


@pytest.mark.parametrize("name", WRONG_BINS)
def test_a_bin_file_that_is_none(name, tmp_path):
    content, message = WRONG_BINS[name]
    (tmp_path / "a.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "a.bin")


def test_another_layout_is_told_what_is_expected_and_what_is_there(tmp_path):
    (tmp_path / "readme.txt").write_text("", encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for name in MODULES:
        with pytest.raises(UsageError) as refused:
            read(tmp_path, name)
        assert protocol_named(name).LAYOUT in str(refused.value)
        assert "there is pictures/, readme.txt" in str(refused.value)
    with pytest.raises(UsageError, match="has no protocol's layout"):
        read(tmp_path)
    with pytest.raises(UsageError, match="no protocol 'lwf'; there are bin, "):
        read(tmp_path, "lwf")
    with pytest.raises(UsageError, match="no such file or folder"):
        read(tmp_path / "nothing")
    with pytest.raises(UsageError, match="it is a file"):
        read(tmp_path / "readme.txt", "bin")


@pytest.mark.parametrize("name", MODULES)
def test_a_protocol_says_what_it_is(name):
    protocol = protocol_named(name)
    assert name == protocol.NAME and protocol.TITLE and protocol.LAYOUT


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "a\0b"])
def test_a_name_from_a_list_never_leads_out_of_the_folder(path, tmp_path):
    with pytest.raises(Rejected, match="leads out"):
        PictureFiles(tmp_path, [path]).read(0)


@pytest.mark.parametrize("name", ["a" * 300 + ".jpg", "a/" + "b" * 300 + ".jpg"])
def test_listed_names_that_no_file_can_have_are_missing(tmp_path, name):
    (tmp_path / "faces").mkdir()
    with pytest.raises(UsageError, match="1 of 1 pictures that list.txt lists are missing"):
        require_pictures(tmp_path, "faces", [name], tmp_path / "list.txt")
