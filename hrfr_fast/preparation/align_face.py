"""One photograph: read, its face found, turned to the template, and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrfr_fast.face_templates import FaceTemplate
from hrfr_fast.packing.decode import decode_whole
from hrfr_fast.packing.picture_files import Rejected, Unreadable, read_file
from hrfr_fast.preparation.antialiased_warp import aligned_face
from hrfr_fast.preparation.detectors import Detector
from hrfr_fast.preparation.face_crop import png
from hrfr_fast.preparation.landmarks import Choice, Landmarks, chosen_face
from hrfr_fast.resampling.similarity import similarity_transform

MOST_PIXELS = 100_000_000
"""Of a photograph: as pixels it takes three times as many bytes of memory."""
BEYOND = 0.5
"""How far landmarks may lie outside a photograph, as a share of its width and height: of a face cut by the edge."""


@dataclass(frozen=True)
class Photograph:
    """One photograph to align. ``listed``: its faces by a list of landmarks; None: a detector finds them."""

    path: str
    file: Path
    listed: Sequence[Landmarks] | None = None


@dataclass(frozen=True)
class Aligned:
    """What became of a photograph: a PNG file, or the reason why there is none."""

    path: str
    content: bytes = b""
    landmarks: Landmarks | None = None
    faces: int = 0
    reason: str = ""
    unreadable: bool = False


@dataclass(frozen=True)
class Aligner:
    """How photographs are aligned. ``template`` has the size that is wanted."""

    template: FaceTemplate
    choice: Choice
    detector: Detector | None = None

    def align(self, photograph: Photograph) -> Aligned:
        """The aligned face, or the reason why there is none."""
        try:
            return self._align(photograph)
        except Rejected as reason:
            return Aligned(photograph.path, reason=str(reason), unreadable=isinstance(reason, Unreadable))

    def _align(self, photograph: Photograph) -> Aligned:
        image = decode_whole(read_file(str(photograph.file)), MOST_PIXELS)
        height, width = image.shape[:2]
        faces = photograph.listed
        if faces is None:
            assert self.detector is not None
            faces = self.detector.faces(image)
            if not faces:
                raise Rejected("no face was found")
        if not faces:
            raise Rejected("the list of landmarks does not name it")
        landmarks = chosen_face(faces, self.choice, width, height)
        frame = np.array([width, height])
        if (landmarks < -BEYOND * frame).any() or (landmarks > (1 + BEYOND) * frame).any():
            raise Rejected(f"its landmarks lie outside the picture of {width}x{height} px")
        try:
            matrix = similarity_transform(landmarks, self.template.landmarks)
        except ValueError as error:
            raise Rejected(str(error)) from None
        face = aligned_face(image, matrix, self.template.width, self.template.height)
        return Aligned(photograph.path, png(face), landmarks, len(faces))


def align_all(aligner: Aligner, photographs: Sequence[Photograph]) -> list[Aligned]:
    """Several photographs, as a worker process takes them."""
    return [aligner.align(photograph) for photograph in photographs]
