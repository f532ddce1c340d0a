"""Lists in MATLAB files: what SciPy writes is read back; what is hostile, damaged or of another kind is refused."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from hrfr_fast.evaluation.protocols.mat_files import identities_of, names_of, read_mat
from hrfr_fast.runtime.errors import UsageError

savemat = pytest.importorskip("scipy.io").savemat

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"


def cells(names):
    """A column of cells with one name each, as MATLAB's cell arrays of file names."""
    column = np.empty((len(names), 1), object)
    column[:, 0] = names
    return column


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def variable(array_class, dimensions, values, name=b"probe_set"):
    """A matrix element of a class with stated dimensions and whatever follows its name."""
    flags = element(6, struct.pack("<II", array_class, 0))
    return element(14, flags + element(5, struct.pack(f"<{len(dimensions)}i", *dimensions)) + element(1, name) + values)


def compressed(data):
    packed = zlib.compress(data, 9)
    return struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize("compress", [False, True])
def test_names_and_identities_are_read_as_scipy_wrote_them(tmp_path, compress):
    path = tmp_path / "list.mat"
    pairs = np.array([["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"]], object)
    values = {"probe_set": cells(["1_1.jpg", "23_4.jpg", "äß.jpg"]), "probe_ids": np.array([[1], [23], [70000]]),
              "text": np.array(["one.jpg", "three.jpg"]), "pairs": pairs, "floats": np.array([1.0, 2.0])}  # fmt: skip
    savemat(path, values, do_compression=compress)
    found = read_mat(path)
    assert names_of(found, "probe_set", path) == [["1_1.jpg"], ["23_4.jpg"], ["äß.jpg"]]
    assert names_of(found, "text", path) == [["one.jpg"], ["three.jpg"]]
    assert names_of(found, "pairs", path, columns=2) == pairs.tolist()
    assert identities_of(found, "probe_ids", path).tolist() == [1, 23, 70000]
    assert identities_of(found, "floats", path).tolist() == [1, 2]


def test_one_pair_is_a_row_of_two_and_big_endian_files_are_read(tmp_path):
    path = tmp_path / "list.mat"
    savemat(path, {"pairs": np.array([["a.jpg", "b.jpg"]], object)})
    assert names_of(read_mat(path), "pairs", path, columns=2) == [["a.jpg", "b.jpg"]]
    flags, size = struct.pack(">II", 6, 8) + struct.pack(">II", 9, 0), struct.pack(">II2i", 5, 8, 1, 3)
    body = (
        flags
        + size
        + struct.pack(">II", 1, 2)
        + b"id".ljust(8, b"\0")
        + struct.pack(">II", 2, 3)
        + b"\1\2\3".ljust(8, b"\0")
    )
    path.write_bytes(HEADER[:124] + struct.pack(">H", 0x0100) + b"MI" + struct.pack(">II", 14, len(body)) + body)
    assert identities_of(read_mat(path), "id", path).tolist() == [1, 2, 3]


HOSTILE = {
    "a function handle": (variable(16, (1, 1), b""), "holds a function handle; only numbers, text"),
    "an object": (variable(3, (1, 1), b""), "holds an object;"),
    "an opaque object": (variable(17, (1, 1), b""), "holds an opaque object;"),
    "an object in a cell": (variable(1, (1, 1), variable(3, (1, 1), b"")), "holds an object;"),
    "a structure": (variable(2, (1, 1), b""), "holds a structure;"),
    "an object, compressed": (compressed(variable(3, (1, 1), b"")), "holds an object;"),
    "cells that are not there": (variable(1, (1 << 30, 1), b""), "1,073,741,824 cells in 0 bytes"),
    "numbers that are not there": (variable(6, (1 << 30, 1), element(9, b"\0" * 8)), "1,073,741,824 values stated, 1"),
    "more dimensions than memory": (variable(6, (1 << 30,) * 4, element(9, b"\0" * 8)), "values stated, 1 there"),
    "a thousand dimensions": (variable(6, (1,) * 1000, element(9, b"\0" * 8)), "with more than 32"),
    "negative dimensions": (variable(1, (-1, -1), b""), "dimensions"),
    "an element longer than the file": (struct.pack("<II", 14, 1 << 31) + b"\0" * 64, "2,147,483,648 bytes where 64"),
    "cells in cells": (b"", "cells within cells"),
    "a compressed variable cut off": (compressed(variable(9, (1, 1), b""))[:-4], "damaged"),
    "no compressed data": (element(15, b"not zlib at all!"), "a compressed variable"),
    "half an element": (b"\0\0\0", "ends inside an element"),
    "an empty text without characters": (variable(1, (1, 1), variable(4, (1, 0), b"")), "ends inside an element"),
    "a cell longer than its values": (
        variable(1, (1, 1), variable(9, (1, 1), 2 * element(9, b"\0" * 8))), "a cell of 88 bytes, of which"
    ),
    "a small element of nine bytes": (struct.pack("<II", 9 << 16 | 14, 0), "a small element of 9 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_damaged_files_are_refused_in_one_line_and_without_memory(tmp_path, case):
    content, message = HOSTILE[case]
    if case == "cells in cells":
        content = variable(9, (1, 1), element(9, b"\0" * 8))
        for _ in range(60):
            content = variable(1, (1, 1), content)
    path = tmp_path / "hostile.mat"
    path.write_bytes(HEADER + content)
    tracemalloc.start()
    with pytest.raises(UsageError, match=message) as error:
        read_mat(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert peak < 2_000_000


def test_a_compressed_variable_that_swells_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("hrfr_fast.evaluation.protocols.mat_elements.LARGEST_CONTENT", 1 << 20)
    path = tmp_path / "swelling.mat"
    path.write_bytes(HEADER + compressed(variable(9, (1, 1 << 26), element(2, b"\0" * (1 << 26)))))
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match="its variables hold over"):
        read_mat(path)


def test_cells_are_counted_over_all_variables(tmp_path, monkeypatch):
    monkeypatch.setattr("hrfr_fast.evaluation.protocols.mat_elements.MOST_CELLS", 5)
    path = tmp_path / "many.mat"
    path.write_bytes(HEADER + 2 * variable(1, (3, 1), struct.pack("<II", 14, 0) * 3))
    with pytest.raises(UsageError, match="over 5 cells"):
        read_mat(path)


def test_every_cut_of_a_file_is_refused_or_read_whole(tmp_path):
    path = tmp_path / "list.mat"
    savemat(path, {"probe_set": cells(["1_1.jpg", "2_1.jpg"]), "probe_ids": np.array([[1], [2]])})
    content, whole = path.read_bytes(), read_mat(path)
    for end in range(0, len(content), 3):
        path.write_bytes(content[:end])
        try:
            found = read_mat(path)
        except UsageError:
            continue
        assert set(found) < set(whole), "a file cut between two variables holds the first"


OTHER_FILES = {
    "version 7.3": (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", "7.3 file .HDF5.; save it again"),
    "a text file": (b"1_1.jpg 1\n" * 40, "not a MATLAB file of level 5"),
    "an empty file": (b"", "not a MATLAB file of level 5"),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_other_files_are_refused_with_advice(tmp_path, case):
    content, message = OTHER_FILES[case]
    path = tmp_path / "other.mat"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_mat(path)
    with pytest.raises(UsageError, match="no such file"):
        read_mat(tmp_path / "none.mat")


def test_variables_of_another_kind_are_named(tmp_path):
    path = tmp_path / "list.mat"
    savemat(
        path,
        {
            "names": cells(["a.jpg", ""]),
            "ids": np.array([1.5]),
            "less": np.array([-1]),
            "text": np.array(["a"]),
            "numbers": np.eye(2),
        },
    )
    found = read_mat(path)
    for call, message in (
        (lambda: names_of(found, "probe_set", path), "no variable probe_set; it holds ids, less, names, numbers"),
        (lambda: names_of(found, "names", path), "names, row 2: no picture name"),
        (lambda: names_of(found, "names", path, columns=3), "2 x 1 cells, not 3 a row"),
        (lambda: names_of(found, "numbers", path), "numbers where picture names"),
        (lambda: identities_of(found, "ids", path), "no identities"),
        (lambda: identities_of(found, "less", path), "holds negative numbers"),
        (lambda: identities_of(found, "text", path), "holds no numbers"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
