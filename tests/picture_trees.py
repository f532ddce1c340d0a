"""Small trees of pictures to pack, made on the spot."""

import os
from pathlib import Path

import numpy as np
import pytest


def picture(seed: int, size: int) -> np.ndarray:
    """A smooth random picture, uint8 [size, size, 3] RGB; every seed another one."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.float32)
    at = np.linspace(0, 5, size)
    low = np.minimum(at.astype(int), 4)
    share = (at - low)[:, None]
    rows = coarse[low] * (1 - share[..., None]) + coarse[low + 1] * share[..., None]
    both = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return np.rint(both).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    simplejpeg = pytest.importorskip("simplejpeg")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), 90, "RGB", "420")


def aligned_set(root: Path, side: int, identities: int = 18, pictures: int = 5) -> Path:
    """``root/<identity>/<n>.png``, side x side: every third identity has two pictures, the others ``pictures``."""
    import cv2

    for identity in range(identities):
        folder = root / f"person {identity:02d}"
        folder.mkdir(parents=True)
        for n in range(2 if identity % 3 == 0 else pictures):
            cv2.imwrite(str(folder / f"{n}.png"), picture(100 * identity + n, side)[:, :, ::-1])
    return root


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: only a power cut would lose anything."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def make_jpeg():
    return jpeg


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """lowres 12 x 5 (36 px), highres 6 x 3, highres_eval 4 x 3 (144 px): all JPEG."""
    root, seed = tmp_path / "data", 0
    for split, letter, identities, each, size in (
        ("lowres", "l", 12, 5, 36),
        ("highres", "h", 6, 3, 144),
        ("highres_eval", "e", 4, 3, 144),
    ):
        for identity in range(identities):
            folder = root / split / f"{letter}{identity:03d}"
            folder.mkdir(parents=True)
            for n in range(each):
                (folder / f"{n}.jpg").write_bytes(jpeg(picture(seed, size)))
                seed += 1
    return root
