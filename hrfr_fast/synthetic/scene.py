"""Drawing of a face as coloured polygons: the scene they are collected in, curves to build them from, colour mixing."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.synthetic.traits import Floats, Strengths

_angles = np.arange(14) * (2 * np.pi / 14)
CIRCLE = np.stack([np.cos(_angles), np.sin(_angles)], 1)
LID = np.linspace(-1, 1, 11)  # across an eye or a mouth


class Scene:
    """Polygons of P pictures, back to front, in face units."""

    def __init__(self, pictures: int, pixel: float) -> None:
        self.pictures = pictures
        self.pixel = pixel  # a canvas pixel in face units
        self.xyz: list[Floats] = []
        self.colours: list[Floats] = []
        self.visible: list[NDArray[np.bool_] | None] = []
        self.sharp_from = 0  # polygons before this one are blurred

    def add(
        self, x: Floats, y: Floats, z: Floats | float, colour: Floats, visible: NDArray[np.bool_] | None = None
    ) -> None:
        """A polygon with x, y, z broadcast to [P, K]; ``colour`` [3] or [P, 3]; ``visible`` [P] in which pictures."""
        width = max(np.shape(x)[-1], np.shape(y)[-1])
        xyz = np.empty((self.pictures, width, 3))
        xyz[..., 0], xyz[..., 1], xyz[..., 2] = x, y, z
        self.xyz.append(xyz)
        self.colours.append(np.broadcast_to(colour, (self.pictures, 3)))
        self.visible.append(visible)

    def both(
        self, x: Floats, y: Floats, z: Floats | float, colour: Floats, visible: NDArray[np.bool_] | None = None
    ) -> None:
        """The polygon and its mirror image."""
        self.add(x, y, z, colour, visible)
        self.add(-x, y, z, colour, visible)

    def ellipse(self, x: Floats | float, y: Floats | float, rx: float, ry: float, z: float, colour: Floats) -> None:
        self.add(x + rx * CIRCLE[:, 0], y + ry * CIRCLE[:, 1], z, colour)

    def cover(self, width: float) -> float:
        """Share of a canvas pixel that a line of ``width`` covers: a filled polygon is never thinner than a pixel."""
        return min(1.0, width / self.pixel)


@dataclass(frozen=True)
class Face:
    """One person's face as it is drawn in P pictures: the scene it is added to, and all that decides its look."""

    scene: Scene
    traits: dict[str, float]
    fine: Floats  # [FINE] uniform numbers of the fine detail
    normal: dict[str, Floats]  # [P, 1] standard normal conditions
    uniform: dict[str, Floats]  # [P, 1] uniform conditions
    strengths: Strengths
    skin: Floats  # [3] colour
    hair: Floats  # [3] colour
    mouth_open: Floats  # [P, 1], 0 for closed


@cache
def closed_spline(controls: int, steps: int = 4) -> Floats:
    """[controls * steps, controls] weights of a closed Catmull-Rom curve through its control points."""
    weights = np.zeros((controls * steps, controls))
    for segment in range(controls):
        for step in range(steps):
            t = step / steps
            basis = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
            for offset, weight in enumerate(basis):
                weights[segment * steps + step, (segment + offset - 1) % controls] += weight / 2
    return weights


def horizontal_line(x: Floats, y: Floats, half: Floats | float) -> tuple[Floats, Floats]:
    """A mostly horizontal line [..., K] as a polygon [..., 2K] reaching ``half`` above and below it."""
    x, y = np.broadcast_arrays(x, y)
    return np.concatenate([x, x[..., ::-1]], -1), np.concatenate([y - half, (y + half)[..., ::-1]], -1)


def vertical_line(x: Floats, y: Floats, half: Floats | float) -> tuple[Floats, Floats]:
    """A mostly vertical line as a polygon."""
    y, x = horizontal_line(y, x, half)
    return x, y


def palette(colours: Floats, tone: float) -> Floats:
    """The colour at ``tone`` (0..1, clipped) between ``colours`` [C, 3], which are evenly spaced."""
    position = float(np.clip(tone, 0.0, 1.0)) * (len(colours) - 1)
    low = min(int(position), len(colours) - 2)
    return np.asarray(colours[low] + (colours[low + 1] - colours[low]) * (position - low))


def mix(a: Floats, b: Floats | float, share: float | Floats) -> Floats:
    """``a`` with the ``share`` (0..1) of ``b``."""
    return np.asarray(a + (b - a) * share)
