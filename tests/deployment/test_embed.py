"""Embeddings of pictures in files: order, names, rejects, other sizes, and work that was stopped."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from model_cases import linear_onnx

from hrfr_fast.deployment import embed as embed_module
from hrfr_fast.deployment.embed import IncompleteEmbeddings, embed
from hrfr_fast.deployment.embeddings_file import read_embeddings
from hrfr_fast.deployment.unfinished import Unfinished
from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder, OnnxFlags
from hrfr_fast.format.reader import open_packed
from hrfr_fast.resampling.cpu import resample
from hrfr_fast.runtime.errors import Interrupted, StrictRefusal, UsageError
from hrfr_fast.sampling.augmentation import no_augmentation

cv2 = pytest.importorskip("cv2")
HALF = OnnxFlags(normalisation="0.5")


@pytest.fixture
def model(tmp_path):
    linear_onnx(tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def write(path, height=8, width=8, seed=0):
    """A PNG of noise, returned as uint8 [height, width, 3] RGB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[:, :, ::-1])
    return pixels


def folder_of(tmp_path, count=10):
    return np.stack([write(tmp_path / "faces" / f"p{i // 3}" / f"{i:02d}.png", seed=i) for i in range(count)])


def run(model, paths, out, **more):
    return embed(model, paths, out, device="cpu", show_progress=False, **{"flags": HALF, "batch_size": 4, **more})


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_order_and_names_are_those_of_the_sorted_folder(model, tmp_path, suffix):
    pixels = folder_of(tmp_path)
    (tmp_path / "faces" / "notes.txt").write_text("not a picture")
    result = run(model, [tmp_path / "faces"], tmp_path / f"e{suffix}")
    found = read_embeddings(tmp_path / f"e{suffix}")
    assert found.names == [str(tmp_path / "faces" / f"p{i // 3}" / f"{i:02d}.png") for i in range(10)]
    np.testing.assert_array_equal(found.rows, OnnxEmbedder(model, HALF).embed(pixels))
    assert (result.embedded, result.dimension, result.rejected, result.resampled) == (10, 5, {}, {})
    assert found.about["model"]["digest"] == OnnxEmbedder(model, HALF).digest
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"e{suffix}", "faces", "m.onnx"]


def test_the_npz_is_an_ordinary_one(model, tmp_path):
    folder_of(tmp_path, 3)
    run(model, [tmp_path / "faces"], tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as plain:
        assert plain["embeddings"].shape == (3, 5) and plain["names"][2].endswith("02.png")
        assert json.loads(str(plain["about"]))["model"]["input_size"] == 8


def test_other_sizes_are_resampled_by_the_one_definition_and_told(model, tmp_path):
    small, wide = write(tmp_path / "a.png", 12, 12), write(tmp_path / "b.png", 16, 20, seed=1)
    result = run(model, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "e.npz")
    expected = np.empty((2, 8, 8, 3), np.uint8)
    for row, square in enumerate((small, np.ascontiguousarray(wide[:, 2:18]))):
        resample(square.reshape(-1), np.zeros(1, np.int64), len(square), no_augmentation(1), expected[row : row + 1])
    np.testing.assert_array_equal(read_embeddings(tmp_path / "e.npz").rows, OnnxEmbedder(model, HALF).embed(expected))
    assert result.resampled == {"12x12": 1, "20x16": 1}
    assert "resampled to 8x8 px (centre squares): 1 of 12x12 px, 1 of 20x16 px" in result.lines()[1]


def test_pictures_that_are_none_have_no_row_and_are_listed(model, tmp_path):
    folder_of(tmp_path, 5)
    (tmp_path / "faces" / "p0" / "01.png").write_bytes(b"no picture")
    write(tmp_path / "faces" / "p9" / "tiny.png", 4, 4)
    write(tmp_path / "faces" / "p9" / "wide.png", 8, 30)
    result = run(model, [tmp_path / "faces"], tmp_path / "e.npz")
    assert [name[-6:] for name in read_embeddings(tmp_path / "e.npz").names] == ["00.png", "02.png", "03.png", "04.png"]
    lines = (tmp_path / "e.npz.rejected.txt").read_text().splitlines()
    assert len(lines) == 3 and lines[0].endswith("01.png\tnot a JPEG, PNG, WebP or BMP picture")
    assert "no face-sized picture: 4x4 pixels" in lines[1] and "30x8 pixels are far from a square" in lines[2]
    assert any("left out: " in line for line in result.lines())
    with pytest.raises(StrictRefusal, match="3 pictures rejected"):
        run(model, [tmp_path / "faces"], tmp_path / "e.npz", strict=True)


def test_a_folder_is_searched_as_pack_and_align_do(model, tmp_path):
    """Links to folders of people are followed, what macOS leaves is not seen, formats that are not read are told."""
    folder_of(tmp_path, 5)
    (tmp_path / "faces" / "p1" / "._03.png").write_bytes(b"of macOS")
    write(tmp_path / "faces" / ".thumbnails" / "03.png")
    (tmp_path / "faces" / "p1" / "x.heic").write_bytes(b"of a telephone")
    (tmp_path / "faces" / "p2").symlink_to("p0")
    result = run(model, [tmp_path / "faces"], tmp_path / "e.npz")
    assert [name[-9:] for name in read_embeddings(tmp_path / "e.npz").names] == [
        *(f"p0/{i:02d}.png" for i in range(3)), "p1/03.png", "p1/04.png", *(f"p2/{i:02d}.png" for i in range(3)),
    ]  # fmt: skip
    assert [name[-6:] for name in result.rejected] == ["x.heic"]


def test_files_that_cannot_be_read_end_in_an_error_after_all_others(model, tmp_path):
    folder_of(tmp_path, 3)
    os.symlink("nowhere", tmp_path / "faces" / "p0" / "link.png")
    with pytest.raises(IncompleteEmbeddings, match="1 file could not be read") as told:
        run(model, [tmp_path / "faces"], tmp_path / "e.npz")
    assert told.value.result.embedded == 3 and len(read_embeddings(tmp_path / "e.npz").names) == 3


class StopAfter:
    """A stop flag that is set after ``count`` looks."""

    signal_number = 15

    def __init__(self, count):
        self.left = count

    def __bool__(self):
        self.left -= 1
        return self.left < 0


def test_a_stopped_command_continues_with_what_is_left(model, tmp_path, monkeypatch):
    pixels = folder_of(tmp_path)
    (tmp_path / "faces" / "p0" / "00.png").write_bytes(b"no picture")
    arguments = (model, [tmp_path / "faces"], tmp_path / "e.npz")
    with pytest.raises(Interrupted, match="stopped after 8 of 10 pictures; the same command continues"):
        run(*arguments, stop=StopAfter(1))
    assert not (tmp_path / "e.npz").exists()
    embedded = []
    put = embed_module._Batch.put_into
    monkeypatch.setattr(
        embed_module._Batch,
        "put_into",
        lambda batch, *rest: (embedded.extend(batch.numbers.tolist()), put(batch, *rest)),
    )
    result = run(*arguments)
    assert embedded == [8, 9]
    np.testing.assert_allclose(
        read_embeddings(tmp_path / "e.npz").rows, OnnxEmbedder(model, HALF).embed(pixels[1:]), atol=1e-6
    )
    assert len(result.rejected) == 1 and not (tmp_path / "e.npz.partial").exists()


@pytest.mark.parametrize("change", ["pictures", "model"])
def test_unfinished_work_of_something_else_is_not_continued(model, tmp_path, change):
    folder_of(tmp_path)
    with pytest.raises(Interrupted):
        run(model, [tmp_path / "faces"], tmp_path / "e.npz", stop=StopAfter(0))
    flags = HALF
    if change == "pictures":
        write(tmp_path / "faces" / "p0" / "00.png", seed=99)
    else:
        flags = OnnxFlags(normalisation="imagenet")
    with pytest.raises(UsageError, match=f"holds unfinished embeddings of other {change}; .*rm -r"):
        run(model, [tmp_path / "faces"], tmp_path / "e.npz", flags=flags)


def test_what_a_killed_process_had_put_on_disk_counts(tmp_path):
    """Rows without a record of them are made again."""
    folder = tmp_path / "e.npz.partial"
    folder.mkdir()
    work = Unfinished(folder, {"pictures": "x", "model": 1}, 4, 2)
    work.rows[:2], work.status[:2], work.done = 7, 1, 2
    work.save()
    work.rows[2:], work.done = 9, 4
    del work
    again = Unfinished(folder, {"pictures": "x", "model": 1}, 4, 2)
    assert again.done == 2 and (again.rows[:2] == 7).all() and again.status.tolist()[:2] == [1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"done": 5}, {"done": -1}, {"done": "x"}, {"reasons": {"a": "b"}}, {"reasons": []}, {"resampled": 3},
        {"belongs_to": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_of_unfinished_work_begins_it_anew(tmp_path, change):
    folder = tmp_path / "e.npz.partial"
    folder.mkdir()
    work = Unfinished(folder, {"pictures": "x"}, 4, 2)
    work.status[:], work.done = 1, 4
    work.save()
    record = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(record | change))
    again = Unfinished(folder, {"pictures": "x"}, 4, 2)
    assert again.done == 0 and not again.status.any() and again.reasons == {}


def test_a_packed_split_is_named_by_identity_and_record(model, tiny_packed, tmp_path):
    run(model, [tiny_packed], tmp_path / "e.npz", split="highres")
    split = open_packed(tiny_packed).splits["highres"]
    found = read_embeddings(tmp_path / "e.npz")
    assert len(found.names) == split.samples
    assert found.names[-1] == f"highres/{split.identity_names[-1]}/{split.samples - 1:06d}"


def test_lists_name_pictures_relative_to_themselves(model, tmp_path):
    folder_of(tmp_path, 3)
    listed = tmp_path / "list.txt"
    listed.write_text("faces/p0/02.png\t7\n\nfaces/p0/00.png\n")
    run(model, [listed], tmp_path / "e.npz")
    assert [name[-6:] for name in read_embeddings(tmp_path / "e.npz").names] == ["02.png", "00.png"]
    listed.write_text("faces/p0/02.png\nfaces/none.png\n")
    with pytest.raises(UsageError, match=r"list.txt: line 2: 'faces/none.png' does not exist"):
        run(model, [listed], tmp_path / "e.npz")


@pytest.mark.parametrize(
    "paths,out,more,message",
    [
        (["nothing"], "e.npz", {}, "nothing: no such file or folder"),
        (["empty"], "e.npz", {}, "no pictures"),
        (["empty"], "e.csv", {}, "ends in .npz or .parquet"),
        (["text.png"], "e.npz", {}, "none of 1 picture can be embedded; .*text.png: not a JPEG"),
        (["text.png"], "e.npz", {"split": "lowres"}, "--split names a part of a packed directory"),
        (["text.png"], "e.npz", {"batch_size": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_embedded_is_told_in_one_line(model, tmp_path, paths, out, more, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UsageError, match=message):
        run(model, [tmp_path / path for path in paths], tmp_path / out, **more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "m.onnx", "text.png"]


@pytest.mark.parametrize("name", ["long", "missing", "numbers"])
@pytest.mark.parametrize("known", [True, False])
def test_names_of_a_parquet_file_take_no_more_memory_than_it_has(tmp_path, name, known):
    """A name of a megabyte that all rows have is there once: a file of 1 kB became 11 GB."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = {"long": ["x" * (1 << 20)] * 200, "missing": [None] * 200, "numbers": list(range(200))}[name]
    rows = arrow.FixedSizeListArray.from_arrays(arrow.array([1.0] * 400, arrow.float32()), 2)
    table = arrow.table({"name": arrow.array(values), "embedding": rows})
    path = tmp_path / "e.parquet"
    parquet.write_table(table, path, compression="zstd", use_dictionary=["name"] if known else False)
    before = arrow.total_allocated_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="names|numbers and"):
            read_embeddings(path)
        assert tracemalloc.get_traced_memory()[1] + arrow.total_allocated_bytes() - before < 8 << 20
    finally:
        tracemalloc.stop()
