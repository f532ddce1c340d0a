"""Detectors of faces with five landmarks, which come with their weights: nothing is downloaded."""

import importlib.metadata
import os
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.preparation.landmarks import Landmarks
from hrfr_fast.runtime.errors import UsageError

SMALLEST = 20
"""Least width of a face in px that MTCNN looks for. Of a larger number the package's search fails, as its scales
do not take it into account; so large photographs are shrunk instead, which costs no precision: MTCNN reads the
landmarks from 48 px of a face, however large it is."""
SHARE = 50
"""Of a large photograph faces narrower than the longer side divided by this are not looked for: the time of the search
grows with the square of the ratio."""


class Detector(Protocol):
    """Whatever finds faces."""

    @property
    def name(self) -> str:
        """Name and version, as they are recorded with the faces and printed beside results."""

    def faces(self, image: NDArray[np.uint8]) -> list[Landmarks]:
        """The landmarks of every face in a picture, uint8 [H, W, 3] RGB."""


class Mtcnn:
    """MTCNN (Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", IEEE
    SPL 2016) of the package ``mtcnn``, with the weights and the thresholds that come with it, on the CPU."""

    def __init__(self, smallest: int | None = None) -> None:
        """``smallest``: least width of a face in px; None: 20, and in large photographs a fiftieth of the longer side.

        Raises UsageError where the package or TensorFlow is missing; says how to install them.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes on every start are no news for the user
        try:
            package: Any = import_module("mtcnn")
            kinds: Any = import_module("mtcnn.stages")
        except ImportError as error:
            raise UsageError(
                f"finding faces needs the package mtcnn and TensorFlow ({error}): pip install 'hrfr-fast[align]'. With"
                " landmarks from elsewhere, --landmarks FILE.csv needs neither"
            ) from error
        # By its own path: the package would rather unpickle a file of this name in the working directory.
        weights = Path(package.__file__).parent / "assets" / "weights"
        stages = [
            stage(weights=str(weights / f"{name}.lz4"))
            for stage, name in ((kinds.StagePNet, "pnet"), (kinds.StageRNet, "rnet"), (kinds.StageONet, "onet"))
        ]
        self._detector: Any = package.MTCNN(stages=stages, device="CPU:0")
        self._smallest = smallest

    @property
    def name(self) -> str:
        return f"MTCNN (mtcnn {importlib.metadata.version('mtcnn')})"

    def faces(self, image: NDArray[np.uint8]) -> list[Landmarks]:
        import cv2

        smallest = self._smallest or max(SMALLEST, max(image.shape[:2]) / SHARE)
        height, width = (max(1, round(side * min(1.0, SMALLEST / smallest))) for side in image.shape[:2])
        shrunk = (
            image
            if (height, width) == image.shape[:2]
            else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        )
        found = self._detector.detect_faces(shrunk, output_type="numpy", min_face_size=min(SMALLEST, smallest))
        # A row is number, x, y, width, height, score, five x, five y; it has no landmarks where there is no face.
        points = [row[6:16].reshape(2, 5).T.astype(np.float64) for row in found if len(row) == 16]
        factor = np.array([image.shape[1] / width, image.shape[0] / height])
        return [(face + 0.5) * factor - 0.5 for face in points]
