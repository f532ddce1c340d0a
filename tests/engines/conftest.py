"""Shards of hard pictures."""

import numpy as np
import pytest
from engine_cases import hard_pictures, write_shard

from hrfr_fast.data.shards import Split, open_packed


@pytest.fixture(scope="session")
def shards(tiny_packed, tmp_path_factory) -> dict[tuple[str, str], Split]:
    """(split, encoding) -> the same hard pictures; lowres at 36 px, highres at 144 px."""
    out, made = tmp_path_factory.mktemp("hard"), {}
    for name, split in open_packed(tiny_packed).splits.items():
        pictures = hard_pictures(split.read(np.arange(16)))
        for encoding in ("raw", "jpeg"):
            made[name, encoding] = write_shard(out / f"{name}-{encoding}.beton", name, pictures, encoding)
    return made
