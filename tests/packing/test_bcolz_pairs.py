"""bcolz carrays of pairs: exact pixels, or an error with the reason."""

import json
import os

import numpy as np
import pytest
from pair_cases import eval_pictures, rejections, run, write_bcolz

from hrfr_fast.format.manifest import repair
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.sources.bcolz_pairs import BcolzPairs
from hrfr_fast.runtime.errors import UsageError

CONVENTIONS = {
    "documented": (lambda p: p / 127.5 - 1, np.float32),
    "divided by 128": (lambda p: (p - 127.5) / 128, np.float32),
    "float16": (lambda p: p / 127.5 - 1, np.float16),
    "float64 divided by 128": (lambda p: (p - 127.5) / 128, np.float64),
    "bytes": (lambda p: p, np.uint8),
}
UNKNOWN_CONVENTIONS = {
    "0..1": (lambda p: p / 255, np.float32, "values 0..1 do not become whole levels"),
    "0..255 as floats": (lambda p: p, np.float32, "values 0..255 do not become whole levels"),
    "ImageNet's mean and deviation": (lambda p: (p / 255 - 0.45) / 0.225, np.float32, "do not become whole levels"),
    "no whole levels": (lambda p: np.clip(p + 0.4, 0, 255) / 127.5 - 1, np.float32, "do not become whole levels"),
    "integers": (lambda p: p, np.int32, "expected float16, float32, float64 or uint8"),
    "channels last": (lambda p: np.moveaxis(p / 127.5 - 1, 1, 3), np.float32, "channels come before rows"),
}


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_bcolz_set_comes_back_exactly(tree, tmp_path, make_picture, name, encoding):
    convert, dtype = CONVENTIONS[name]
    pictures = np.stack([make_picture(9000 + i, 144) for i in range(10)])
    write_bcolz(tree, pictures, [True, False, True, False, True], convert=convert, dtype=dtype)
    run(tree, tmp_path / "out", encoding=encoding)
    pairs = open_packed(tmp_path / "out").pairs["hres"]
    assert (pairs.split.read(np.arange(10)) == pictures).all() and pairs.split.encoding == "raw"
    assert pairs.same.tolist() == [True, False, True, False, True]
    assert pairs.identities is None and pairs.identity_coverage == 0.0


@pytest.mark.parametrize("name", UNKNOWN_CONVENTIONS)
def test_values_of_another_convention_are_refused_before_anything_is_packed(tree, tmp_path, make_picture, name):
    convert, dtype, message = UNKNOWN_CONVENTIONS[name]
    pictures = np.stack([make_picture(9000 + i, 144) for i in range(4)])
    pictures[:, :8] = np.arange(2).reshape(2, 1, 1, 1).repeat(2, 0) * 255  # black and white are in every set of faces
    write_bcolz(tree, pictures, [True, False], convert=convert, dtype=dtype)
    with pytest.raises(UsageError, match=message):
        run(tree, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.beton"))


def test_a_picture_whose_values_are_no_whole_levels_loses_its_pair(tree, tmp_path, make_picture):
    pictures = np.stack([make_picture(9000 + i, 144) for i in range(6)])

    def convert(values):
        values[3] += 0.4
        return values / 127.5 - 1

    write_bcolz(tree, np.minimum(pictures, 254), [1, 1, 0], convert=convert)
    run(tree, tmp_path / "out")
    assert open_packed(tmp_path / "out").pairs["hres"].split.samples == 4
    assert "away from a whole level" in rejections(tmp_path / "out")[0]["reason"]


def test_channels_in_the_other_order_are_refused_and_read_rightly_with_the_option(tree, tmp_path):
    run(tree, tmp_path / "plain")
    known, _ = eval_pictures(tmp_path / "plain")
    write_bcolz(tree, known, [True, False, True] * 2, "usual")
    write_bcolz(tree, known[..., ::-1], [True, False, True] * 2, "other")
    with pytest.raises(UsageError, match="read as RGB, 12 of its 12 .* --carray-channels other=rgb"):
        run(tree, tmp_path / "out")
    run(tree, tmp_path / "out", carray_channels={"other": "rgb"})
    packed = open_packed(tmp_path / "out")
    for name, channels in (("other", "rgb"), ("usual", "bgr")):
        assert (packed.pairs[name].split.read(np.arange(12)) == known).all()
        assert packed.pairs[name].identity_coverage == 1.0
        assert packed.manifest["pairs"][name]["source"]["channels"] == channels
    assert run(tree, tmp_path / "out", carray_channels={"other": "rgb"}).nothing_to_do
    assert "--carray-channels other=rgb`" in repair(tmp_path / "out"), "or the repair would read it in the other order"
    with pytest.raises(
        UsageError, match="--carray-channels list: no bcolz carray is called so; there are other, usual"
    ):
        run(tree, tmp_path / "out", carray_channels={"list": "rgb"})
    with pytest.raises(UsageError, match="choose bgr or rgb"):
        run(tree, tmp_path / "out", carray_channels="gbr")


def test_nan_and_out_of_range_values_lose_their_pair(tree, tmp_path, make_picture):
    pictures = np.stack([make_picture(i, 144) for i in range(6)])

    def convert(values):
        values = values / 127.5 - 1
        values[1, 0, 0, 0] = np.nan
        values[4, 2, 5, 5] = 1.5
        return values

    write_bcolz(tree, pictures, [1, 1, 0], convert=convert)
    run(tree, tmp_path / "out")
    pairs = open_packed(tmp_path / "out").pairs["hres"]
    assert (pairs.split.read([0, 1]) == pictures[2:4]).all() and pairs.split.samples == 2
    assert ["NaN" in rejections(tmp_path / "out")[0]["reason"], "outside" in rejections(tmp_path / "out")[1]["reason"]]


def test_a_missing_bcolz_block_loses_its_pairs_only(tree, tmp_path, make_picture):
    pictures = np.stack([make_picture(i, 144) for i in range(60)])
    write_bcolz(tree, pictures, [True] * 30)
    (tree / "hres_eval_pairs/hres/data/__19.blp").write_bytes(b"")
    run(tree, tmp_path / "out")
    pairs = open_packed(tmp_path / "out").pairs["hres"]
    assert 0 < pairs.split.samples < 60 and rejections(tmp_path / "out")
    assert (pairs.split.read(np.arange(8)) == pictures[:8]).all()


@pytest.mark.parametrize("blocks", [0, -1, "1", None, 1, 2, 5, 7, 60, 100, 10**7, 2**70], ids=str)
def test_another_number_of_pictures_a_block_is_refused(tree, make_picture, blocks):
    """bcolz divides by it without a look, and gives pictures from other places, or black ones, where it is wrong."""
    pictures = np.stack([make_picture(i, 16) for i in range(60)])
    write_bcolz(tree, pictures, [True] * 30)
    storage = tree / "hres_eval_pairs/hres/meta/storage"
    BcolzPairs("pairs-hres", storage.parents[1])
    storage.write_text(json.dumps(json.loads(storage.read_text()) | {"chunklen": blocks}))
    with pytest.raises(UsageError, match="chunklen is|blocks do not hold"):
        BcolzPairs("pairs-hres", storage.parents[1])


@pytest.mark.parametrize("name", ["hres_list.npy", "hres/meta/sizes", "hres/data/__0.blp"])
def test_a_named_pipe_in_an_array_is_refused_and_not_waited_for(tree, make_picture, name):
    write_bcolz(tree, np.stack([make_picture(i, 16) for i in range(4)]), [True] * 2)
    file = tree / "hres_eval_pairs" / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UsageError, match="a named pipe"):
        BcolzPairs("pairs-hres", tree / "hres_eval_pairs/hres")
