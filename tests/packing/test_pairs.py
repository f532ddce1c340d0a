import json
import shutil

import numpy as np
import pytest
from pair_cases import eval_pictures, rejections, run, write_bcolz, write_csv

from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.verify import check_packed
from hrfr_fast.packing.pack import pack_pairs
from hrfr_fast.runtime.errors import UsageError

LINES = [
    "../highres_eval/e000/0.jpg,../highres_eval/e000/1.jpg,1",
    "../highres_eval/e000/2.jpg,../highres_eval/e001/0.jpg,0",
    "../highres_eval/e002/0.jpg,../highres_eval/e003/1.jpg,0",
]


def test_a_csv_list_with_its_identities_recovered(tree, tmp_path):
    write_csv(tree, ["first,second,same", *LINES])
    run(tree, tmp_path / "out")
    pairs = open_packed(tmp_path / "out").pairs["list"]
    assert pairs.kind == "test" and pairs.same.tolist() == [True, False, False]
    assert pairs.identities.tolist() == [0, 0, 0, 1, 2, 3] and pairs.identity_coverage == 1.0
    assert pairs.overlap == {"highres": 0} and pairs.identities.dtype == np.int32
    pictures, _ = eval_pictures(tmp_path / "out")
    assert (pairs.split.read(np.arange(6)) == pictures[[0, 1, 2, 3, 6, 10]]).all()
    assert check_packed(tmp_path / "out") == []


def test_a_bad_picture_or_line_drops_its_pair_with_the_reason(tree, tmp_path):
    (tree / "highres_eval/e002/0.jpg").write_bytes(b"broken")
    write_csv(tree, [*LINES, "only,two", "../highres_eval/e000/0.jpg,missing.jpg,0", "a,b,maybe"])
    summary = run(tree, tmp_path / "out")
    assert open_packed(tmp_path / "out").pairs["list"].same.tolist() == [True, False]
    lines = [line for line in rejections(tmp_path / "out") if line["split"] == "pairs-list"]
    assert [line.get("pair", line.get("line")) for line in lines] == [2, 3, 4, 6]
    assert "No such file" in lines[1]["reason"] and "malformed line 4" in lines[2]["reason"]
    assert summary.rejected == 5  # the broken picture counts in its split, too
    run(tree, tmp_path / "two", workers=2)
    assert (tmp_path / "two/quarantine.jsonl").read_bytes() == (tmp_path / "out/quarantine.jsonl").read_bytes()


def test_pair_pictures_a_little_off_are_matched_and_genuine_pairs_link(tree, tmp_path, make_picture):
    run(tree, tmp_path / "plain")
    known, labels = eval_pictures(tmp_path / "plain")
    noise = np.random.default_rng(0).integers(-2, 3, known.shape)
    near = np.clip(known.astype(int) + noise, 0, 255).astype(np.uint8)
    far = known[6].copy()
    far[70, 70, 0] ^= 128  # one pixel is another: not the same picture
    strangers = [make_picture(7000 + i, 144) for i in range(3)]
    pictures = np.stack([near[0], strangers[0], near[3], near[4], far, strangers[1], strangers[0], strangers[2]])
    write_bcolz(tree, pictures, np.array([1, 1, 0, 0]))
    run(tree, tmp_path / "out")
    pairs = open_packed(tmp_path / "out").pairs["hres"]
    identities = pairs.identities.tolist()
    assert identities[0] == identities[1] == identities[6]  # by the genuine pair, and the same picture again
    assert identities[2] == identities[3] and len(set(identities)) == 5
    assert pairs.identity_coverage == 5 / 8


def test_overlap_with_training_is_recorded_and_warned_about(tree, tmp_path):
    write_csv(tree, ["../highres/h000/0.jpg,../highres/h000/1.jpg,1", *LINES[1:]])
    summary = run(tree, tmp_path / "out")
    assert open_packed(tmp_path / "out").pairs["list"].overlap == {"highres": 2}
    assert any("2 of its 6 pictures" in w for w in summary.warnings)
    again = run(tree, tmp_path / "out")
    assert again.nothing_to_do and again.warnings == summary.warnings


def pickled(tree):
    np.save(tree / "hres_eval_pairs/hres_list.npy", np.array([{}, {}], object), allow_pickle=True)


def edit_meta(tree, file, **values):
    path = tree / "hres_eval_pairs/hres/meta" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


BROKEN = {
    "pickled labels": (pickled, "labels of the pairs cannot be read"),
    "no labels": (lambda t: (t / "hres_eval_pairs/hres_list.npy").unlink(), "labels of the pairs cannot be read"),
    "labels of another length": (lambda t: np.save(t / "hres_eval_pairs/hres_list.npy", np.ones(3, bool)), "3 labels"),
    "labels no booleans": (lambda t: np.save(t / "hres_eval_pairs/hres_list.npy", np.array([1, 2])), "boolean"),
    "object dtype": (lambda t: edit_meta(t, "storage", dtype="object"), "expected float16, float32, float64 or uint8"),
    "shape": (lambda t: edit_meta(t, "sizes", shape=[4, 3, 144, 100]), "2P x 3 x S x S"),
    "meta no json": (lambda t: (t / "hres_eval_pairs/hres/meta/sizes").write_text("x"), "not a bcolz array"),
    "same name": (lambda t: write_csv(t, LINES, "hres"), "taken"),
    "odd name": (lambda t: write_csv(t, LINES, "a b"), "letters, digits"),
    "csv without a line": (lambda t: write_csv(t, ["nothing"], "list"), "no line of the form"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pair_set_is_a_usage_error(tree, tmp_path, make_picture, name):
    write_bcolz(tree, np.stack([make_picture(i, 144) for i in range(4)]), [True, False])
    break_it, message = BROKEN[name]
    break_it(tree)
    with pytest.raises(UsageError, match=message):
        run(tree, tmp_path / "out")


def test_development_identities_leave_training_and_make_pairs(tree, tmp_path):
    shutil.copy(tree / "lowres/l000/0.jpg", tree / "lowres/l000/copy.jpg")
    summary = run(tree, tmp_path / "out", dev_identities=3)
    packed = open_packed(tmp_path / "out")
    assert packed.splits["lowres"].identities == 9 and packed.splits["highres"].identities == 3
    assert packed.splits["highres_eval"].identities == 4
    for split, each in (("lowres", 6), ("highres", 3)):
        pairs = packed.pairs[f"dev-{split}"]
        assert pairs.kind == "development" and pairs.identity_coverage == 1.0
        assert pairs.same.sum() == 3 * each and (~pairs.same).sum() == 3 * each
        both = pairs.identities.reshape(-1, 2)
        assert ((both[:, 0] == both[:, 1]) == pairs.same).all() and len(np.unique(both)) == 3
        assert pairs.defects.repeated == 0
        trained = {p.tobytes() for p in packed.splits[split].read(np.arange(packed.splits[split].samples))}
        first = pairs.split.read(np.arange(pairs.split.samples))
        assert not {p.tobytes() for p in first} & trained
    assert run(tree, tmp_path / "out", dev_identities=3).nothing_to_do
    assert summary.shards["pairs-dev-lowres"].samples == 72
    again = run(tree, tmp_path / "out")
    assert open_packed(tmp_path / "out").splits["lowres"].identities == 12 and again.shards["lowres"].why
    assert not list((tmp_path / "out").glob("*dev*"))


def test_pair_sets_alone(tree, tmp_path):
    write_csv(tree, LINES)
    for name, folder in (("tree", tree), ("sets", tree / "hres_eval_pairs")):
        pack_pairs(folder, tmp_path / name, workers=1)
        packed = open_packed(tmp_path / name)
        assert packed.splits == {} and len(packed.pairs["list"]) == 3 and packed.pairs["list"].identities is None
    with pytest.raises(UsageError, match="no pair set"):
        pack_pairs(tree / "lowres", tmp_path / "none")
