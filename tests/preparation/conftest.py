from pathlib import Path

import pytest
from picture_trees import aligned_set


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 identities, 6 of them with two pictures and 12 with five; at 160 px the ArcFace crop has 151 px."""
    return aligned_set(tmp_path_factory.mktemp("set") / "aligned", 160)
