"""Targets: the files of a packed directory. What checksums guard is fuzzed with and without checksums that fit."""

import dataclasses
import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.alignment_record import NAME as ALIGNMENT
from hrfr_fast.format.alignment_record import read_record
from hrfr_fast.format.inspect import inspect_packed
from hrfr_fast.format.pair_defects import pair_warnings
from hrfr_fast.format.quarantine import QUARANTINE, read_quarantine
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.saved_listing import changes, save_listing, saved_key
from hrfr_fast.format.verify import check_packed
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.packing.journal import Journal, candidates_done
from hrfr_fast.packing.transaction import complete
from tools.fuzz_targets.target import Target, written

SIDE, PAGE = 8, 4096
KEY = {"format": 1, "size": SIDE}


@functools.cache
def _pack() -> dict[str, bytes]:
    """Name -> content of the files of a small pack: a split of two people and a pair set, raw."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        split = SplitWriter(folder / "faces.beton", 4, SIDE, PAGE)
        pairs = SplitWriter(folder / "pairs-p.beton", 4, SIDE, PAGE)
        for number, picture in enumerate(pictures):
            split.append(picture.tobytes(), number // 2, beton.RAW)
            pairs.append(picture.tobytes(), 1 - number // 2, beton.RAW)
        entries = [writer.finish() for writer in (split, pairs)]
        people = io.BytesIO()
        np.save(people, np.array([0, 0, 1, 2], np.int32), allow_pickle=False)
        digest = hashlib.sha256(people.getvalue()).hexdigest()
        content = manifest.build(
            {"faces": manifest.split_entry("faces", entries[0], size=SIDE, identity_names=["a", "b"])},
            {"p": manifest.pair_entry("p", entries[1], size=SIDE, identities_digest=digest, identity_coverage=1.0)},
            {"made_by": "hrfr-fast synth --packed"},
        )
        manifest.write(folder, content)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        return files | {"pairs-p.identities.npy": people.getvalue()}


def _used(folder: Path) -> None:
    """Do with the pack in ``folder`` what reading commands do."""
    packed = open_packed(folder)
    inspect_packed(folder)
    for split in packed.splits.values():
        split.read(np.arange(min(split.samples, 8)))
        split.verify()
    for pairs in packed.pairs.values():
        _ = (pairs.same, pairs.identities, pair_warnings(pairs))


def _with_pack(name: str) -> Callable[[bytes, Path], None]:
    """A parser of a pack in which the file ``name`` has the content it is given."""

    def parse(content: bytes, folder: Path) -> None:
        for other, good in _pack().items():
            written(folder, other, good)
        written(folder, name, content)
        check_packed(folder)
        _used(folder)

    return parse


def _of_pack(name: str) -> Callable[[Path], Sequence[bytes]]:
    return lambda _folder: [_pack()[name]]


def _manifest_with_checksums(content: bytes, folder: Path) -> None:
    """A manifest whose own digest and checksum fit, whatever its entries say."""
    for name, good in _pack().items():
        written(folder, name, good)
    try:
        values: dict[str, Any] = json.loads(content)
        values["digest"] = manifest.digest_of(values["splits"], values["pairs"])
        values = manifest.with_checksum({name: one for name, one in values.items() if name != manifest.CHECKSUM})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    written(folder, manifest.NAME, json.dumps(values).encode())
    check_packed(folder)
    _used(folder)


def _tables(content: bytes, folder: Path) -> None:
    """A shard whose size, digest and binding fit, whatever its header and tables say."""
    bound = bytearray(content)
    place = beton.HEADER.itemsize + 1 + 16  # of the image field's arguments
    checksums = _pack()["faces.crc32"]
    bound[place : place + beton.BINDING_BYTES] = beton.binding_of(checksums)
    path = written(folder, "faces.beton", bytes(bound))
    beton.read_tables(path, np.frombuffer(path.read_bytes(), np.uint8))


def _commit(content: bytes, folder: Path) -> None:
    """The manifest of finished work that was not moved into place."""
    out = folder / "out"
    written(out, "faces.beton", b"old")
    written(out / manifest.WORK, "faces.beton", b"new")
    outside = written(folder, "outside", b"untouched")
    written(out / manifest.WORK, manifest.NAME, content)
    complete(out)
    assert outside.read_bytes() == b"untouched", "a file outside of the directory was changed"


def _quarantine(content: bytes, folder: Path) -> None:
    written(folder, QUARANTINE, content)
    values = json.loads(_pack()[manifest.NAME])
    read_quarantine(folder, values)


def _listing(content: bytes, folder: Path) -> None:
    path = written(folder, "faces.sources.gz", content)
    saved_key(path, "digest")
    changes(path, iter(["a/1.jpg\t1\t2"]))


def _listing_seeds(folder: Path) -> list[bytes]:
    path = folder / "seed.gz"
    save_listing(path, KEY, "digest", iter(["a/1.jpg\t1\t2", "a/2.jpg\t3\t4"]))
    return [path.read_bytes()]


def _journal(content: bytes, folder: Path) -> None:
    good = _journal_files(folder / "good")
    work = folder / "work"
    for kind in ("rows", "rejected"):
        written(work, f"faces.{kind}", good[kind])
    written(work, "faces.journal", content)
    candidates_done(work, "faces")
    journal = Journal(work, "faces", KEY)
    try:
        journal.rows()
        journal.rejected()
    finally:
        journal.close()


def _journal_files(work: Path) -> dict[str, bytes]:
    from hrfr_fast.format.writer import ROW

    work.mkdir(parents=True, exist_ok=True)
    journal = Journal(work, "faces", KEY)
    journal.add(3, np.zeros(2, ROW), [{"file": "a/3.jpg", "reason": "the file is empty"}])
    journal.commit()
    journal.close()
    return {kind: (work / f"faces.{kind}").read_bytes() for kind in ("journal", "rows", "rejected")}


def _alignment(content: bytes, folder: Path) -> None:
    written(folder, ALIGNMENT, content)
    if record := read_record(folder):
        record.notes()


def _alignment_seeds(_folder: Path) -> list[bytes]:
    from hrfr_fast.format.alignment_record import AlignmentRecord

    record = AlignmentRecord(
        made_by="hrfr-fast align", source="photos", source_template="unknown", template="arcface",
        sizes={"faces": 112}, enlarged={"faces": 3},
    )  # fmt: skip
    return [json.dumps(dataclasses.asdict(record) if dataclasses.is_dataclass(record) else dict(record)).encode()]


TARGETS = (
    Target("manifest", _with_pack(manifest.NAME), _of_pack(manifest.NAME)),
    Target("manifest-with-checksums", _manifest_with_checksums, _of_pack(manifest.NAME)),
    Target("beton", _with_pack("faces.beton"), _of_pack("faces.beton")),
    Target("beton-tables", _tables, _of_pack("faces.beton")),
    Target("checksums", _with_pack("faces.crc32"), _of_pack("faces.crc32")),
    Target("identities", _with_pack("pairs-p.identities.npy"), _of_pack("pairs-p.identities.npy")),
    Target("commit", _commit, _of_pack(manifest.NAME)),
    Target("quarantine", _quarantine, lambda _folder: [b'{"split": "faces", "file": "a/1.jpg", "reason": "x"}\n']),
    Target("listing", _listing, _listing_seeds),
    Target("journal", _journal, lambda folder: [_journal_files(folder / "seed")["journal"]]),
    Target("alignment", _alignment, _alignment_seeds),
)
