"""The pictures that loaders are measured on: a tree of the study, ordinary faces at 112 px, and shards of both."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

SCALE = "bench"
PEOPLE, PICTURES, SIDE = 125, 16, 112
"""Of the ordinary faces: 112 px is what InsightFace's sets have."""
NUMBER = 3
"""Of their split: the study's three are 0 to 2, and no two share a person."""


@dataclass(frozen=True)
class Faces:
    """Where picture files lie, and ``packed/jpeg`` and ``packed/raw``, the same pictures as shards."""

    data: Path
    packed: Path


def make_data(cache: Path, data: Path | None) -> dict[str, Faces]:
    """``study`` and ``ordinary`` faces, made where none are given, kept for the next run.

    ``data``: a data tree of one's own; there are no ordinary faces then, unless it has the split ``faces``.
    """
    from hrfr_fast.packing.pack import pack
    from hrfr_fast.synthetic.data_tree import synthesize

    made = {"study": Faces(data or cache / "tree", cache / "packed")}
    if data is None:
        synthesize(cache / "tree", SCALE)  # completes it, or finds it whole
        made["ordinary"] = Faces(cache / "tree112", cache / "packed112")
        make_ordinary_faces(cache / "tree112" / "faces")
    elif (data / "faces").is_dir():
        made["ordinary"] = Faces(data, cache / "packed112")
    for name, faces in made.items():
        for encoding in ("jpeg", "raw"):
            pack(faces.data if name == "study" else faces.data / "faces", faces.packed / encoding, encoding=encoding)
    return made


def make_ordinary_faces(folder: Path) -> None:
    """Identity folders of parametric faces at 112 px, as JPEG; what is there already is kept."""
    from hrfr_fast.synthetic.chunks import IdentityChunk, jpegs
    from hrfr_fast.synthetic.scales import SplitSpec
    from hrfr_fast.synthetic.traits import DEFAULT

    chunk = IdentityChunk(0, "faces", SplitSpec(NUMBER, PEOPLE, PICTURES, SIDE), tuple(range(PEOPLE)), DEFAULT)
    for person in chunk.identities:
        place, aside = folder / f"p{person:05d}", folder.parent / "partial"
        if place.is_dir():
            continue
        shutil.rmtree(aside, ignore_errors=True)  # left by a killed run
        aside.mkdir(parents=True)
        for number, content in enumerate(jpegs(chunk, person)):
            (aside / f"{number:03d}.jpg").write_bytes(content)
        folder.mkdir(exist_ok=True)
        os.replace(aside, place)
