""".beton files as a source: written by FFCV's own DatasetWriter, by ``pack``, and damaged by hand."""

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hrfr_fast.format import beton
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.sources.beton_file import PROBLEMS, BetonFile
from hrfr_fast.runtime.errors import UsageError

# In a process of its own: FFCV sets the threads of torch and numba. Two workers, so that the allocation table is not in
# the order of the samples; each page holds some 50 pictures.
SCRIPT = """
import sys
import numpy as np
from ffcv.fields import BytesField, FloatField, IntField, NDArrayField, RGBImageField
from ffcv.writer import DatasetWriter

folder = sys.argv[1]
faces, labels = np.load(folder + "/faces.npy"), np.load(folder + "/labels.npy")


class Samples:
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(faces)

    def __getitem__(self, i):
        return tuple(column(int(i)) for column in self.columns)


def write(name, fields, *columns):
    DatasetWriter(f"{folder}/{name}.beton", fields, num_workers=2, page_size=1 << 21).from_indexed_dataset(
        Samples(*columns), chunksize=5
    )


def face(i):
    return faces[i]


def label(i):
    return int(labels[i])


write("raw", {"image": RGBImageField(), "label": IntField()}, face, label)
write("jpg", {"person": IntField(), "photo": RGBImageField(write_mode="jpg", jpeg_quality=95)}, label, face)
write(
    "mixed",
    {
        "weight": FloatField(), "age": IntField(), "label": IntField(), "points": NDArrayField(np.dtype("<f4"), (5, 2)),
        "image": RGBImageField(write_mode="proportion", jpeg_quality=95), "name": BytesField(),
    },
    float, lambda i: 30 + i, label, lambda i: np.zeros((5, 2), "f4"), face, lambda i: np.full(i + 1, 65, np.uint8),
)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of files that FFCV wrote of 60 random pictures: raw.beton, jpg.beton and mixed.beton."""
    if importlib.util.find_spec("ffcv") is None:
        pytest.skip("needs FFCV")
    folder = tmp_path_factory.mktemp("ffcv")
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (60, 7, 7, 3), np.uint8)
    np.save(folder / "faces.npy", coarse.repeat(16, 1).repeat(16, 2))
    np.save(folder / "labels.npy", random.integers(-3, 2**40, 9)[random.integers(0, 9, 60)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["raw", "jpg", "mixed"])
def test_files_of_ffcv(written, name):
    simplejpeg = pytest.importorskip("simplejpeg")
    source = BetonFile(written / f"{name}.beton")
    faces, labels = np.load(written / "faces.npy"), np.load(written / "labels.npy")
    rows = [int(text[len(name) + len(".beton[") : -1]) for text in source.names(range(60))]
    assert rows == np.argsort(labels, kind="stable").tolist()
    assert [int(source.identities[label]) for label in source.labels] == labels[rows].tolist()
    kinds = set()
    for row, reader in zip(rows, pickle.loads(pickle.dumps(source.readers(range(60)))), strict=True):
        content = reader()
        kinds.add(type(content))
        pixels = simplejpeg.decode_jpeg(content, "RGB") if isinstance(content, bytes) else content
        difference = np.abs(pixels.astype(int) - faces[row])
        # The corners of the squares are sharp, so colours at half the resolution differ there.
        assert difference.max() == 0 if content is pixels else difference.mean() < 8
    assert kinds == {"raw": {np.ndarray}, "jpg": {bytes}, "mixed": {bytes, np.ndarray}}[name]
    unused = f"{source.path}: fields that are not used: weight (Float), age (Int), points (NDArray), name (Bytes)"
    assert source.warnings == ([unused] if name == "mixed" else [])


@pytest.fixture
def shard(tmp_path) -> Path:
    """A shard of ours: four raw 6x6 pictures, label 0 twice, then 1 and 2; room for seven."""
    writer = SplitWriter(tmp_path / "faces.beton", 7, 6, 4096)
    for number, label in enumerate([0, 0, 1, 2]):
        writer.append(np.full((6, 6, 3), number, np.uint8).reshape(-1), label, beton.RAW)
    writer.finish()
    return tmp_path / "faces.beton"


def test_shards_of_ours(shard):
    assert BetonFile.recognises(shard) and not BetonFile.recognises(shard.parent)
    source = BetonFile(shard)
    assert source.labels.tolist() == [0, 0, 1, 2] and source.identities == ["0", "1", "2"]
    assert [np.unique(source.read(i)).tolist() for i in range(4)] == [[0], [1], [2], [3]]
    assert source.bytes_on_disk == 4 * 108 and source.names([3]) == ["faces.beton[3]"]


def test_packed_from_raw_pixels(shard, tmp_path, no_fsync):
    pack(shard, tmp_path / "out", workers=1, show_progress=False)
    faces = open_packed(tmp_path / "out").splits["faces"]
    assert (faces.size, faces.labels.tolist()) == (6, [0, 0, 1, 2])
    assert np.array_equal(faces.read(range(4)), [np.full((6, 6, 3), i, np.uint8) for i in range(4)])


def overwrite(path: Path, at: int, values: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(values)] = values
    path.write_bytes(content)


ROW = beton.METADATA_START + 2 * beton.METADATA.itemsize
"""Byte of the metadata of picture 2: mode u1, width u2, height u2, data_ptr u8."""
DAMAGES = {
    "mode": (ROW, b"\x07", "neither as JPEG nor as raw"),
    "no width": (ROW + 1, b"\0\0", "it has no pixels"),
    "another width": (ROW + 1, b"\x07\0", "another number of bytes"),
    "nowhere": (ROW + 5, (2**63 + 5).to_bytes(8, "little"), "the allocation table does not have it"),
}


@pytest.mark.parametrize(("at", "values", "reason"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_row_is_rejected(shard, at, values, reason):
    overwrite(shard, at, values)
    source = BetonFile(shard)
    assert [np.unique(source.read(i)).tolist() for i in (0, 1, 3)] == [[0], [1], [3]]
    with pytest.raises(Rejected, match=reason):
        source.read(2)


@pytest.mark.parametrize("start", [2**64 - 1, 100, 10**6], ids=["wraps around", "in the header", "behind the end"])
def test_a_picture_outside_the_pages_is_rejected(shard, start):
    overwrite(shard, ROW + 5, start.to_bytes(8, "little"))
    overwrite(shard, shard.stat().st_size - 2 * 24 + 8, start.to_bytes(8, "little"))
    with pytest.raises(Rejected, match=PROBLEMS[5]):
        BetonFile(shard).read(2)


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        BetonFile(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FIELD = beton.HEADER.itemsize
HEADERS = {
    "version": (0, b"\x03\0", "not a .beton file of version 2"),
    "many fields": (2, b"\xff\xff", "not a .beton file of version 2"),
    "page size": (4, b"\x03\0\0\0", "not a .beton file of version 2"),
    "many samples": (8, b"\xff" * 7, "do not fit a file of"),
    "table at the end": (16, b"\xff" * 7, "do not fit a file of"),
    "table of all": (16, (2106 + 96).to_bytes(8, "little"), "do not fit a file of"),
    "a field of its own": (FIELD, b"\xff", "fields of a type that FFCV does not define: image (type 255)"),
    "no picture": (FIELD, b"\x01", "expected one field of type RGBImage"),
    "no label": (FIELD + 1041, b"\x00", "expected one field of type Int, or one of them called label; it has image"),
    "two pictures": (FIELD + 1041, b"\x02photo", "expected one field of type Int"),
}


@pytest.mark.parametrize(("at", "values", "message"), HEADERS.values(), ids=HEADERS.keys())
def test_a_wrong_header(shard, at, values, message):
    overwrite(shard, at, values)
    assert message in refusal(shard)


def test_a_cut_file(shard):
    content = shard.read_bytes()
    for length, message in ((10, "too few"), (1000, "ends within its header"), (len(content) - 24, "do not fit")):
        shard.write_bytes(content[:length])
        assert message in refusal(shard)
