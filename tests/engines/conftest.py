"""Shards of hard pictures, made without a JPEG codec where they hold none: bare GPU machines have no codec."""

from pathlib import Path

import numpy as np
import pytest
from engine_cases import hard_pictures, write_shard

from benchmarks.made_shards import NOISE_SCALES, write_shards
from hrfr_fast.format.reader import Split, open_packed
from hrfr_fast.synthetic.faces import render
from hrfr_fast.synthetic.traits import DEFAULT


@pytest.fixture(scope="session")
def tiny_packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parametric faces of the tiny scale, packed as they were drawn."""

    def drawn(split, plan, identity):
        return render(0, plan.number, identity, np.arange(plan.pictures), plan.size, DEFAULT)[0]

    out = tmp_path_factory.mktemp("drawn") / "packed"
    write_shards(out, NOISE_SCALES["tiny"].plans(), drawn)
    return out


class Shards(dict):
    """(split, encoding) -> the same hard pictures, each shard written when it is first asked for."""

    def __init__(self, packed: Path, out: Path) -> None:
        self.packed, self.out = open_packed(packed).splits, out

    def __missing__(self, key: tuple[str, str]) -> Split:
        name, encoding = key
        pictures = hard_pictures(self.packed[name].read(np.arange(16)))
        self[key] = write_shard(self.out / f"{name}-{encoding}.beton", name, pictures, encoding)
        return self[key]


@pytest.fixture(scope="session")
def shards(tiny_packed, tmp_path_factory) -> dict[tuple[str, str], Split]:
    """lowres at 36 px, highres at 144 px, raw and (where a JPEG codec is there) JPEG."""
    return Shards(tiny_packed, tmp_path_factory.mktemp("hard"))
