"""Headers of arrays that promise what no file can hold: refused in words, with nothing allocated."""

import io
import struct
import zipfile

import numpy as np
import pytest

from hrfr_fast.runtime.untrusted import array_of, opened_zip, stored_array

PROMISES = {
    "texts of no letters": ("'<U0'", "(1000000000,)"),
    "bytes of no length": ("'|S0'", "(1000000000,)"),
    "nothing": ("'|V0'", "(1000000000000000000,)"),
    "parts of no length": ("('<f4', (0,))", "(1000000000000000000,)"),
    "a truth": ("'<f4'", "(True,)"),
    "a negative length": ("'<f4'", "(-1, -1)"),
    "more than 64 bits": ("'<f4'", f"({1 << 70},)"),
    "none of more than 64 bits": ("'<f4'", f"(0, {1 << 70})"),
    "objects": ("'|O'", "(1,)"),
}


def array(kind: str, shape: str, content: bytes = b"") -> bytes:
    """A ``.npy`` file of this description."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(("kind", "shape"), PROMISES.values(), ids=PROMISES.keys())
def test_a_promise_that_no_file_can_hold_is_refused(tmp_path, kind, shape):
    content = array(kind, shape, b"" if kind != "'<f4'" or shape != "(True,)" else b"1234")
    with pytest.raises(ValueError):
        array_of(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with opened_zip(tmp_path / "a.npz") as archive, pytest.raises(ValueError):
        stored_array(archive, "a.npy", 1 << 20)


@pytest.mark.parametrize("values", [np.arange(6.0).reshape(2, 3), np.array(["a", "bc"]), np.zeros(0), np.zeros((2, 0))])
def test_an_array_comes_back(values):
    file = io.BytesIO()
    np.save(file, values)
    found = array_of(file.getvalue())
    assert found.dtype == values.dtype and found.shape == values.shape and (found == values).all()
