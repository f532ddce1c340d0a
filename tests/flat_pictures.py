"""Pictures of one colour, whose colour is a number, and an embedder that looks the number up in a table."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


class TableEmbedder:
    """An embedder whose embeddings are known: row ``n`` of a table for the picture with number ``n``.

    Attributes:
        seen: the numbers of the pictures that were embedded.
    """

    name, size = "table", 8

    def __init__(self, table: NDArray[np.float64]) -> None:
        self.table = table.astype(np.float32)
        self.dimension, self.seen = table.shape[1], list[int]()

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = self.embed_unscaled(images)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_unscaled(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        digits = images.mean(axis=(1, 2)).astype(int) // 16
        numbers = digits @ np.array([1, 16, 256])
        self.seen += numbers.tolist()
        return self.table[numbers]

    def describe(self) -> dict[str, Any]:
        return {}


def write_picture(path: Path, number: int, size: tuple[int, int] = (9, 7)) -> None:
    """A JPEG of one colour that says ``number``, 0 to 4095, whatever its suffix, of ``size`` (height, width)."""
    colour = [16 * (number // 16**digit % 16) + 8 for digit in range(3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((*size, 3), colour[::-1], np.uint8)  # cv2 writes blue first
    path.write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes())
