"""The head of a synthetic face: skin, beard, hair, glasses and what lies behind them, as polygons."""

from typing import Any

import numpy as np

from hrfr_fast.synthetic.scene import CIRCLE, Face, closed_spline, horizontal_line, mix, vertical_line
from hrfr_fast.synthetic.traits import SPOTS, STRANDS, WRINKLES, Floats


def add_behind(face: Face) -> None:
    """Add what lies behind the face: long hair, neck, clothes and ears."""
    scene, t, m, skin = face.scene, face.traits, face.normal, face.skin
    cloth = np.concatenate([face.uniform["cloth_r"], face.uniform["cloth_g"], face.uniform["cloth_b"]], 1) * 200 + 20
    volume = t["hair_volume"] + 0.1 * face.strengths.restyle * m["volume"]
    length = t["hair_length"] + 0.5 * face.strengths.restyle * m["length"]
    half = np.maximum(t["cheek"] - 0.05 + volume * 0.8, t["cheek"] * 0.8)
    top = t["skull"] - np.maximum(t["hair_height"], 0.05) * (1 + 0.15 * m["volume"])
    x = np.concatenate([0 * half, half * 0.75, half, half * 1.03, half * 0.9, half * 0.2], 1)
    y = np.concatenate([top, top + 0.45, 0 * half - 1.3, 0.55 * length, length, length + 0.1], 1)
    weights = closed_spline(11)
    mirrored = np.concatenate([x, -x[:, :0:-1]], 1), np.concatenate([y, y[:, :0:-1]], 1)
    scene.add(mirrored[0] @ weights.T, mirrored[1] @ weights.T, -1.0, face.hair * 0.8)
    scene.add(np.array([-0.95, 0.95, 1.15, -1.15]) * t["jaw"] * 0.7, np.array([2.0, 2.0, 5.5, 5.5]), -0.9, skin * 0.74)
    collar = 4.3 + 0.25 * m["collar"]
    scene.add(
        np.array([-5.0, -1.4, 0, 1.4, 5.0, 5.0, -5.0]), collar + np.array([0.6, -0.3, 0.2, -0.3, 0.6, 3, 3]), -1, cloth
    )
    reach = t["cheek"] + t["ear_out"]
    for side in (-1, 1):
        scene.ellipse(side * reach, 0.55, t["ear_size"] * 0.5, t["ear_size"], -1.1, skin * 0.9)
        scene.ellipse(side * (reach + 0.05), 0.55, t["ear_size"] * 0.25, t["ear_size"] * 0.6, -1.1, skin * 0.76)


def add_skin(face: Face) -> None:
    """Add the head and everything on it without an edge; these polygons are blurred once they are drawn."""
    scene, t, m, skin, mouth_open = face.scene, face.traits, face.normal, face.skin, face.mouth_open
    ones = np.ones_like(mouth_open)
    chin = t["chin"] + mouth_open * 0.8
    outline = [0, 0.62 * t["forehead"], t["forehead"], t["cheek"], t["cheek"] * 0.97, t["jaw"], t["chin_width"], 0]
    level: list[Any] = [t["skull"], t["skull"] + 0.3, -1.5, 0.1, 1.1, 2.35 + mouth_open * 0.4, chin - 0.3, chin]
    x = np.concatenate([ones * v for v in outline], 1)
    y = np.concatenate([ones * v for v in level], 1)
    z = np.concatenate([ones * v for v in (-0.2, -0.4, -0.6, -0.8, -0.8, -0.4, 0.1, 0.2)], 1)
    mirror = slice(-2, 0, -1)
    x, y, z = (
        np.concatenate([x, -x[:, mirror]], 1),
        np.concatenate([y, y[:, mirror]], 1),
        np.concatenate([z, z[:, mirror]], 1),
    )
    weights = closed_spline(x.shape[1]).T
    scene.add(x @ weights, y @ weights, z @ weights, skin)
    beard = np.clip(t["beard"] + 0.06 * m["stubble"], 0, 0.75)
    if (beard > 0).any():
        _add_beard(face, chin, mix(skin, face.hair * 0.9, beard))
    flush = np.clip(t["blush"] + 0.04 * m["flush"], 0, 0.4)
    pink = mix(skin, skin * np.array([1.0, 0.72, 0.7]), flush * 2)
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
    scene.add(*vertical_line(bend, y_nose, t["nose_bridge"] * 0.45), 0.75, shine)
    scene.ellipse(0.0, t["nose_length"] * 0.92, t["nose_tip"], t["nose_tip"] * 0.8, 0.95, shine)
    scene.ellipse(0.0, t["mouth"] + 0.62, 0.45, 0.12, 0.3, skin * 0.9)
    smile = np.clip(face.strengths.expression * m["smile"], -1, 2)
    fold = np.clip(t["fold"] + 0.08 * smile, 0, 0.45)
    fold_x, fold_y = np.array([0.55, 0.85, 1.0]) + 0.06 * smile, np.array([1.25, 1.7, 2.1]) + 0 * smile
    scene.both(*vertical_line(fold_x, fold_y, np.array([0.03, 0.07, 0.03])), 0.35, mix(skin, skin * 0.7, fold * 1.6))


def _add_beard(face: Face, chin: Floats, colour: Floats) -> None:
    scene, t = face.scene, face.traits
    x = np.array([0.97, 0.9, 0.78, 0.45, 0.0]) * t["cheek"] * np.array([1, 1, t["jaw"] / 1.62 * 0.98, 0.8, 1])
    y = np.concatenate([0 * chin + 1.0, 0 * chin + 1.9, 0 * chin + 2.6, chin - 0.25, chin], 1)
    inner_x, inner_y = np.array([0.0, 0.5, 0.95, 1.3]), t["mouth"] + np.array([-0.45, -0.42, -0.1, -0.6])
    inner_y = np.broadcast_to(inner_y, (len(chin), 4))
    x = np.concatenate([x, inner_x])
    scene.both(x, np.concatenate([y, inner_y], 1), -0.1, colour)


def add_fringe(face: Face) -> None:
    """Add the hair over the forehead."""
    scene, t, m, hair = face.scene, face.traits, face.normal, face.hair
    restyle = face.strengths.restyle
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
        strands = face.fine[SPOTS * 4 + WRINKLES * 5 :][: STRANDS * 3].reshape(STRANDS, 3)
        for a, b, c in strands.tolist():
            at = int(a * 11) + 1
            start = np.stack([outer_x[:, at] * 0.96, outer_y[:, at] * 0.96], 1)
            end = np.stack([np.broadcast_to(inner_x[12 - at], start[:, 0].shape), inner_y[:, 12 - at]], 1)
            way = np.array([0.0, 0.35, 0.75]) + 0.2 * b
            x = start[:, :1] + (end - start)[:, :1] * way + 0.1 * (c - 0.5) * np.array([0, 1.0, 0])
            y = start[:, 1:] + (end - start)[:, 1:] * way
            scene.add(*vertical_line(x, y, 0.03), -0.1, hair * (0.8 if c < 0.6 else 1.22))


def add_glasses(face: Face) -> None:
    """Add glasses to the pictures where they are worn."""
    scene, t = face.scene, face.traits
    worn = face.uniform["glasses"][:, 0] < face.strengths.glasses
    if not worn.any():
        return
    rim = np.concatenate([face.uniform["frame"], face.uniform["frame"] * 0.7, face.uniform["lens"]], 1) * 120 + 15
    square = np.sign(CIRCLE) * np.abs(CIRCLE) ** 0.6
    outline = np.concatenate([CIRCLE, CIRCLE[:1]]) * (0.4 + 0.6 * face.uniform["lens"][:, :, None])
    outline = outline + np.concatenate([square, square[:1]]) * (0.6 - 0.6 * face.uniform["lens"][:, :, None])
    for side in (-1, 1):
        edge = np.concatenate([outline * 0.74, outline[:, ::-1] * 0.84], 1)
        scene.add(side * 1.03 + edge[..., 0], 0.08 + 0.85 * edge[..., 1], 0.6, rim, worn)
        scene.add(*horizontal_line(np.array([1.85, t["cheek"]]) * side, np.array([-0.15, 0.0]), 0.06), 0.0, rim, worn)
    scene.add(*horizontal_line(np.array([-0.22, 0, 0.22]), np.array([0.0, -0.08, 0.0]), 0.05), 0.7, rim, worn)
