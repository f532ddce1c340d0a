"""Parametric cartoon faces: an identity is a vector of traits, a picture is that face under one camera and mood.

All randomness is a pure function of (seed, split, identity, picture): Philox words become bounded normal and
uniform numbers, these become polygons in *face units* (1 = half the distance between the eyes, origin between
them, y down, z towards the camera), and OpenCV fills the polygons, back to front, on a supersampled canvas. Every
picture then goes through the same camera: light, colour cast, downscale, blur, noise, JPEG.

All pictures of one identity are laid out together, since NumPy's cost per call would dominate otherwise.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.philox import SYNTHESIS, philox, uniform

Floats = NDArray[np.float64]

EYES_APART = 1 / 3  # of the side
EYE_LEVEL = 0.44  # of the side, from the top
SUBPIXEL_BITS = 4
PICTURE_SLOTS = 12  # bits of the Philox position that number the words of one picture


@dataclass(frozen=True)
class Strengths:
    """How much everything varies: the knobs of how hard verification is. 1.0 in ``identity`` is the full spread."""

    identity: float = 0.6  # spread of the facial geometry between people
    skin: float = 0.75  # spread of skin tone between people
    detail: float = 1.0  # contrast of moles, freckles, wrinkles
    yaw: float = 0.3  # standard deviations, radians
    pitch: float = 0.16
    roll: float = 0.05
    shift: float = 0.025  # of the side
    zoom: float = 0.04
    light: float = 0.6  # relative brightness across the face
    exposure: float = 0.22
    cast: float = 0.12  # per colour channel
    expression: float = 1.3  # mouth, lids and brows
    restyle: float = 2.0  # hair worn differently from one picture to the next
    glasses: float = 0.12  # share of pictures
    blur: float = 0.9  # largest sigma, in pixels of a 72-px picture
    noise: float = 7.0  # mean sigma, in levels
    quality: tuple[int, int] = (60, 95)


DEFAULT = Strengths()

# Trait: mean and standard deviation over people, in face units unless the name says otherwise.
TRAITS: dict[str, tuple[float, float]] = {
    "forehead": (1.95, 0.14),
    "cheek": (2.15, 0.13),
    "jaw": (1.62, 0.2),
    "chin_width": (0.72, 0.16),
    "chin": (3.5, 0.2),
    "skull": (-2.75, 0.18),
    "ear_size": (0.62, 0.1),
    "ear_out": (0.18, 0.1),
    "eye_width": (0.52, 0.05),
    "eye_height": (0.25, 0.05),
    "eye_tilt": (0.0, 0.12),
    "eye_peak": (0.0, 0.25),
    "lower_lid": (0.55, 0.15),
    "iris": (0.25, 0.025),
    "lid_line": (0.05, 0.018),
    "crease": (0.17, 0.05),
    "socket": (0.12, 0.06),
    "brow_height": (0.7, 0.11),
    "brow_width": (0.68, 0.08),
    "brow_thick": (0.12, 0.04),
    "brow_arch": (0.14, 0.09),
    "brow_tilt": (0.0, 0.12),
    "brow_gap": (0.0, 0.08),
    "brow_taper": (0.5, 0.2),
    "nose_length": (1.3, 0.14),
    "nose_width": (0.46, 0.08),
    "nose_bridge": (0.18, 0.05),
    "nose_tip": (0.2, 0.05),
    "nose_hook": (0.0, 0.08),
    "nostril": (0.11, 0.025),
    "mouth": (2.28, 0.13),
    "mouth_width": (0.85, 0.11),
    "upper_lip": (0.15, 0.05),
    "lower_lip": (0.21, 0.06),
    "bow": (0.3, 0.15),
    "mouth_curve": (0.0, 0.07),
    "lip_red": (0.45, 0.14),
    "fold": (0.18, 0.12),
    "blush": (0.1, 0.06),
    "hairline": (-1.75, 0.24),
    "hairline_curve": (0.16, 0.12),
    "fringe_slope": (0.0, 0.22),
    "fringe_wave": (0.0, 0.13),
    "fringe_phase": (0.0, 1.5),
    "hair_volume": (0.4, 0.18),
    "hair_height": (0.55, 0.2),
    "hair_length": (1.4, 1.7),
    "beard": (-0.25, 0.3),
    "skin_tone": (0.4, 0.26),
    "skin_warmth": (0.0, 1.0),
    "hair_tone": (0.35, 0.3),
    "hair_red": (0.2, 0.2),
    "eye_tone": (0.3, 0.35),
    "eye_hue": (0.5, 0.35),
    "lashes": (0.5, 0.25),
}
# Nuisance of one picture: standard normals, scaled where they are used.
MOODS = [
    "yaw", "pitch", "roll", "shift_x", "shift_y", "zoom", "light_x", "light_y", "exposure", "red", "green",
    "blue", "contrast", "smile", "open", "eyes", "brows", "gaze_x", "gaze_y", "part", "wave", "length", "volume",
    "stubble", "red_eyes", "collar", "noise", "flush", "frown", "squint",
]  # fmt: skip
# Uniform numbers of one picture.
CHANCES = [
    "glasses", "frame", "lens", "blur", "quality", "noise_x", "noise_y", "cloth_r", "cloth_g", "cloth_b",
]  # fmt: skip
BACKDROP = 27  # uniform numbers of a 3 x 3 grid of colours
SPOTS, WRINKLES, STRANDS = 40, 7, 14
FINE = SPOTS * 4 + WRINKLES * 5 + STRANDS * 3 + 12

SKINS = np.array(
    [[255, 224, 200], [240, 200, 165], [214, 165, 125], [172, 120, 82], [120, 78, 52], [80, 52, 38]], float
)
HAIRS = np.array([[28, 22, 22], [62, 42, 30], [110, 72, 44], [168, 124, 72], [218, 190, 130]], float)
EYES = np.array([[58, 36, 22], [104, 70, 36], [96, 116, 62], [84, 128, 150], [120, 150, 190]], float)


@dataclass(frozen=True)
class Identity:
    """One person: ``traits`` shows at any size, ``fine`` [FINE] uniform numbers only at high resolution."""

    traits: dict[str, float]
    fine: Floats


@dataclass(frozen=True)
class Moment:
    """What differs between pictures; arrays of one row a picture."""

    mood: dict[str, Floats]  # [P, 1] standard normals, bounded by 3.5
    chance: dict[str, Floats]  # [P, 1] uniform in [0, 1)
    backdrop: Floats  # [P, 27]


def _words(seed: int, split: int, identity: int, slots: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """[slots, count] words. Slot 0: the traits; 1: the fine detail; 2 + p: picture p."""
    blocks = np.arange(-(-count // 4))
    position = (slots[:, None] << PICTURE_SLOTS) + blocks
    words = philox(seed, identity, position, purpose=SYNTHESIS, view=split)
    return words.reshape(len(slots), -1)[:, :count]


def _normal(words: NDArray[np.uint64]) -> Floats:
    """Sum of a word's four bytes, standardised: bell-shaped, bounded by 3.5, and exact everywhere."""
    total = sum(((words >> np.uint64(8 * i)) & np.uint64(255)).astype(np.float64) for i in range(4))
    return np.asarray((total - 510.0) / 147.8)


def draw_identity(seed: int, split: int, identity: int, strengths: Strengths = DEFAULT) -> Identity:
    """The person number ``identity`` of split number ``split``."""
    words = _words(seed, split, identity, np.array([0, 1]), max(len(TRAITS), FINE))
    normals = _normal(words[0])
    traits = {}
    for (name, (mean, deviation)), z in zip(TRAITS.items(), normals.tolist(), strict=False):
        spread = strengths.skin if name.startswith("skin") else strengths.identity
        traits[name] = mean + deviation * z * spread
    return Identity(traits, uniform(words[1, :FINE]).astype(np.float64))


def draw_moment(seed: int, split: int, identity: int, pictures: NDArray[np.int64]) -> Moment:
    """The circumstances of ``pictures`` [P] of one person."""
    count = len(MOODS) + len(CHANCES) + BACKDROP
    words = _words(seed, split, identity, np.asarray(pictures) + 2, count)
    normals = _normal(words[:, : len(MOODS)])
    uniforms = uniform(words[:, len(MOODS) :]).astype(np.float64)
    mood = {name: normals[:, i : i + 1] for i, name in enumerate(MOODS)}
    chance = {name: uniforms[:, i : i + 1] for i, name in enumerate(CHANCES)}
    return Moment(mood, chance, uniforms[:, len(CHANCES) :])


def _palette(colours: Floats, tone: float) -> Floats:
    position = float(np.clip(tone, 0.0, 1.0)) * (len(colours) - 1)
    low = min(int(position), len(colours) - 2)
    return np.asarray(colours[low] + (colours[low + 1] - colours[low]) * (position - low))


def _mix(a: Floats, b: Floats | float, share: float | Floats) -> Floats:
    return np.asarray(a + (b - a) * share)


class Scene:
    """Polygons of all pictures, back to front, in face units."""

    def __init__(self, pictures: int, pixel: float) -> None:
        self.pictures = pictures
        self.pixel = pixel  # a canvas pixel in face units
        self.xyz: list[Floats] = []
        self.colours: list[Floats] = []
        self.when: list[NDArray[np.bool_] | None] = []
        self.crisp_from = 0

    def add(
        self, x: Floats, y: Floats, z: Floats | float, colour: Floats, when: NDArray[np.bool_] | None = None
    ) -> None:
        """A polygon with x, y, z broadcast to [P, K]; ``colour`` [3] or [P, 3]; ``when`` [P] says where it shows."""
        width = max(np.shape(x)[-1], np.shape(y)[-1])
        xyz = np.empty((self.pictures, width, 3))
        xyz[..., 0], xyz[..., 1], xyz[..., 2] = x, y, z
        self.xyz.append(xyz)
        self.colours.append(np.broadcast_to(colour, (self.pictures, 3)))
        self.when.append(when)

    def both(
        self, x: Floats, y: Floats, z: Floats | float, colour: Floats, when: NDArray[np.bool_] | None = None
    ) -> None:
        """The polygon and its mirror image."""
        self.add(x, y, z, colour, when)
        self.add(-x, y, z, colour, when)

    def ellipse(self, x: Floats | float, y: Floats | float, rx: float, ry: float, z: float, colour: Floats) -> None:
        self.add(x + rx * CIRCLE[:, 0], y + ry * CIRCLE[:, 1], z, colour)

    def cover(self, width: float) -> float:
        """Share of a canvas pixel that a line of ``width`` covers: a filled polygon is never thinner than a pixel."""
        return min(1.0, width / self.pixel)


_angles = np.arange(14) * (2 * np.pi / 14)
CIRCLE = np.stack([np.cos(_angles), np.sin(_angles)], 1)
LID = np.linspace(-1, 1, 11)  # across an eye or a mouth


@cache
def _closed_spline(controls: int, steps: int = 4) -> Floats:
    """[controls * steps, controls] weights of a closed Catmull-Rom curve through its control points."""
    weights = np.zeros((controls * steps, controls))
    for segment in range(controls):
        for step in range(steps):
            t = step / steps
            basis = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
            for offset, weight in enumerate(basis):
                weights[segment * steps + step, (segment + offset - 1) % controls] += weight / 2
    return weights


def _ribbon(x: Floats, y: Floats, half: Floats | float) -> tuple[Floats, Floats]:
    """A mostly horizontal line [..., K] as a polygon [..., 2K] reaching ``half`` above and below it."""
    x, y = np.broadcast_arrays(x, y)
    return np.concatenate([x, x[..., ::-1]], -1), np.concatenate([y - half, (y + half)[..., ::-1]], -1)


def _post(x: Floats, y: Floats, half: Floats | float) -> tuple[Floats, Floats]:
    """A mostly vertical line as a polygon."""
    y, x = _ribbon(y, x, half)
    return x, y


def compose(person: Identity, moment: Moment, strengths: Strengths, pixel: float) -> Scene:
    """Lay the face out once for every picture of ``moment``."""
    t, m = person.traits, moment.mood
    scene = Scene(len(moment.backdrop), pixel)
    skin = _palette(SKINS, t["skin_tone"]) * np.array([1 + 0.02 * t["skin_warmth"], 1.0, 1 - 0.03 * t["skin_warmth"]])
    hair = _palette(HAIRS, t["hair_tone"]) * np.array([1.0 + 0.35 * max(t["hair_red"], 0.0), 1.0, 1.0])
    mouth_open = strengths.expression * np.maximum(m["open"] - 0.5, 0) * 0.22
    _behind(scene, t, m, moment.chance, strengths, skin, hair)
    _skin(scene, t, m, strengths, skin, hair, mouth_open)
    scene.crisp_from = len(scene.xyz)
    _eyes(scene, t, m, strengths, skin, person.fine)
    _brows(scene, t, m, strengths, skin, hair, person.fine)
    _nose(scene, t, skin)
    _mouth(scene, t, m, strengths, skin, mouth_open)
    _fine(scene, person.fine, strengths, skin)
    _fringe(scene, t, m, strengths, hair, person.fine)
    _glasses(scene, t, moment.chance, strengths)
    return scene


def _behind(
    scene: Scene, t: dict[str, float], m: dict[str, Floats], chance: dict[str, Floats], strengths: Strengths,
    skin: Floats, hair: Floats,
) -> None:  # fmt: skip
    cloth = np.concatenate([chance["cloth_r"], chance["cloth_g"], chance["cloth_b"]], 1) * 200 + 20
    volume = t["hair_volume"] + 0.1 * strengths.restyle * m["volume"]
    length = t["hair_length"] + 0.5 * strengths.restyle * m["length"]
    half = np.maximum(t["cheek"] - 0.05 + volume * 0.8, t["cheek"] * 0.8)
    top = t["skull"] - np.maximum(t["hair_height"], 0.05) * (1 + 0.15 * m["volume"])
    x = np.concatenate([0 * half, half * 0.75, half, half * 1.03, half * 0.9, half * 0.2], 1)
    y = np.concatenate([top, top + 0.45, 0 * half - 1.3, 0.55 * length, length, length + 0.1], 1)
    weights = _closed_spline(11)
    mirrored = np.concatenate([x, -x[:, :0:-1]], 1), np.concatenate([y, y[:, :0:-1]], 1)
    scene.add(mirrored[0] @ weights.T, mirrored[1] @ weights.T, -1.0, hair * 0.8)
    scene.add(np.array([-0.95, 0.95, 1.15, -1.15]) * t["jaw"] * 0.7, np.array([2.0, 2.0, 5.5, 5.5]), -0.9, skin * 0.74)
    collar = 4.3 + 0.25 * m["collar"]
    scene.add(
        np.array([-5.0, -1.4, 0, 1.4, 5.0, 5.0, -5.0]), collar + np.array([0.6, -0.3, 0.2, -0.3, 0.6, 3, 3]), -1, cloth
    )
    reach = t["cheek"] + t["ear_out"]
    for side in (-1, 1):
        scene.ellipse(side * reach, 0.55, t["ear_size"] * 0.5, t["ear_size"], -1.1, skin * 0.9)
        scene.ellipse(side * (reach + 0.05), 0.55, t["ear_size"] * 0.25, t["ear_size"] * 0.6, -1.1, skin * 0.76)


def _skin(
    scene: Scene, t: dict[str, float], m: dict[str, Floats], strengths: Strengths, skin: Floats, hair: Floats,
    mouth_open: Floats,
) -> None:  # fmt: skip
    """The head and everything on it without an edge; blurred once drawn."""
    one = np.ones_like(mouth_open)
    chin = t["chin"] + mouth_open * 0.8
    outline = [0, 0.62 * t["forehead"], t["forehead"], t["cheek"], t["cheek"] * 0.97, t["jaw"], t["chin_width"], 0]
    level: list[Any] = [t["skull"], t["skull"] + 0.3, -1.5, 0.1, 1.1, 2.35 + mouth_open * 0.4, chin - 0.3, chin]
    x = np.concatenate([one * v for v in outline], 1)
    y = np.concatenate([one * v for v in level], 1)
    z = np.concatenate([one * v for v in (-0.2, -0.4, -0.6, -0.8, -0.8, -0.4, 0.1, 0.2)], 1)
    mirror = slice(-2, 0, -1)
    x, y, z = (
        np.concatenate([x, -x[:, mirror]], 1),
        np.concatenate([y, y[:, mirror]], 1),
        np.concatenate([z, z[:, mirror]], 1),
    )
    weights = _closed_spline(x.shape[1]).T
    scene.add(x @ weights, y @ weights, z @ weights, skin)
    beard = np.clip(t["beard"] + 0.06 * m["stubble"], 0, 0.75)
    if (beard > 0).any():
        _beard(scene, t, chin, _mix(skin, hair * 0.9, beard))
    flush = np.clip(t["blush"] + 0.04 * m["flush"], 0, 0.4)
    pink = _mix(skin, skin * np.array([1.0, 0.72, 0.7]), flush * 2)
    for side in (-1, 1):
        scene.ellipse(side * 1.25, 1.2, 0.5, 0.34, 0.1, pink)
        scene.ellipse(side * 1.0, -0.08, 0.72, 0.45, 0.1, skin * (1 - max(t["socket"], 0.0)))
    bridge = np.array([0.55, 0.9, 1.0, 1.5])
    side_x = np.array([1.0, 1.0, 1.2, 1.8]) * t["nose_bridge"]
    side_x[3] = t["nose_width"] * 0.8
    y_nose = np.array([-0.25, 0.3, 0.7, 1.0]) * t["nose_length"]
    scene.both(
        np.concatenate([side_x, side_x[::-1] + 0.14 * bridge[::-1]]),
        np.concatenate([y_nose, y_nose[::-1]]),
        0.5,
        skin * 0.92,
    )
    shine = np.minimum(skin * 1.08, 255)
    bend = t["nose_hook"] * np.array([0, 1, 0.6, 0])
    scene.add(*_post(bend, y_nose, t["nose_bridge"] * 0.45), 0.75, shine)
    scene.ellipse(0.0, t["nose_length"] * 0.92, t["nose_tip"], t["nose_tip"] * 0.8, 0.95, shine)
    scene.ellipse(0.0, t["mouth"] + 0.62, 0.45, 0.12, 0.3, skin * 0.9)
    smile = np.clip(strengths.expression * m["smile"], -1, 2)
    fold = np.clip(t["fold"] + 0.08 * smile, 0, 0.45)
    fold_x, fold_y = np.array([0.55, 0.85, 1.0]) + 0.06 * smile, np.array([1.25, 1.7, 2.1]) + 0 * smile
    scene.both(*_post(fold_x, fold_y, np.array([0.03, 0.07, 0.03])), 0.35, _mix(skin, skin * 0.7, fold * 1.6))


def _beard(scene: Scene, t: dict[str, float], chin: Floats, colour: Floats) -> None:
    x = np.array([0.97, 0.9, 0.78, 0.45, 0.0]) * t["cheek"] * np.array([1, 1, t["jaw"] / 1.62 * 0.98, 0.8, 1])
    y = np.concatenate([0 * chin + 1.0, 0 * chin + 1.9, 0 * chin + 2.6, chin - 0.25, chin], 1)
    inner_x, inner_y = np.array([0.0, 0.5, 0.95, 1.3]), t["mouth"] + np.array([-0.45, -0.42, -0.1, -0.6])
    inner_y = np.broadcast_to(inner_y, (len(chin), 4))
    x = np.concatenate([x, inner_x])
    scene.both(x, np.concatenate([y, inner_y], 1), -0.1, colour)


def _eyes(
    scene: Scene, t: dict[str, float], m: dict[str, Floats], strengths: Strengths, skin: Floats, fine: Floats
) -> None:
    opening = np.clip(1 + 0.22 * strengths.expression * (m["eyes"] - 0.5 * np.maximum(m["squint"], 0)), 0.15, 1.5)
    peak = np.clip(1 - np.abs(LID - 0.3 * t["eye_peak"]) ** 2.2, 0, 1) * np.clip(1.02 - LID**8, 0, 1)
    upper = -t["eye_height"] * opening * peak
    lower = t["eye_height"] * t["lower_lid"] * (1 - LID**2) * np.ones_like(opening)
    tilt = -t["eye_tilt"] * LID * t["eye_width"]
    white = np.array([238.0, 234, 230]) - np.maximum(m["red_eyes"], 0) * np.array([2.0, 9, 9])
    iris = _palette(EYES, t["eye_tone"] * 0.9 + 0.1 * t["eye_hue"])
    ring = 0.7 + 0.6 * (fine[-1] - 0.5) * strengths.detail
    gaze_x, gaze_y = 0.09 * m["gaze_x"], 0.03 * m["gaze_y"]
    dark = np.array([30.0, 22, 20])
    radius = t["iris"]
    for side in (-1, 1):
        x = side * (1.0 + LID * t["eye_width"])
        top, bottom = upper + tilt, lower + tilt
        lid_x = np.concatenate([x, x[::-1]])
        scene.add(lid_x, np.concatenate([top, bottom[:, ::-1]], 1), 0.2, white)

        def disc(scale: float, colour: Floats, dx: float = 0.0, dy: float = 0.0, side: int = side) -> None:
            """A disc within the iris, cut off by the lids."""
            along = side * gaze_x + (radius * scale * CIRCLE[:, 0] + dx) * side
            along = np.clip(along / t["eye_width"], -0.98, 0.98)
            y = gaze_y - 0.02 + radius * scale * CIRCLE[:, 1] + dy
            high = np.stack([np.interp(a, LID, v) for a, v in zip(along, upper + tilt, strict=True)])
            low = np.stack([np.interp(a, LID, v) for a, v in zip(along, lower + tilt, strict=True)])
            scene.add(side * (1.0 + along * t["eye_width"]), np.minimum(np.maximum(y, high), low), 0.2, colour)

        disc(1.0, iris * 0.55)
        disc(0.86, iris)
        if scene.pixel < 0.03:
            disc(ring, _mix(iris, _palette(EYES, float(fine[-2])), 0.6 * strengths.detail))
        disc(0.45, dark * 0.5)
        disc(0.2, np.array([250.0, 250, 250]), 0.09 * side, -0.08)
        lash = t["lid_line"] * np.clip(1.1 - 0.5 * LID**2, 0.2, 2)
        scene.add(*_ribbon(x, top, lash), 0.22, _mix(skin * 0.4, dark, 0.5 + 0.4 * t["lashes"]))
        scene.add(*_ribbon(x, bottom, 0.018), 0.22, _mix(skin, skin * 0.6, 0.8 * scene.cover(0.04)))
        crease = top - np.maximum(t["crease"], 0.06) * np.clip(1.1 - LID**2, 0.2, 1)
        scene.add(*_ribbon(x, crease, 0.02), 0.2, _mix(skin, skin * 0.6, scene.cover(0.045)))


def _brows(
    scene: Scene, t: dict[str, float], m: dict[str, Floats], strengths: Strengths, skin: Floats, hair: Floats,
    fine: Floats,
) -> None:  # fmt: skip
    raised = 0.13 * strengths.expression * m["brows"]
    frown = 0.09 * strengths.expression * m["frown"]
    level = -np.clip(t["brow_height"], 0.45, 1.2) - raised
    x = 1.05 + t["brow_gap"] + LID * t["brow_width"]
    y = level - t["brow_arch"] * (1 - (LID - 0.25) ** 2) - (t["brow_tilt"] + frown) * LID * 0.8
    half = (
        max(t["brow_thick"], 0.035)
        * (1 - np.clip(t["brow_taper"], 0, 0.9) * (LID + 1) / 2)
        * np.clip(1.3 - LID**6, 0, 1)
    )
    colour = _mix(hair * 0.75, skin, 0.12)
    scene.both(*_ribbon(x, y, half), 0.35, colour)
    if scene.pixel < 0.03:
        for i in range(4):
            a = fine[-12 + i] * 1.6 - 0.9
            at = np.array([a, a + 0.05, a + 0.22, a + 0.18])
            hairs_y = level - t["brow_arch"] * (1 - (a - 0.25) ** 2) - (t["brow_tilt"] + frown) * a * 0.8
            rise = np.array([0.06, 0.06, -0.09, -0.09]) * (0.5 + fine[-8 + i])
            scene.both(1.05 + t["brow_gap"] + at * t["brow_width"], hairs_y + rise, 0.35, colour * 0.6)


def _nose(scene: Scene, t: dict[str, float], skin: Floats) -> None:
    base, width = t["nose_length"], t["nose_width"]
    wing_x = width * np.array([0.82, 1.0, 0.98, 0.75])
    wing_y = base + np.array([-0.22, -0.1, 0.06, 0.12])
    scene.both(*_post(wing_x, wing_y, np.array([0.015, 0.03, 0.03, 0.02])), 0.55, skin * 0.68)
    hole_x, hole_y = width * 0.45 + t["nostril"] * 1.2 * CIRCLE[:, 0], base + 0.07 + t["nostril"] * 0.55 * CIRCLE[:, 1]
    scene.both(hole_x, hole_y, 0.8, skin * 0.35)
    under = np.linspace(-0.4, 0.4, 5) * width
    scene.add(
        *_ribbon(under, base + 0.15 - 0.8 * np.abs(under) ** 2, 0.022), 0.8, _mix(skin, skin * 0.6, scene.cover(0.05))
    )


def _mouth(
    scene: Scene, t: dict[str, float], m: dict[str, Floats], strengths: Strengths, skin: Floats, mouth_open: Floats
) -> None:
    smile = np.clip(strengths.expression * m["smile"], -1.5, 2.5)
    x = LID * (t["mouth_width"] * (1 + 0.09 * smile))
    line = t["mouth"] + (t["mouth_curve"] - 0.09 * smile) * (LID**2 - 0.3)
    body = np.clip(1 - LID**2, 0, 1)
    bow = 1 - t["bow"] * np.exp(-((LID / 0.18) ** 2))
    top = line - max(t["upper_lip"], 0.03) * body**0.7 * bow - mouth_open * 0.25 * body
    upper_edge = line - mouth_open * 0.3 * body
    lower_edge = line + mouth_open * 1.3 * body
    bottom = lower_edge + max(t["lower_lip"], 0.05) * body**0.6
    red = _mix(skin * 0.85, np.array([176.0, 62, 70]), float(np.clip(t["lip_red"], 0.05, 0.95)))

    def between(a: Floats, b: Floats, colour: Floats) -> None:
        scene.add(np.concatenate([x, x[:, ::-1]], 1), np.concatenate([a, b[:, ::-1]], 1), 0.45, colour)

    between(upper_edge, lower_edge, np.array([70.0, 26, 28]))
    between(upper_edge, np.minimum(upper_edge + 0.16, lower_edge), np.array([236.0, 230, 220]))
    between(top, upper_edge, red * 0.88)
    between(lower_edge, bottom, np.minimum(red * 1.06, 255))
    scene.add(
        *_ribbon(x, (upper_edge + lower_edge) / 2, 0.028 * body + 0.008), 0.45, red * 0.45, mouth_open[:, 0] < 0.03
    )


def _fine(scene: Scene, fine: Floats, strengths: Strengths, skin: Floats) -> None:
    """Freckles, moles and wrinkles: half a pixel or less of a 36-px picture."""
    spots = fine[: SPOTS * 4].reshape(SPOTS, 4)
    freckled = fine[-3] < 0.4
    for i, (a, b, c, d) in enumerate(spots.tolist()):
        mole = i < 2 + int(fine[-4] * 5)
        if not mole and not freckled:
            break
        x, y = (3.4 * a - 1.7, 4.6 * b - 1.5) if mole else (2.8 * a - 1.4, 0.4 + 1.1 * b)
        radius = 0.03 + 0.025 * c if mole else 0.02 + 0.02 * c
        colour = (
            _mix(skin, np.array([60.0, 34, 26]), 0.8)
            if mole
            else _mix(skin, skin * np.array([0.72, 0.6, 0.5]), 0.5 + 0.4 * d)
        )
        share = strengths.detail * scene.cover(2 * radius) ** 2
        scene.ellipse(x, y, radius, radius, 0.3, _mix(skin, colour, min(share, 1.0)))
    lines = fine[SPOTS * 4 : SPOTS * 4 + WRINKLES * 5].reshape(WRINKLES, 5)
    span = np.linspace(-1, 1, 5)
    for i, (a, b, c, d, e) in enumerate(lines.tolist()):
        if e < 0.35:
            continue
        shade = _mix(skin, skin * 0.62, min((0.4 + 0.5 * c) * strengths.detail * scene.cover(0.05), 1.0))
        if i < 3:  # across the forehead
            along, level = (
                0.5 * (a - 0.5) + span * (0.4 + 0.8 * d),
                -1.15 - 0.25 * i + 0.15 * (b - 0.5) + 0.08 * span**2,
            )
            scene.add(*_ribbon(along, level, 0.02), 0.1, shade)
        else:  # crow's feet and under the eyes
            side = 1 if i % 2 else -1
            along, level = side * (0.9 + 0.7 * a + 0.3 * span), 0.45 + 0.25 * b + (d - 0.5) * 0.3 * span
            scene.add(*_ribbon(along, level, 0.016), 0.1, shade)


def _fringe(
    scene: Scene, t: dict[str, float], m: dict[str, Floats], strengths: Strengths, hair: Floats, fine: Floats
) -> None:
    restyle = strengths.restyle
    volume = t["hair_volume"] * 0.5 + 0.06 * restyle * m["volume"]
    half = t["cheek"] * 0.97 + np.maximum(volume, 0.0)
    top = t["skull"] - np.maximum(t["hair_height"], 0.02) * (1 + 0.15 * m["volume"])
    arc = np.linspace(np.pi, 0, 13)
    outer_x = half * np.cos(arc)
    outer_y = -0.7 + (top + 0.7) * np.sin(arc) ** 0.8
    s = np.linspace(1, -1, 13)
    slope = t["fringe_slope"] + 0.12 * restyle * m["part"]
    wave = (t["fringe_wave"] + 0.06 * restyle * m["wave"]) * np.sin(5 * s + t["fringe_phase"])
    inner_y = t["hairline"] + 0.07 * restyle * m["part"] + t["hairline_curve"] * (3 * s**2) + slope * s + wave
    inner_y = np.minimum(inner_y + 1.1 * np.clip(np.abs(s) - 0.8, 0, 1) * 5, -0.2 + 0 * inner_y)
    inner_y = np.maximum(inner_y, -0.7 + (top + 0.7) * np.sqrt(np.clip(1 - s**2, 0, 1)))
    inner_x = s * t["cheek"] * 0.98
    scene.add(
        np.concatenate([outer_x, np.broadcast_to(inner_x, outer_x.shape)], 1),
        np.concatenate([outer_y, inner_y], 1),
        -0.1,
        hair,
    )
    if scene.pixel < 0.03:
        strands = fine[SPOTS * 4 + WRINKLES * 5 :][: STRANDS * 3].reshape(STRANDS, 3)
        for a, b, c in strands.tolist():
            at = int(a * 11) + 1
            start = np.stack([outer_x[:, at] * 0.96, outer_y[:, at] * 0.96], 1)
            end = np.stack([np.broadcast_to(inner_x[12 - at], start[:, 0].shape), inner_y[:, 12 - at]], 1)
            way = np.array([0.0, 0.35, 0.75]) + 0.2 * b
            x = start[:, :1] + (end - start)[:, :1] * way + 0.1 * (c - 0.5) * np.array([0, 1.0, 0])
            y = start[:, 1:] + (end - start)[:, 1:] * way
            scene.add(*_post(x, y, 0.03), -0.1, hair * (0.8 if c < 0.6 else 1.22))


def _glasses(scene: Scene, t: dict[str, float], chance: dict[str, Floats], strengths: Strengths) -> None:
    worn = chance["glasses"][:, 0] < strengths.glasses
    if not worn.any():
        return
    rim = np.concatenate([chance["frame"], chance["frame"] * 0.7, chance["lens"]], 1) * 120 + 15
    square = np.sign(CIRCLE) * np.abs(CIRCLE) ** 0.6
    outline = np.concatenate([CIRCLE, CIRCLE[:1]]) * (0.4 + 0.6 * chance["lens"][:, :, None])
    outline = outline + np.concatenate([square, square[:1]]) * (0.6 - 0.6 * chance["lens"][:, :, None])
    for side in (-1, 1):
        edge = np.concatenate([outline * 0.74, outline[:, ::-1] * 0.84], 1)
        scene.add(side * 1.03 + edge[..., 0], 0.08 + 0.85 * edge[..., 1], 0.6, rim, worn)
        scene.add(*_ribbon(np.array([1.85, t["cheek"]]) * side, np.array([-0.15, 0.0]), 0.06), 0.0, rim, worn)
    scene.add(*_ribbon(np.array([-0.22, 0, 0.22]), np.array([0.0, -0.08, 0.0]), 0.05), 0.7, rim, worn)


def project(scene: Scene, m: dict[str, Floats], strengths: Strengths, canvas: int) -> list[NDArray[np.int32]]:
    """Canvas coordinates with ``SUBPIXEL_BITS`` fractional bits, one [P, K, 2] array a shape."""
    points = np.concatenate(scene.xyz, axis=1)
    x, y, z = points[..., 0], points[..., 1], points[..., 2] - 0.2  # the eyes stay where the alignment puts them
    yaw, pitch, roll = (strengths.yaw * m["yaw"], strengths.pitch * m["pitch"], strengths.roll * m["roll"])
    x = x * np.cos(yaw) + z * np.sin(yaw)
    y = y * np.cos(pitch) + z * np.sin(pitch)
    near = 1 + 0.03 * x * np.sin(yaw) + 0.03 * y * np.sin(pitch)
    scale = near * np.exp(strengths.zoom * m["zoom"]) / np.sqrt(np.cos(yaw)) * (EYES_APART / 2)
    u = 0.5 + strengths.shift * m["shift_x"] + scale * (x * np.cos(roll) - y * np.sin(roll))
    v = EYE_LEVEL + strengths.shift * m["shift_y"] + scale * (x * np.sin(roll) + y * np.cos(roll))
    pixels = np.stack([u, v], -1) * canvas - 0.5
    fixed = np.rint(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)
    return np.split(fixed, np.cumsum([shape.shape[1] for shape in scene.xyz])[:-1], axis=1)


@cache
def _noise(seed: int) -> NDArray[np.float32]:
    """A tile of standard noise that pictures cut their grain from."""
    position = np.arange(256 * 256 * 3).reshape(256, 256, 3)
    words = philox(seed, 0xFFFFFFFF, position, purpose=SYNTHESIS, view=0xFFFF)
    return _normal(words[..., 0]).astype(np.float32)


@cache
def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Two components of the surface normal of an egg-shaped head, and its height towards the camera."""
    side = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = np.meshgrid((side - 0.5) / 0.38, (side - EYE_LEVEL - 0.07) / 0.54)
    squared = u * u + v * v
    longest = np.sqrt(np.maximum(squared, 1))
    return (
        (u / longest).astype(np.float32),
        (v / longest).astype(np.float32),
        np.sqrt(np.maximum(1 - squared, 0)).astype(np.float32),
    )


def render(
    seed: int, split: int, identity: int, pictures: NDArray[np.int64], size: int, strengths: Strengths = DEFAULT,
    person: Identity | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:  # fmt: skip
    """Pictures of one person as the camera saves them.

    Args:
        seed, split, identity, pictures: [P] picture numbers; together they decide every pixel.
        size: pixels a side.
        person: someone else's traits under the same circumstances.

    Returns:
        uint8 [P, size, size, 3] RGB before JPEG, and the JPEG quality [P] to save each with.
    """
    person = person or draw_identity(seed, split, identity, strengths)
    moment = draw_moment(seed, split, identity, pictures)
    canvas = size * (2 if size >= 100 else 3)
    scene = compose(person, moment, strengths, pixel=2 / (EYES_APART * canvas))
    shapes = project(scene, moment.mood, strengths, canvas)
    colours = np.clip(np.stack(scene.colours, 1), 0, 255).tolist()
    images = np.empty((len(pictures), size, size, 3), np.uint8)
    for i in range(len(pictures)):
        drawn = _paint(scene, shapes, colours[i], moment.backdrop[i], canvas, i)
        images[i] = _camera(drawn, moment, strengths, size, seed, i)
    low, high = strengths.quality
    quality = low + (moment.chance["quality"][:, 0] * (high - low + 1)).astype(np.int64)
    return images, quality


def _paint(
    scene: Scene, shapes: list[NDArray[np.int32]], colours: list[list[float]], backdrop: Floats, canvas: int, i: int
) -> NDArray[np.uint8]:
    grid = (backdrop.reshape(3, 3, 3) * 215 + 20).astype(np.uint8)
    image = cv2.resize(grid, (canvas, canvas), interpolation=cv2.INTER_LINEAR)
    for number, (shape, colour, when) in enumerate(zip(shapes, colours, scene.when, strict=True)):
        if number == scene.crisp_from:
            image = cv2.GaussianBlur(image, (0, 0), 0.012 * canvas)
        if when is None or when[i]:
            cv2.fillPoly(image, [shape[i]], colour, cv2.LINE_AA, SUBPIXEL_BITS)
    return np.asarray(image, np.uint8)


def _camera(
    drawn: NDArray[np.uint8], moment: Moment, strengths: Strengths, size: int, seed: int, i: int
) -> NDArray[np.uint8]:
    """Light, exposure, downscale, blur, grain."""
    m, chance = moment.mood, moment.chance

    def mood(name: str) -> float:
        return float(m[name][i, 0])

    image: NDArray[Any] = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    across, down, height = _grid(size)
    light = strengths.light
    shade = across * (light * mood("light_x") * 0.5) + down * (light * 0.35 * mood("light_y") - 0.1) + height * 0.16
    gain = np.exp(strengths.exposure * mood("exposure"))
    shade = np.maximum(shade + np.float32(0.88), np.float32(0.25))
    image *= shade[..., None]
    cast = gain * np.exp(strengths.cast * np.array([mood("red"), mood("green"), mood("blue")]))
    contrast = np.exp(0.12 * mood("contrast"))
    image *= (cast * contrast).astype(np.float32)
    image += np.float32(115 * (1 - contrast))
    sigma = strengths.blur * float(chance["blur"][i, 0]) ** 2 * size / 72
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise, span = _noise(seed), 256 - size
    top, left = int(chance["noise_y"][i, 0] * span), int(chance["noise_x"][i, 0] * span)
    image += noise[top : top + size, left : left + size] * np.float32(strengths.noise * np.exp(0.5 * mood("noise")))
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)
