"""Parametric cartoon faces: an identity is a vector of traits, a picture shows it under its own conditions.

Traits and conditions become polygons in *face units* (1 = half the distance between the eyes, origin between them, y
down, z towards the camera), and OpenCV fills the polygons, back to front, on a supersampled canvas. Every picture then
goes through the same camera: light, colour cast, downscale, blur, noise, JPEG. All pictures of one identity are laid
out together, since NumPy's cost per call would dominate otherwise.
"""

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.philox import SYNTHESIS, philox
from hrfr_fast.synthetic.features import add_brows, add_eyes, add_fine_detail, add_mouth, add_nose
from hrfr_fast.synthetic.head import add_behind, add_fringe, add_glasses, add_skin
from hrfr_fast.synthetic.scene import Face, Scene, palette
from hrfr_fast.synthetic.traits import (
    DEFAULT,
    Conditions,
    Floats,
    Identity,
    Strengths,
    draw_conditions,
    draw_identity,
    standard_normal,
)

EYES_APART = 1 / 3  # of the picture's width
EYE_LEVEL = 0.44  # of the picture's height, from the top
SUBPIXEL_BITS = 4
SKINS = np.array(
    [[255, 224, 200], [240, 200, 165], [214, 165, 125], [172, 120, 82], [120, 78, 52], [80, 52, 38]], float
)
HAIRS = np.array([[28, 22, 22], [62, 42, 30], [110, 72, 44], [168, 124, 72], [218, 190, 130]], float)


def compose(person: Identity, conditions: Conditions, strengths: Strengths, pixel: float) -> Scene:
    """The polygons of one person's face in every picture; ``pixel``: size of a canvas pixel in face units."""
    t, normal = person.traits, conditions.normal
    scene = Scene(len(conditions.backdrop), pixel)
    skin = palette(SKINS, t["skin_tone"]) * np.array([1 + 0.02 * t["skin_warmth"], 1.0, 1 - 0.03 * t["skin_warmth"]])
    hair = palette(HAIRS, t["hair_tone"]) * np.array([1.0 + 0.35 * max(t["hair_red"], 0.0), 1.0, 1.0])
    mouth_open = strengths.expression * np.maximum(normal["open"] - 0.5, 0) * 0.22
    face = Face(scene, t, person.fine, normal, conditions.uniform, strengths, skin, hair, mouth_open)
    add_behind(face)
    add_skin(face)
    scene.sharp_from = len(scene.xyz)
    for add in (add_eyes, add_brows, add_nose, add_mouth, add_fine_detail, add_fringe, add_glasses):
        add(face)
    return scene


def project(scene: Scene, normal: dict[str, Floats], strengths: Strengths, canvas: int) -> list[NDArray[np.int32]]:
    """Canvas coordinates with ``SUBPIXEL_BITS`` fractional bits, one [P, K, 2] array a shape."""
    points = np.concatenate(scene.xyz, axis=1)
    x, y, z = points[..., 0], points[..., 1], points[..., 2] - 0.2  # the eyes stay where the alignment puts them
    yaw, pitch, roll = (
        strengths.yaw * normal["yaw"],
        strengths.pitch * normal["pitch"],
        strengths.roll * normal["roll"],
    )
    x = x * np.cos(yaw) + z * np.sin(yaw)
    y = y * np.cos(pitch) + z * np.sin(pitch)
    near = 1 + 0.03 * x * np.sin(yaw) + 0.03 * y * np.sin(pitch)
    scale = near * np.exp(strengths.zoom * normal["zoom"]) / np.sqrt(np.cos(yaw)) * (EYES_APART / 2)
    u = 0.5 + strengths.shift * normal["shift_x"] + scale * (x * np.cos(roll) - y * np.sin(roll))
    v = EYE_LEVEL + strengths.shift * normal["shift_y"] + scale * (x * np.sin(roll) + y * np.cos(roll))
    pixels = np.stack([u, v], -1) * canvas - 0.5
    fixed = np.rint(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)
    return np.split(fixed, np.cumsum([shape.shape[1] for shape in scene.xyz])[:-1], axis=1)


@cache
def _noise(seed: int) -> NDArray[np.float32]:
    """Standard normal noise, float32 [256, 256, 3], from which each picture takes a part as its sensor noise."""
    position = np.arange(256 * 256 * 3).reshape(256, 256, 3)
    words = philox(seed, 0xFFFFFFFF, position, purpose=SYNTHESIS, view=0xFFFF)
    return standard_normal(words[..., 0]).astype(np.float32)


@cache
def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Two components of the surface normal of an egg-shaped head, and its height towards the camera."""
    position = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = np.meshgrid((position - 0.5) / 0.38, (position - EYE_LEVEL - 0.07) / 0.54)
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
    """Pictures of one person, as a camera takes them.

    Args:
        seed, split, identity, pictures: [P] picture numbers; together they decide every pixel.
        size: width and height in pixels.
        person: the traits of another person, shown under the same conditions.

    Returns:
        uint8 [P, size, size, 3] RGB before JPEG, and the JPEG quality [P] to save each with.
    """
    person = person or draw_identity(seed, split, identity, strengths)
    conditions = draw_conditions(seed, split, identity, pictures)
    canvas = size * (2 if size >= 100 else 3)
    scene = compose(person, conditions, strengths, pixel=2 / (EYES_APART * canvas))
    shapes = project(scene, conditions.normal, strengths, canvas)
    colours = np.clip(np.stack(scene.colours, 1), 0, 255).tolist()
    images = np.empty((len(pictures), size, size, 3), np.uint8)
    for i in range(len(pictures)):
        drawn = _paint(scene, shapes, colours[i], conditions.backdrop[i], canvas, i)
        images[i] = _camera(drawn, conditions, strengths, size, seed, i)
    low, high = strengths.quality
    quality = low + (conditions.uniform["quality"][:, 0] * (high - low + 1)).astype(np.int64)
    return images, quality


def _paint(
    scene: Scene, shapes: list[NDArray[np.int32]], colours: list[list[float]], backdrop: Floats, canvas: int, i: int
) -> NDArray[np.uint8]:
    """Picture ``i`` before lighting, uint8 [canvas, canvas, 3]: the background, and the polygons over it."""
    grid = (backdrop.reshape(3, 3, 3) * 215 + 20).astype(np.uint8)
    image = cv2.resize(grid, (canvas, canvas), interpolation=cv2.INTER_LINEAR)
    for number, (shape, colour, visible) in enumerate(zip(shapes, colours, scene.visible, strict=True)):
        if number == scene.sharp_from:
            image = cv2.GaussianBlur(image, (0, 0), 0.012 * canvas)
        if visible is None or visible[i]:
            cv2.fillPoly(image, [shape[i]], colour, cv2.LINE_AA, SUBPIXEL_BITS)
    return np.asarray(image, np.uint8)


def _camera(
    drawn: NDArray[np.uint8], conditions: Conditions, strengths: Strengths, size: int, seed: int, i: int
) -> NDArray[np.uint8]:
    """The picture that a camera takes of ``drawn``: downscaled, lit, exposed, blurred and noisy."""

    def normal(name: str) -> float:
        return float(conditions.normal[name][i, 0])

    def uniform(name: str) -> float:
        return float(conditions.uniform[name][i, 0])

    image: NDArray[Any] = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    across, down, height = _grid(size)
    light = strengths.light
    shade = across * (light * normal("light_x") * 0.5) + down * (light * 0.35 * normal("light_y") - 0.1) + height * 0.16
    gain = np.exp(strengths.exposure * normal("exposure"))
    shade = np.maximum(shade + np.float32(0.88), np.float32(0.25))
    image *= shade[..., None]
    cast = gain * np.exp(strengths.cast * np.array([normal("red"), normal("green"), normal("blue")]))
    contrast = np.exp(0.12 * normal("contrast"))
    image *= (cast * contrast).astype(np.float32)
    image += np.float32(115 * (1 - contrast))
    sigma = strengths.blur * uniform("blur") ** 2 * size / 72
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise, span = _noise(seed), 256 - size
    top, left = int(uniform("noise_y") * span), int(uniform("noise_x") * span)
    image += noise[top : top + size, left : left + size] * np.float32(strengths.noise * np.exp(0.5 * normal("noise")))
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)
