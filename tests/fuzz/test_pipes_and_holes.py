"""Named pipes that nobody writes to are not waited for, and files of holes do not fill the memory."""

import os
import tracemalloc

import pytest
from picture_trees import jpeg, picture

from hrfr_fast.deployment.pictures import open_pictures
from hrfr_fast.format import manifest
from hrfr_fast.format.verify import check_packed
from hrfr_fast.packing.recognition import recognise
from hrfr_fast.packing.sources.list_files import ListSource
from hrfr_fast.packing.sources.pair_lists import read_csv
from hrfr_fast.preparation.landmarks import read_landmarks
from hrfr_fast.runtime.errors import DamageFound, UsageError

HOLES = 8 << 30  # bytes, of which none take room on the disk
MOST = 8 << 20


@pytest.fixture
def faces(tmp_path):
    """A folder of two people."""
    for number in range(2):
        folder = tmp_path / "faces" / f"p{number}"
        folder.mkdir(parents=True)
        (folder / "0.jpg").write_bytes(jpeg(picture(number, 36)))
    return tmp_path / "faces"


def test_a_pipe_is_no_list_of_pairs(faces):
    os.mkfifo(faces / "pairs.csv")
    assert recognise(faces, "").format == "folder"


def test_a_pipe_is_no_manifest(tmp_path):
    os.mkfifo(tmp_path / manifest.NAME)
    with pytest.raises(DamageFound, match="no file"):
        manifest.read(tmp_path)
    assert check_packed(tmp_path)


READERS = {
    "pairs": ("a.csv", b"a.jpg,b.jpg,1\n", lambda path: read_csv("pairs-a", path)),
    "landmarks": ("a.csv", b"path\n", read_landmarks),
    "labels": ("a.txt", b"a.jpg 1\n", ListSource),
    "pictures": ("a.txt", b"a.jpg\n", lambda path: open_pictures([path])),
    "a manifest": (manifest.NAME, b"{", lambda path: manifest.read(path.parent)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_holes_is_refused_in_little_memory(tmp_path, name):
    file, content, read = READERS[name]
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / file).write_bytes(content)
    os.truncate(tmp_path / file, HOLES)
    tracemalloc.start()
    try:
        with pytest.raises((UsageError, DamageFound), match="line 2|more than 2,147"):
            read(tmp_path / file)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def test_a_file_of_holes_is_no_list_of_pairs(faces):
    (faces / "pairs.csv").write_bytes(b"")
    os.truncate(faces / "pairs.csv", HOLES)
    assert recognise(faces, "").format == "folder"
