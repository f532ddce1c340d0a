"""The alignment templates that face sets are published in, as data, and the crop between theirs and the study's.

A template says where five landmarks lie in an aligned picture: the centres of the eyes, the tip of the nose and the
corners of the mouth, left and right as the viewer sees them. They stand here as they are published, in px from the
centre of the first pixel, as OpenCV's warpAffine counts. Boxes are measured from the corner of the picture, half a
pixel further up and left.
"""

from typing import NamedTuple

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.validation import unknown_name

CENTRE = 0.5
"""Of a pixel, in px from its corner."""
EYE_SHARE = 1 / 3
"""Distance between the eyes in the study's pictures, as a share of the side: 12 px of 36, 48 px of 144."""
EYE_HEIGHT = 4 / 9
"""Height of the eyes in the study's pictures, as a share of the side from the top: 16 px of 36, 64 px of 144.

A third of the side between the eyes does not yet say where they lie. In 80 real faces that were aligned to the
five-point template and cropped so (MTCNN's landmarks), the mean of the five landmarks lies at 0.637 of the height: 4/9
for the eyes gives 0.6365, the centre of the 112-px frame 0.655. The box of four ninths lies within that frame.
"""


class Box(NamedTuple):
    """A square of a picture: its edges in px from the upper left corner of the picture, which it may leave."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def side(self) -> float:
        """Width and height in px."""
        return self.x1 - self.x0

    def shares(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The same edges as shares of a frame of ``width`` x ``height`` px, as crop boxes of an augmentation are."""
        return self.x0 / width, self.y0 / height, self.x1 / width, self.y1 / height

    def outside(self, width: int, height: int) -> float:
        """By how many px the box leaves a frame of ``width`` x ``height`` px, at the edge where it does most."""
        return max(0.0, -self.x0, -self.y0, self.x1 - width, self.y1 - height)


class FaceTemplate(NamedTuple):
    """Where the landmarks of an aligned picture lie."""

    name: str
    width: int
    """Of the picture, in px; 0 where it is unknown."""
    height: int
    landmarks: tuple[tuple[float, float], ...] = ()
    """x, y in px from the centre of the first pixel: left eye, right eye, nose, left and right corner of the mouth;
    empty where they are unknown."""
    summary: str = ""

    @property
    def inter_eye(self) -> float:
        """Distance between the eyes in px, 0 where it is unknown."""
        if not self.landmarks:
            return 0.0
        (left_x, left_y), (right_x, right_y) = self.landmarks[:2]
        return float(((right_x - left_x) ** 2 + (right_y - left_y) ** 2) ** 0.5)

    @property
    def between_eyes(self) -> tuple[float, float]:
        """x, y in px from the corner of the picture of the point midway between the eyes; without landmarks the
        centre of the frame."""
        if not self.landmarks:
            return self.width / 2, self.height / 2
        (left_x, left_y), (right_x, right_y) = self.landmarks[:2]
        return (left_x + right_x) / 2 + CENTRE, (left_y + right_y) / 2 + CENTRE

    def scaled(self, width: int) -> "FaceTemplate":
        """The same template for pictures of ``width`` px; where the template's size is unknown they are square."""
        if not self.width:
            return self._replace(width=width, height=width)
        box = Box(0, 0, self.width, self.width)
        return self._replace(
            width=width, height=round(self.height * width / self.width), landmarks=_seen_in(box, width, self.landmarks)
        )


def _seen_in(box: Box, side: int, landmarks: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """``landmarks`` of a picture in its crop ``box``, brought to ``side`` px."""
    factor = side / box.side
    return tuple(
        ((x + CENTRE - box.x0) * factor - CENTRE, (y + CENTRE - box.y0) * factor - CENTRE) for x, y in landmarks
    )


ARCFACE = FaceTemplate(
    "arcface",
    112,
    112,
    ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)),
    "112x112, 35.2 px between the eyes: InsightFace, AdaFace, most published sets and test sets",
)
SPHEREFACE = FaceTemplate(
    "sphereface",
    96,
    112,
    ((30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041)),
    "96x112 (width x height), 35.2 px between the eyes: CenterLoss, SphereFace, CosFace of 2016 to 2018",
)


def _box_in(template: FaceTemplate, inter_eye: float) -> Box:
    """The study's box, not yet moved into the frame."""
    side = inter_eye / EYE_SHARE
    x, y = template.between_eyes
    height = EYE_HEIGHT if template.landmarks else 0.5
    return Box(x - side / 2, y - height * side, x + side / 2, y + (1 - height) * side)


def _study_template() -> FaceTemplate:
    """The study's template: the landmarks of the 112-px one, seen in its crop, 144 px."""
    box = _box_in(ARCFACE, ARCFACE.inter_eye)
    summary = "square, the eyes a third of the side apart: 36 px (12 px apart) and 144 px (48 px apart), the study's"
    return FaceTemplate("hrfr", 144, 144, _seen_in(box, 144, ARCFACE.landmarks), summary)


HRFR = _study_template()
UNKNOWN = FaceTemplate("unknown", 0, 0, (), "aligned in some other way, or not at all: the picture is used as it is")
TEMPLATES = {template.name: template for template in (ARCFACE, SPHEREFACE, HRFR, UNKNOWN)}


def template_named(name: str) -> FaceTemplate:
    """The template of that name. Raises UsageError, which lists those there are."""
    if name not in TEMPLATES:
        raise UsageError(f"template: {unknown_name(name, TEMPLATES)}")
    return TEMPLATES[name]


def crop_box(width: int, height: int, template: FaceTemplate = ARCFACE, inter_eye: float | None = None) -> Box:
    """The square of a picture in which the eyes are a third of the side apart, as in the study's pictures.

    The point midway between the eyes lies in the middle of its width, four ninths down (:data:`EYE_HEIGHT`). A 112-px
    picture of the ArcFace template gives 105.7 px, within its frame. Where the square would leave a frame that it fits
    into, it is moved inside; the whole picture is returned for the study's own template, and for an unknown one.

    Args:
        width, height: of the picture, in px; the template is scaled to them.
        template: how the picture was aligned.
        inter_eye: distance between the eyes in px of this picture, where it is not the template's. With an unknown
            template the centre of the frame is taken for the centre of the face.

    Raises:
        UsageError: a picture of another shape than the template's, or no distance between the eyes.
    """
    if inter_eye is not None and not 0 < inter_eye < width:
        raise UsageError(
            f"the distance between the eyes is {inter_eye:g} px; it must be more than 0 and less than the picture's"
            f" width, {width} px"
        )
    scaled = template.scaled(width)
    if template.width and abs(scaled.height - height) > 1:
        raise UsageError(
            f"a picture of {width}x{height} px is not of the template {template.name}, which is {template.width}x"
            f"{template.height} px or a multiple of it; name another template (unknown: none of them)"
        )
    distance = inter_eye or scaled.inter_eye or EYE_SHARE * min(width, height)
    box = _box_in(scaled._replace(height=height), distance)
    left, top = _inside(box.x0, box.side, width), _inside(box.y0, box.side, height)
    return Box(left, top, left + box.side, top + box.side)


def _inside(start: float, length: float, frame: float) -> float:
    """``start`` of an interval, moved so that it lies within 0..``frame`` where it is short enough."""
    return start if length > frame + 1e-6 else min(max(start, 0.0), max(frame - length, 0.0))
