"""Traits of synthetic people and conditions of their pictures: names, spreads, and how they are drawn at random.

All random numbers are a pure function of (seed, split, identity, picture): Philox words become bounded normal and
uniform numbers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.philox import SYNTHESIS, philox, uniform

Floats = NDArray[np.float64]

PICTURE_SLOTS = 12  # bits of the Philox position that number the words of one picture


@dataclass(frozen=True)
class Strengths:
    """Spread of every trait and condition: how hard verification is. 1.0 in ``identity`` is the full spread."""

    identity: float = 0.6  # spread of the facial geometry between people
    skin: float = 0.75  # spread of skin tone between people
    detail: float = 1.0  # contrast of moles, freckles, wrinkles
    yaw: float = 0.3  # standard deviations, radians
    pitch: float = 0.16
    roll: float = 0.05
    shift: float = 0.025  # of the picture's size
    zoom: float = 0.04
    light: float = 0.6  # relative brightness across the face
    exposure: float = 0.22
    cast: float = 0.12  # per colour channel
    expression: float = 1.3  # mouth, lids and brows
    restyle: float = 2.0  # hair worn differently from one picture to the next
    glasses: float = 0.12  # share of pictures
    blur: float = 0.9  # largest sigma, in pixels of a 72-px picture
    noise: float = 7.0  # mean sigma, in pixel values
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
# Conditions of one picture as standard normal numbers, scaled where they are used.
NORMALS = [
    "yaw", "pitch", "roll", "shift_x", "shift_y", "zoom", "light_x", "light_y", "exposure", "red", "green",
    "blue", "contrast", "smile", "open", "eyes", "brows", "gaze_x", "gaze_y", "part", "wave", "length", "volume",
    "stubble", "red_eyes", "collar", "noise", "flush", "frown", "squint",
]  # fmt: skip
# Conditions of one picture as uniform numbers.
UNIFORMS = [
    "glasses", "frame", "lens", "blur", "quality", "noise_x", "noise_y", "cloth_r", "cloth_g", "cloth_b",
]  # fmt: skip
BACKDROP = 27  # more uniform numbers: a 3 x 3 grid of background colours
SPOTS, WRINKLES, STRANDS = 40, 7, 14
FINE = SPOTS * 4 + WRINKLES * 5 + STRANDS * 3 + 12


@dataclass(frozen=True)
class Identity:
    """One person: ``traits`` shows at any size, ``fine`` [FINE] uniform numbers only at high resolution."""

    traits: dict[str, float]
    fine: Floats


@dataclass(frozen=True)
class Conditions:
    """Pose, light, mood and camera of P pictures of one person; arrays of one row a picture."""

    normal: dict[str, Floats]  # [P, 1] standard normals, bounded by 3.5
    uniform: dict[str, Floats]  # [P, 1] in [0, 1)
    backdrop: Floats  # [P, 27]


def _words(seed: int, split: int, identity: int, slots: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """[slots, count] words. Slot 0: the traits; 1: the fine detail; 2 + p: picture p."""
    blocks = np.arange(-(-count // 4))
    position = (slots[:, None] << PICTURE_SLOTS) + blocks
    words = philox(seed, identity, position, purpose=SYNTHESIS, view=split)
    return words.reshape(len(slots), -1)[:, :count]


def standard_normal(words: NDArray[np.uint64]) -> Floats:
    """Sum of a word's four bytes, standardised: bell-shaped, bounded by 3.5, and exact everywhere."""
    total = sum(((words >> np.uint64(8 * i)) & np.uint64(255)).astype(np.float64) for i in range(4))
    return np.asarray((total - 510.0) / 147.8)


def draw_identity(seed: int, split: int, identity: int, strengths: Strengths = DEFAULT) -> Identity:
    """Traits of the person number ``identity`` of split number ``split``."""
    words = _words(seed, split, identity, np.array([0, 1]), max(len(TRAITS), FINE))
    normals = standard_normal(words[0])
    traits = {}
    for (name, (mean, deviation)), z in zip(TRAITS.items(), normals.tolist(), strict=False):
        spread = strengths.skin if name.startswith("skin") else strengths.identity
        traits[name] = mean + deviation * z * spread
    return Identity(traits, uniform(words[1, :FINE]).astype(np.float64))


def draw_conditions(seed: int, split: int, identity: int, pictures: NDArray[np.int64]) -> Conditions:
    """Conditions of the pictures numbered ``pictures`` [P] of one person."""
    count = len(NORMALS) + len(UNIFORMS) + BACKDROP
    words = _words(seed, split, identity, np.asarray(pictures) + 2, count)
    normals = standard_normal(words[:, : len(NORMALS)])
    uniforms = uniform(words[:, len(NORMALS) :]).astype(np.float64)
    normal = {name: normals[:, i : i + 1] for i, name in enumerate(NORMALS)}
    uniform_numbers = {name: uniforms[:, i : i + 1] for i, name in enumerate(UNIFORMS)}
    return Conditions(normal, uniform_numbers, uniforms[:, len(UNIFORMS) :])
