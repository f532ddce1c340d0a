"""Every parser over files that were good: mutated, with claims that no file warrants, and the findings of fuzzing.

``tools/fuzz.py`` looks further, for hours and guided by coverage; what it found is in ``cases/<target>/``.
"""

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
from pathlib import Path

import pytest

for library in ("sklearn", "hypothesis", "simplejpeg", "bcolz", "onnx", "pyarrow", "PIL", "scipy"):
    pytest.importorskip(library)
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tools.fuzz_targets import TARGETS  # noqa: E402
from tools.fuzz_targets.pictures import png_claiming  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_waiting")
CASES = sorted(path for path in (Path(__file__).parent / "cases").glob("*/*") if path.is_file())
SLOW = ("checkpoint", "checkpoint-header", "checkpoint-metadata", "manifest", "manifest-with-checksums", "beton")
MOST = 96 << 20  # bytes that a file of a few kB may make a parser allocate; 4096 x 4096 pixels take 48 MB
INTERESTING = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"-1",
    b"9" * 40,
    b"\n",
    b"[",
    b"{}",
)


@pytest.fixture
def no_waiting(monkeypatch):
    """No waiting for the disk: nothing here is worth keeping."""
    monkeypatch.setattr("os.fsync", lambda _: None)


edits = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 8),
        st.one_of(st.binary(min_size=0, max_size=8), st.sampled_from(INTERESTING)),
    ),
    max_size=4,
)  # fmt: skip
"""Place as a share of the length, bytes taken out there, bytes put in."""


def mutated(seed: bytes, changes: list[tuple[float, int, bytes]], kept: float) -> bytes:
    for place, out, put_in in changes:
        at = int(place * len(seed))
        seed = seed[:at] + put_in + seed[at + out :]
    return seed[: int(kept * len(seed)) + 1]


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_refused_in_words(name, tmp_path):
    target = TARGETS[name]
    (tmp_path / "seeds").mkdir()
    seeds = list(target.seeds(tmp_path / "seeds"))
    assert any(target.accepts(seed, tmp_path) for seed in seeds) or name in ("anything", "onnx-weights", "public-pth",
                                                                            "public-safetensors")  # fmt: skip

    @settings(
        max_examples=8 if name in SLOW else 25, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(seeds), edits, st.sampled_from([1.0, 1.0, 1.0, 0.97, 0.5, 0.0]))
    def check(seed, changes, kept):
        target.accepts(mutated(seed, changes, kept), tmp_path)

    check()


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_fuzzing_found_stays_mended(case, tmp_path):
    TARGETS[case.parent.name].accepts(case.read_bytes(), tmp_path)


def npy(header: str) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def tar_claiming(size: int) -> bytes:
    info = tarfile.TarInfo("a.jpg")
    info.size = 10
    info.pax_headers = {"size": str(size)}
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def deflated(line: bytes) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as packed:
        packed.write(line)
    return file.getvalue()


DEEP = b'{"a":' * 100_000
WIDE = {"input_size": 4096, "width": 8192, "embedding_size": 65536, "name": "ir100"}
CLAIMS = {
    "picture": [png_claiming(65535, 65535), png_claiming(4097, 4097), b"BM" + b"\xff" * 60],
    "manifest": [DEEP, b"[" * 200_000, b'{"format": ' + b"9" * 5000 + b"}"],
    "quarantine": [DEEP], "results": [DEEP], "judged": [DEEP], "metrics": [DEEP], "alignment": [DEEP],
    "carray-sizes": [DEEP, b'{"shape": [1e400, 3, 8, 8]}', b'{"shape": [4000000000000, 3, 8, 8]}', b" " * (1 << 20)],
    "carray-storage": [b'{"dtype": "' + b"(" * 5000 + b'f4"}', b'{"dtype": "(99999,99999)f8"}'],
    "carray-labels": [
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (99999999999999,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"cos\nsystem\n(S'true'\ntR.",
    ],
    "identities": [npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1 << 60,)}")],
    "settings": [b"a = " + b"[" * 100_000, b"seed = " + b"9" * 5000, b"[" + b"a." * 50_000 + b"a]", b"self = 1"],
    "regime": [b"self = 1", b"x = " + b"{a=" * 20_000], "preset": [b"steps = " + b"[" * 100_000],
    "checkpoint": [struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 90_000_000)],
    "checkpoint-header": [
        DEEP, b"[]", b'{"__metadata__": [1]}', b'{"__metadata__": {"crc32": 7}}', b'{"__metadata__": {"crc32": [[]]}}',
        b'{"a": {"data_offsets": [0, 1e999]}}', b'{"a": {"data_offsets": {}}}', b'{"a": 1}',
    ],
    "checkpoint-rows": [struct.pack("<Q", (1 << 63) + 5), struct.pack("<Q", 99_000_000) + b" "],
    "checkpoint-metadata": [DEEP, json.dumps({"backbone": WIDE, "data": {"path": "", "digest": ""}}).encode()],
    "tar": [tar_claiming(10**18), tar_claiming(10**19)],
    "idx": [b"0\t0\n" * 5000, b"9" * (9 << 20)],
    "bin": [b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60), b"]" + b"2" * 100_000, b"(" * 100_000 + b"."],
    "listing": [deflated(b"9" * (48 << 20))],
    "brace-pattern": [b"{0..999999999}", b"{a,b}" * 40],
}  # fmt: skip
"""Target -> files of a few kB that claim gigabytes, or nest without an end."""


@pytest.mark.parametrize("name", CLAIMS)
def test_no_claim_of_a_file_fills_the_memory(name, tmp_path):
    target = TARGETS[name]
    target.accepts(target.seeds(tmp_path)[0], tmp_path)  # what is loaded once does not count
    for content in CLAIMS[name]:
        tracemalloc.start()
        try:
            accepted = target.accepts(content, tmp_path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        silent = ("quarantine", "results", "judged", "metrics", "listing")  # what is damaged counts as not there
        assert not accepted or name in silent or (name, content[:5]) == ("idx", b"0\t0\n0")
        assert peak < MOST, f"{peak:,} bytes for {content[:60]!r}"


def test_cases_belong_to_targets():
    assert {case.parent.name for case in CASES} <= TARGETS.keys() and len(CASES) > 10
