"""The reader of pickles that nobody vouches for: the same values as Python's own, and every hostile one refused."""

import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from hrfr_fast.evaluation.protocols import restricted_pickle
from hrfr_fast.evaluation.protocols.pickled_values import PickledArray
from hrfr_fast.evaluation.protocols.restricted_pickle import load
from hrfr_fast.runtime.errors import UsageError


def plain(value):
    """Arrays as NumPy's, so that values can be compared."""
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value.numpy().tolist() if isinstance(value, PickledArray) else value


PICTURES = [b"\xff\xd8" + bytes(range(256)), b"", b"'quoted\\ \n", b"\x00" * 70_000]
LABELS = [True, False]
VALUES = {
    "lists": ((PICTURES, LABELS), (PICTURES, LABELS)),
    "bytearrays": ([bytearray(b"\x80a"), bytearray()], [b"\x80a", b""]),
    "arrays": ([np.frombuffer(one, np.uint8) for one in PICTURES], [list(one) for one in PICTURES]),
    "array of labels": (np.array(LABELS), LABELS),
    "big-endian, Fortran order": (np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)), [[0, 1, 2], [3, 4, 5]]),
    "NumPy numbers": ([np.bool_(True), np.int64(-5), np.uint8(200)], [True, -5, 200]),
    "numbers and texts": ((0, -1, 255, 65_536, -(2**31), 2**40, "é\u4f60", None, ()),) * 2,
    "shared": ([PICTURES[0]] * 3, [PICTURES[0]] * 3),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_that_were_written(name, protocol, tmp_path):
    written, expected = VALUES[name]
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(written, protocol))
    assert plain(load(path)) == expected


def test_what_python_2_wrote(tmp_path):
    """Its byte strings have opcodes of their own: STRING, BINSTRING and SHORT_BINSTRING."""
    long = b"\xff\xd8" * 200
    written = (
        b"\x80\x02]q\x00(U\x03\xff\xd8\x00T"
        + struct.pack("<i", len(long))
        + long
        + b"S'\\xffa\\n'\np1\ne]I01\naI00\na\x86."
    )
    path = tmp_path / "a.bin"
    path.write_bytes(written)
    assert load(path) == ([b"\xff\xd8\x00", long, b"\xffa\n"], [True, False])
    assert pickle.loads(written, encoding="bytes") == load(path)
    path.write_bytes(b"c__builtin__\nbytearray\n(Vab\xff\nS'latin-1'\ntR.")
    assert load(path) == b"ab\xff"


class Calls:
    """A pickle that calls ``function`` when Python reads it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def claims(opcode: bytes, form: str, length: int) -> bytes:
    return b"\x80\x04" + opcode + struct.pack(form, length) + b"abc."


UTF8_MEGABYTE = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
ENCODE = b"c_codecs\nencode\n"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
BYTES = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
HOSTILE = {
    "calls os.system": (pickle.dumps(Calls(eval, "1/0"), 2), "__builtin__.eval"),
    "calls by a name on the stack": (pickle.dumps(Calls(eval, "1/0"), 4), "builtins.eval"),
    "a name with an escape": (b"cos\x1b[2J\nsystem\n(tR.", "os\\u001b[2J.system"),
    "an object": (pickle.dumps(Calls(Calls, None), 4), "Calls"),
    "INST": (b"(S'1/0'\ni__builtin__\neval\n.", "INST"),
    "OBJ": (b"(c__builtin__\neval\nS'1'\no.", "__builtin__.eval"),
    "a class made anew": (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    "a dictionary": (pickle.dumps({}, 4), "EMPTY_DICT"),
    "a float": (pickle.dumps([0.5], 4), "BINFLOAT"),
    "a persistent name": (b"Pname\n.", "PERSID"),
    "an extension": (b"\x82\x01.", "EXT1"),
    "a buffer from elsewhere": (b"\x97.", "NEXT_BUFFER"),
    "no opcode at all": (b"\xfe.", "unknown"),
    "calls what is no function": (b"cnumpy\nndarray\n)R.", "no function"),
    "calls a text": (b"S'os.system'\n)R.", "no function"),
    "bytes of 10 GB": (claims(b"\x8e", "<Q", 10 << 30), "claims 10,737,418,240 bytes"),
    "a bytearray of 2^63": (claims(b"\x96", "<Q", 1 << 63), "claims"),
    "a text of 4 GB": (claims(b"X", "<I", (4 << 30) - 1), "claims"),
    "a string of negative length": (claims(b"T", "<i", -1), "claims -1 bytes"),
    "a number of 2 GB": (claims(b"\x8b", "<i", 2**31 - 1), "claims"),
    "a number of 200 bytes": (b"\x8a\xc8" + b"\x01" * 200 + b".", "a number of 200 bytes"),
    "a number of 5,000 digits": (b"I" + b"9" * 5000 + b"\n.", "no whole number"),
    "a memo that repeats a megabyte": (ENCODE + b"q\x00" + UTF8_MEGABYTE + b"q\x01"
                                       + b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" * 500 + b".", "more bytes than"),
    "an unknown encoding": (ENCODE + b"(Va\nVrot13\ntR.", "rot13"),
    "an array of objects": (pickle.dumps(np.array([Calls(eval, "1/0")], object), 4), "'O8'"),
    "an array of floats": (pickle.dumps(np.zeros(3), 4), "'f8'"),
    "an array larger than its bytes": (ARRAY + b"(K\x01(J\xff\xff\xff\x7ft" + BYTES + b"I00\nU\x03abctb.",
                                       "shape"),
    "an array of 2^20 x 2^20": (ARRAY + b"(K\x01(" + b"J\x00\x00\x10\x00" * 2 + b"t" + BYTES + b"I00\nU\x00tb.",
                                "shape"),
    "the state of a list": (b"](K\x01K\x02tb.", "the state"),
    "opcodes without end": (b"N0" * 2000 + b".", "more opcodes"),
    "marks without end": (b"(" * 2_000, "claims 1 bytes where 0 are left"),
    "an empty stack": (b".", "empty stack"),
    "a mark that is not there": (b"t.", "not opened"),
    "an entry of the memo that is not there": (b"h\x05.", "entry 5"),
    "an append to a number": (b"K\x01K\x02a.", "no list"),
    "cut in its middle": (pickle.dumps((PICTURES, LABELS), 4)[:-5000], "left"),
    "a cut line": (b"Vabc", "within a line"),
    "text that is no UTF-8": (b"\x8c\x02\xff\xff.", "Unicode"),
    "nothing": (b"", "empty"),
    "a picture": (b"\xff\xd8\xff\xe0JFIF", "opcode"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_in_one_line(name, tmp_path, monkeypatch):
    content, message = HOSTILE[name]
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    monkeypatch.setattr(restricted_pickle, "OPERATIONS", 3000)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as refused:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message in str(refused.value) and str(path) in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    assert peak < 4 * len(content) + (1 << 20), f"{peak:,} bytes for a file of {len(content):,}"


def test_depth_and_memo_cost_no_more_than_the_file(tmp_path):
    """Twenty thousand nested tuples, and a memo entry of the largest number, are values like others."""
    path = tmp_path / "a.bin"
    path.write_bytes(b")" + b"\x85" * 20_000 + b"r\xff\xff\xff\xff.")
    tracemalloc.start()
    value = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(value, tuple) and len(value) == 1
    assert peak < 6 << 20
