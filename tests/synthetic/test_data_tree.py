import json

import cv2
import numpy as np
import pytest

from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import Interrupted, UsageError
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.synthetic import chunks, data_tree, faces
from hrfr_fast.synthetic.data_tree import synthesize
from hrfr_fast.synthetic.packed import synthesize_packed
from hrfr_fast.synthetic.pairs import choose_pairs
from hrfr_fast.synthetic.scales import SCALES
from hrfr_fast.synthetic.traits import Identity, Strengths, draw_identity

bcolz, simplejpeg = pytest.importorskip("bcolz"), pytest.importorskip("simplejpeg")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "data"
    synthesize(root, "tiny", seed=5, workers=1, show_progress=False)
    return root


def content(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_workers_do_not_change_a_byte(tree, tmp_path):
    synthesize(tmp_path / "two", "tiny", seed=5, workers=2, show_progress=False)
    assert content(tree) == content(tmp_path / "two")


def test_another_seed_makes_other_people():
    a, b = (faces.render(seed, 0, 0, np.arange(2), 36)[0].astype(int) for seed in (0, 1))
    assert np.abs(a - b).mean() > 5


def test_a_picture_is_the_same_whatever_is_rendered_with_it():
    together, alone = faces.render(3, 1, 7, np.arange(4), 144)[0], faces.render(3, 1, 7, np.array([2]), 144)[0]
    np.testing.assert_array_equal(together[2], alone[0])


def test_counts_and_sizes(tree):
    for name, spec in SCALES["tiny"].splits().items():
        people = sorted((tree / name).iterdir())
        assert len(people) == spec.identities
        for person in people:
            files = sorted(person.iterdir())
            assert len(files) == spec.pictures
            assert simplejpeg.decode_jpeg(files[0].read_bytes()).shape == (spec.size, spec.size, 3)
    assert not (tree / ".partial").exists()


def test_no_identity_and_no_picture_is_in_two_splits(tree):
    names = [p.name for split in SCALES["tiny"].splits() for p in (tree / split).iterdir()]
    assert len(names) == len(set(names))
    pictures = [data for name, data in content(tree).items() if name.endswith(".jpg")]
    assert len(pictures) == len(set(pictures))


def test_pairs_are_eval_pictures_and_say_truly_who_is_one_person(tree):
    array = bcolz.open(str(tree / "hres_eval_pairs" / "hres"), mode="r")
    same = np.load(tree / "hres_eval_pairs" / "hres_list.npy", allow_pickle=False)
    assert array.shape == (80, 3, 144, 144) and array.dtype == np.float32
    assert same.dtype == bool and same.sum() == 20 and len(same) == 40
    owner = {
        simplejpeg.decode_jpeg(p.read_bytes(), colorspace="BGR").tobytes(): p
        for p in (tree / "highres_eval").glob("*/*.jpg")
    }
    pixels = np.rint(array[:] * 127.5 + 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    files = [owner[picture.tobytes()] for picture in pixels]
    for first, second, genuine in zip(files[::2], files[1::2], same, strict=True):
        assert first != second
        assert (first.parent == second.parent) == genuine


@pytest.mark.parametrize("scale", SCALES)
def test_no_pair_occurs_twice(scale):
    table = SCALES[scale]
    pairs = choose_pairs(table, seed=2)
    pictures = np.sort(pairs.identities * table.highres_eval[1] + pairs.pictures, axis=1)
    assert pairs.same.sum() == table.pairs // 2 == len(pairs.same) / 2
    assert len(np.unique(pictures, axis=0)) == table.pairs
    assert ((pairs.identities[:, 0] == pairs.identities[:, 1]) == pairs.same).all()
    assert pairs.identities.max() < table.highres_eval[0] and pairs.pictures.max() < table.highres_eval[1]


def test_low_resolution_loses_the_fine_detail():
    """One person with another's moles, freckles, wrinkles and strands: told apart at 144 px, hardly at 36 px."""
    quiet = Strengths(noise=0.0, blur=0.0, glasses=0.0)
    ratios = []
    for identity in range(6):
        person = draw_identity(0, 1, identity, quiet)
        other = Identity(person.traits, draw_identity(0, 1, identity + 50, quiet).fine)
        high = [faces.render(0, 1, identity, np.arange(2), 144, quiet, p)[0] for p in (person, other)]
        low = [np.stack([cv2.resize(x, (36, 36), interpolation=cv2.INTER_AREA) for x in h]) for h in high]
        far, near = (np.square(a.astype(float) - b).mean() for a, b in (high, low))
        direct = [faces.render(0, 1, identity, np.arange(2), 36, quiet, p)[0].astype(float) for p in (person, other)]
        assert np.abs(high[0].astype(int) - high[1]).max() > 40
        assert np.abs(direct[0] - direct[1]).mean() < 3
        ratios.append(near / far)
    assert np.mean(ratios) < 0.5


def test_raw_pixels_do_not_verify():
    """Comparing pixels must stay far below what a trained network reaches."""
    people = (
        np.stack([faces.render(0, 2, i, np.arange(2), 36)[0] for i in range(150)]).reshape(150, 2, -1).astype(float)
    )
    people -= people.mean((0, 1))
    people /= np.linalg.norm(people, axis=-1, keepdims=True)
    genuine = (people[:, 0] * people[:, 1]).sum(-1)
    impostor = (people[:, 0] * np.roll(people[:, 1], 1, axis=0)).sum(-1)
    best = max(((genuine >= t).mean() + (impostor < t).mean()) / 2 for t in np.concatenate([genuine, impostor]))
    assert 0.5 < best < 0.72


def test_a_stopped_run_continues_to_the_same_tree(tree, tmp_path, monkeypatch):
    stop, written = StopFlag(), []
    write = data_tree._write_chunk

    def stop_after_the_second(root, chunk):
        written.append(chunk)
        if len(written) == 2:
            stop.signal_number = 15
        return write(root, chunk)

    monkeypatch.setitem(chunks.CHUNK_PICTURES, 36, 24)
    monkeypatch.setattr(data_tree, "_write_chunk", stop_after_the_second)
    with pytest.raises(Interrupted) as raised:
        synthesize(tmp_path / "d", "tiny", seed=5, workers=1, show_progress=False, stop=stop)
    assert raised.value.exit_code == 143
    assert len(list((tmp_path / "d" / "lowres").iterdir())) == 8
    with pytest.raises(UsageError, match="incomplete: `hrfr-fast synth` was interrupted"):
        pack(tmp_path / "d", tmp_path / "p", workers=1, show_progress=False)
    synthesize(tmp_path / "d", "tiny", seed=5, workers=1, show_progress=False)
    assert not {i for chunk in written[:2] for i in chunk.identities} & {i for c in written[2:6] for i in c.identities}
    assert content(tree) == content(tmp_path / "d")


def test_what_is_not_ours_is_refused(tree, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(UsageError, match="not empty"):
        synthesize(tmp_path, "tiny", show_progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]
    before = content(tree)
    with pytest.raises(UsageError, match="other settings"):
        synthesize(tree, "tiny", seed=6, show_progress=False)
    assert content(tree) == before


@pytest.mark.parametrize("wrong", [{"scale": "huge"}, {"seed": -1}, {"workers": -1}])
def test_wrong_settings_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        synthesize(tmp_path / "d", **{"scale": "tiny", "show_progress": False, **wrong})


def test_packed_straight_away_equals_the_packed_tree(tree, tmp_path):
    synthesize_packed(tmp_path / "straight", "tiny", seed=5, workers=1, show_progress=False)
    pack(tree, tmp_path / "packed", encoding="raw", workers=1, show_progress=False)
    straight, packed = open_packed(tmp_path / "straight"), open_packed(tmp_path / "packed")
    for name, split in packed.splits.items():
        records = np.arange(split.samples)
        np.testing.assert_array_equal(split.read(records), straight.splits[name].read(records))
        np.testing.assert_array_equal(split.labels, straight.splits[name].labels)
        assert split.identity_names == straight.splits[name].identity_names
        assert not len(straight.splits[name].verify())
    ours, theirs = straight.pairs["hres"], packed.pairs["hres"]
    np.testing.assert_array_equal(ours.split.read(np.arange(80)), theirs.split.read(np.arange(80)))
    np.testing.assert_array_equal(ours.same, theirs.same)
    assert ours.identity_coverage == theirs.identity_coverage == 1.0
    first, second = ours.identities[::2], ours.identities[1::2]
    np.testing.assert_array_equal(first == second, ours.same)
    marker = json.loads((tmp_path / "straight" / "synth.json").read_bytes())
    assert marker["packed"] and marker["seed"] == 5
