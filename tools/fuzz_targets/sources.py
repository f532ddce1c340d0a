"""Targets: sets of faces to pack, as others wrote them."""

import functools
import io
import pickle
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from hrfr_fast.packing.decode import Target as Form
from hrfr_fast.packing.decode import record_of
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.recognition import recognise
from hrfr_fast.packing.sources.bcolz_pairs import BcolzPairs
from hrfr_fast.packing.sources.beton_file import BetonFile
from hrfr_fast.packing.sources.brace_patterns import expand
from hrfr_fast.packing.sources.formats import open_source
from hrfr_fast.packing.sources.identity_source import IdentitySource
from hrfr_fast.packing.sources.insightface_rec import InsightFaceRecords
from hrfr_fast.packing.sources.list_files import ListSource
from hrfr_fast.packing.sources.pair_lists import read_csv
from hrfr_fast.packing.sources.webdataset_tars import WebDatasetTars
from hrfr_fast.preparation.landmarks import read_landmarks
from tools.fuzz_targets.packed_files import _pack
from tools.fuzz_targets.pictures import pictures
from tools.fuzz_targets.target import ALLOWED, Target, written

FORM = Form(8, resize=True)


def _read_all(source: IdentitySource) -> None:
    """Do with a set what ``pack`` does: names, pictures, listing."""
    places = range(min(len(source), 50))
    assert len(source.names(places)) == len(places)
    assert len(source.labels) == len(source) and (not len(source) or source.labels.max() < len(source.identities))
    for reader in source.readers(places):
        try:
            content = reader()
            record_of(content, FORM)
        except Rejected:
            continue
    for _ in source.listing_lines():
        pass


def _set(
    kind: Callable[[Path], IdentitySource], name: str, beside: Callable[[Path], object] = lambda _folder: None
) -> Callable[[bytes, Path], None]:
    """A parser of the file ``name`` as ``kind``; ``beside`` writes the files that belong to it."""

    def parse(content: bytes, folder: Path) -> None:
        beside(folder)
        path = written(folder, name, content)
        with suppress(*ALLOWED):
            recognise(path)
        _read_all(kind(path))

    return parse


def _record(content: bytes) -> bytes:
    return struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4)


@functools.cache
def _rec() -> tuple[bytes, bytes]:
    """An InsightFace set of two people: the ``.rec`` and its ``.idx``."""
    jpeg = pictures()["jpeg"]
    contents = [struct.pack("<IfQQ2f", 2, 0, 0, 0, 4, 6)]
    contents += [struct.pack("<IfQQ", 0, label, 0, 0) + jpeg for label in (0, 0, 1)]
    contents += [struct.pack("<IfQQ2f", 2, 0, 0, 0, *ends) for ends in ((1, 3), (3, 4))]
    blob, lines = b"", b""
    for key, content in enumerate(contents):
        lines += f"{key}\t{len(blob)}\n".encode()
        blob += _record(content)
    return blob, lines


def _several_parts() -> bytes:
    """A record of several parts, as one is written whose content holds the magic number."""
    magic = struct.pack("<I", 0xCED7230A)
    head = struct.pack("<IfQQ", 0, 0, 0, 0)
    parts = [(1, head), (2, pictures()["jpeg"][:100]), (3, pictures()["jpeg"][100:])]
    return b"".join(
        magic + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4) for kind, part in parts
    )


def _tar(members: Iterable[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind, encoding="utf-8") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def _tars(_folder: Path) -> Sequence[bytes]:
    jpeg = pictures()["jpeg"]
    plain = [("a.jpg", jpeg), ("a.cls", b"3"), ("b.jpg", jpeg), ("b.json", b'{"label": "ann"}')]
    long = [(f"{'x' * 120}/a.jpg", jpeg), (f"{'x' * 120}/a.cls", b"7")]
    return [_tar(plain, tarfile.USTAR_FORMAT), _tar(long), _tar(long, tarfile.GNU_FORMAT)]


def _pair_list(content: bytes, folder: Path) -> None:
    written(folder, "a.jpg", pictures()["jpeg"])
    pairs = read_csv("pairs-p", written(folder, "p.csv", content))
    for reader in pairs.readers(0, min(pairs.count, 20)):
        try:
            reader()
        except Rejected:
            continue
    pairs.folders()
    pairs.places(folder)


@functools.cache
def _carray() -> dict[str, bytes]:
    """Name -> content of the files of a carray of two pairs with its labels."""
    import bcolz

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        values = np.random.default_rng(2).integers(0, 256, (4, 3, 8, 8)).astype(np.float32) / 127.5 - 1
        bcolz.carray(values, rootdir=str(folder / "p"), mode="w").flush()
        np.save(folder / "p_list.npy", np.array([True, False]), allow_pickle=False)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _of_carray(name: str) -> Callable[[bytes, Path], None]:
    def parse(content: bytes, folder: Path) -> None:
        shutil.rmtree(folder / "p", ignore_errors=True)
        for other, good in _carray().items():
            written(folder, other, content if other == name else good)
        pairs = BcolzPairs("pairs-p", folder / "p")
        pairs.check()
        pairs.chunk(0, min(pairs.count, 8), Form(pairs.size))

    return parse


def _carray_seed(name: str) -> Callable[[Path], Sequence[bytes]]:
    return lambda _folder: [_carray()[name]]


def _pattern(content: bytes, _folder: Path) -> None:
    expand(content.decode("utf-8", "surrogateescape"))


def _anything(content: bytes, folder: Path) -> None:
    """A file of unknown kind, as the argument of ``pack``."""
    _read_all(open_source(written(folder, "given", content)))


TARGETS = (
    Target("rec", _set(InsightFaceRecords, "train.rec"), lambda _folder: [_rec()[0], _several_parts()]),
    Target(
        "rec-with-idx",
        _set(InsightFaceRecords, "train.rec", lambda folder: written(folder, "train.idx", _rec()[1])),
        lambda _folder: [_rec()[0]],
    ),
    Target(
        "idx",
        lambda content, folder: _set(
            InsightFaceRecords, "train.rec", lambda place: written(place, "train.idx", content)
        )(_rec()[0], folder),
        lambda _folder: [_rec()[1], b"0\t0\r\n1\t56\r\n"],
    ),
    Target("beton-source", _set(BetonFile, "given.beton"), lambda _folder: [_pack()["faces.beton"]]),
    Target(
        "list",
        _set(ListSource, "list.txt", lambda folder: written(folder, "a.jpg", pictures()["jpeg"])),
        lambda _folder: [b"a.jpg 0\na.jpg 1\n", b"a.jpg\tann\n./a.jpg\tbob\n"],
    ),
    Target("tar", _set(WebDatasetTars, "given.tar"), _tars),
    Target("anything", _anything, lambda folder: [*_tars(folder), b"given 0\n", pictures()["jpeg"], pickle.dumps([1])]),
    Target("pairs", _pair_list, lambda _folder: [b"path,path,same\na.jpg,a.jpg,1\n", b'"a.jpg",a.jpg,0\r\n']),
    Target("carray-sizes", _of_carray("p/meta/sizes"), _carray_seed("p/meta/sizes")),
    Target("carray-storage", _of_carray("p/meta/storage"), _carray_seed("p/meta/storage")),
    Target("carray-block", _of_carray("p/data/__0.blp"), _carray_seed("p/data/__0.blp")),
    Target("carray-labels", _of_carray("p_list.npy"), _carray_seed("p_list.npy")),
    Target("brace-pattern", _pattern, lambda _folder: [b"train-{000..003}.tar", b"{a,b}{1..3}.tar"]),
    Target(
        "landmarks",
        lambda content, folder: read_landmarks(written(folder, "landmarks.csv", content)),
        lambda _folder: [b"path,x1\na/1.jpg,1,2,3,4,5,6,7,8,9,10\n"],
    ),
)
