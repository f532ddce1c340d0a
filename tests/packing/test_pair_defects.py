"""What makes an accuracy mean something else is counted and told: wrong labels, pictures twice, training pictures."""

import json
import shutil
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from pair_cases import eval_pictures, run, write_bcolz, write_csv

from hrfr_fast.evaluation.bootstrap import accuracy_interval
from hrfr_fast.format.pair_defects import PairDefects, pair_warnings
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack_pairs
from hrfr_fast.packing.pair_identities import look_up


def face(identity, number=0):
    return f"../highres_eval/e{identity:03d}/{number}.jpg"


def listed(*pairs):
    return [f"{a},{b},{int(same)}" for a, b, same in pairs]


def copies(tree):
    """The first face of e000 again: its bytes, its pixels, its mirror image and its colours exchanged."""
    folder = tree / "highres_eval/e000"
    image = cv2.imread(str(folder / "0.jpg"))
    (tree / "copies").mkdir()
    shutil.copy(folder / "0.jpg", tree / "copies/bytes.jpg")
    for name, pixels in (("pixels", image), ("mirror", image[:, ::-1]), ("exchanged", image[..., ::-1])):
        cv2.imwrite(str(tree / f"copies/{name}.png"), pixels)


A, B, C = face(0), face(0, 1), face(1)
CASES = {
    "all well": ([(A, B, 1), (A, C, 0)], {}, ""),
    "labelled same, known to differ": ([(A, B, 1), (A, C, 1)], {"same_known_different": 1}, "show two identities"),
    "labelled different, one person": ([(A, B, 0), (A, C, 0)], {"different_known_same": 1}, "show one identity"),
    "a picture with itself": ([(A, A, 1), (A, C, 0)], {"identical_genuine": 1}, "1 of its 1 pairs labelled same"),
    "its bytes": ([(A, "../copies/bytes.jpg", 1)], {"identical_genuine": 1}, "one picture twice"),
    "its pixels": ([(A, "../copies/pixels.png", 1)], {"identical_genuine": 1}, "one picture twice"),
    "its mirror image": ([(A, "../copies/mirror.png", 1)], {"identical_genuine": 1}, "or its mirror image"),
    "with itself, labelled different": ([(A, A, 0)], {"identical_impostor": 1}, "no model can decide them"),
    "a pair again": ([(A, B, 1), (A, C, 0), (A, B, 1)], {"repeated": 1}, "repeat an earlier pair"),
    "a pair again, turned": ([(A, B, 1), (B, A, 1)], {"repeated": 1}, "in either order"),
    "a missing picture": ([(A, B, 1), (A, "missing.jpg", 0)], {"left_out": 1}, "1 listed pairs are left out"),
    "colours exchanged": ([("../copies/exchanged.png", C, 0)], {"swapped_channels": 1}, "red and blue exchanged"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_defect_is_counted_and_warned_about(tree, tmp_path, name):
    pairs, counts, warning = CASES[name]
    if "copies" in str(pairs):
        copies(tree)
    write_csv(tree, listed(*pairs))
    summary = run(tree, tmp_path / "out")
    packed = open_packed(tmp_path / "out").pairs["list"]
    none = {"identity_overlap": {"highres": 0}, "name_overlap": {"highres": 0}}
    assert asdict(packed.defects) == asdict(PairDefects(**counts, **none))
    assert [warning in line for line in pair_warnings(packed)] == [True] * len(counts)
    assert summary.warnings == [f"pair set list: {line}" for line in pair_warnings(packed)]


def test_labels_that_contradict_each_other_are_counted_without_known_identities(tree, tmp_path):
    write_csv(tree, listed((A, B, 1), (B, C, 1), (A, C, 0), (face(2), face(3), 1), (face(3), face(2), 0)))
    pack_pairs(tree, tmp_path / "out", workers=1)
    defects = open_packed(tmp_path / "out").pairs["list"].defects
    assert (defects.labels_disagree, defects.repeated, defects.same_known_different) == (2, 1, 0)


def test_a_label_does_not_tell_who_an_unknown_picture_is_once_it_is_known(tree, tmp_path, make_picture):
    """A stranger labelled as e000 is e000; labelled as e001 as well, that is one label too many."""
    run(tree, tmp_path / "plain")
    known, _ = eval_pictures(tmp_path / "plain")
    stranger = make_picture(7000, 144)
    write_bcolz(tree, np.stack([known[0], stranger, stranger, known[3], known[3], known[4]]), [True] * 3)
    run(tree, tmp_path / "out")
    pairs = open_packed(tmp_path / "out").pairs["hres"]
    assert pairs.identities.tolist() == [0, 0, 0, 1, 1, 1] and pairs.defects.same_known_different == 1


def test_wrong_genuine_labels_merge_nobody_and_the_interval_stays_right(tiny_tree, tmp_path):
    """Eleven wrong pairs chain twelve people; the interval is that of the people, as with right labels."""
    tree = tmp_path / "data"
    shutil.copytree(tiny_tree / "highres_eval", tree / "highres_eval")
    people = sorted(path.name for path in (tree / "highres_eval").iterdir())
    picture = [[f"../highres_eval/{name}/{n:03d}.jpg" for n in range(3)] for name in people]
    genuine = [(one[a], one[b], 1) for one in picture for a, b in ((0, 1), (0, 2), (1, 2))]
    impostor = [(picture[i][n], picture[(i + 1 + n) % 12][n], 0) for i in range(12) for n in range(3)]
    wrong = [(picture[i][0], picture[i + 1][1], 1) for i in range(11)]
    write_csv(tree, listed(*genuine, *impostor), "right")
    write_csv(tree, listed(*genuine, *impostor, *wrong), "wrong")
    summary = run(tree, tmp_path / "out")
    packed = open_packed(tmp_path / "out")
    assert summary.warnings == ["pair set wrong: " + line for line in pair_warnings(packed.pairs["wrong"])]
    assert len(summary.warnings) == 1 and "11 of its pairs are labelled same" in summary.warnings[0]
    widths = {}
    for name, pairs in packed.pairs.items():
        of_name = {person: i for i, person in enumerate(people)}
        lines = [*genuine, *impostor, *wrong][: len(pairs)]
        truth = [of_name[path.split("/")[2]] for line in lines for path in line[:2]]
        assert len(np.unique(pairs.identities)) == 12
        assert len({*zip(pairs.identities.tolist(), truth, strict=True)}) == 12, "one cluster is one person"
        hard = np.arange(12) % 3 == 0  # whoever meets one of these is decided wrongly
        decided = ~hard[np.array(truth).reshape(-1, 2)].any(axis=1)
        low, high = accuracy_interval(decided.astype(float), pairs.same, pairs.identities)
        widths[name] = high - low
    assert widths["wrong"] == pytest.approx(widths["right"], rel=0.25) and widths["wrong"] > 0.2


def test_development_pairs_of_a_picture_that_is_there_more_than_once(tree, tmp_path):
    for path in (tree / "lowres").rglob("[1-3].jpg"):
        shutil.copy(path.with_name("0.jpg"), path)
    summary = run(tree, tmp_path / "out", dev_identities=3)
    defects = open_packed(tmp_path / "out").pairs["dev-lowres"].defects
    assert defects.identical_genuine > 0 and defects.same_known_different == defects.labels_disagree == 0
    assert any("pair set dev-lowres" in line and "one picture twice" in line for line in summary.warnings)


def test_training_pictures_are_known_by_their_place_where_pixels_cannot_tell(tree, tmp_path):
    """As JPEG a split holds other pixels than its PNG files, which the pairs hold."""
    for path in sorted((tree / "highres").rglob("*.jpg")):
        cv2.imwrite(str(path.with_suffix(".png")), cv2.imread(str(path)))
        path.unlink()
    train = "../highres/h000/0.png,../highres/h000/1.png,1"
    write_csv(tree, [train, *listed((A, B, 1), (A, C, 0))])
    run(tree, tmp_path / "out", encoding="jpeg")
    pairs = open_packed(tmp_path / "out").pairs["list"]
    assert pairs.overlap == {"highres": 2} and pairs.identity_coverage == 1.0


def test_people_of_training_on_other_pictures(tree, tmp_path, make_picture):
    """Linked to a training picture by a label, or in a folder named like a training identity."""
    other = tree / "hres_eval_pairs/faces/h001"
    other.mkdir(parents=True)
    cv2.imwrite(str(other / "new.png"), make_picture(8000, 144))
    cv2.imwrite(str(other.parent / "new.png"), make_picture(8001, 144))
    write_csv(tree, ["../highres/h000/0.jpg,faces/new.png,1", f"faces/h001/new.png,{A},0"])
    summary = run(tree, tmp_path / "out")
    pairs = open_packed(tmp_path / "out").pairs["list"]
    assert pairs.overlap == {"highres": 1} and pairs.defects.identity_overlap == {"highres": 2}
    assert pairs.defects.name_overlap == {"highres": 1}
    assert "1 of its 4 pictures are also in the training split highres, 2 show its identities" in summary.warnings[0]
    assert "1 of its pictures lie in folders named like identities of the training split" in summary.warnings[1]


def test_pairs_of_another_pack_are_looked_up_among_what_was_trained_on(tree, tmp_path):
    run(tree, tmp_path / "trained")
    shutil.move(tree / "highres/h000", tree / "highres_eval/x000")
    write_csv(tree, ["../highres_eval/x000/0.jpg,../highres_eval/x000/1.jpg,1", *listed((A, B, 1), (A, C, 0))])
    run(tree, tmp_path / "other", dev_identities=2)
    trained, other = open_packed(tmp_path / "trained"), open_packed(tmp_path / "other")
    assert other.pairs["list"].overlap == {"highres": 0}
    pairs = look_up(other.pairs["list"], trained.splits)
    assert pairs.overlap == {"highres": 2} and pairs.identities.tolist() == other.pairs["list"].identities.tolist()
    held_out_elsewhere = look_up(other.pairs["dev-highres"], trained.splits)
    assert held_out_elsewhere.overlap == {"highres": held_out_elsewhere.split.samples}
    assert held_out_elsewhere.identities is not None


def test_a_pack_of_an_earlier_version_is_looked_through_without_packing_again(tree, tmp_path):
    write_csv(tree, listed((A, A, 1), (A, C, 0)))
    run(tree, tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    content = json.loads(path.read_text())
    del content["pairs"]["list"]["defects"], content["checksum"]
    path.write_text(json.dumps(content))
    assert open_packed(tmp_path / "out").pairs["list"].defects == PairDefects()
    summary = run(tree, tmp_path / "out")
    assert not summary.nothing_to_do and {shard.action for shard in summary.shards.values()} == {"unchanged"}
    assert open_packed(tmp_path / "out").pairs["list"].defects.identical_genuine == 1
    assert run(tree, tmp_path / "out").nothing_to_do
