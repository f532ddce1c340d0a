"""The features of a synthetic face: eyes, eyebrows, nose, mouth and fine detail, as polygons."""

import numpy as np

from hrfr_fast.synthetic.scene import CIRCLE, LID, Face, horizontal_line, mix, palette, vertical_line
from hrfr_fast.synthetic.traits import SPOTS, WRINKLES, Floats

IRISES = np.array([[58, 36, 22], [104, 70, 36], [96, 116, 62], [84, 128, 150], [120, 150, 190]], float)


def add_eyes(face: Face) -> None:
    """Add both eyes with lids, lashes and creases."""
    scene, t, m, skin, fine = face.scene, face.traits, face.normal, face.skin, face.fine
    opening = np.clip(1 + 0.22 * face.strengths.expression * (m["eyes"] - 0.5 * np.maximum(m["squint"], 0)), 0.15, 1.5)
    peak = np.clip(1 - np.abs(LID - 0.3 * t["eye_peak"]) ** 2.2, 0, 1) * np.clip(1.02 - LID**8, 0, 1)
    upper = -t["eye_height"] * opening * peak
    lower = t["eye_height"] * t["lower_lid"] * (1 - LID**2) * np.ones_like(opening)
    tilt = -t["eye_tilt"] * LID * t["eye_width"]
    white = np.array([238.0, 234, 230]) - np.maximum(m["red_eyes"], 0) * np.array([2.0, 9, 9])
    iris = palette(IRISES, t["eye_tone"] * 0.9 + 0.1 * t["eye_hue"])
    ring = 0.7 + 0.6 * (fine[-1] - 0.5) * face.strengths.detail
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
            disc(ring, mix(iris, palette(IRISES, float(fine[-2])), 0.6 * face.strengths.detail))
        disc(0.45, dark * 0.5)
        disc(0.2, np.array([250.0, 250, 250]), 0.09 * side, -0.08)
        lash = t["lid_line"] * np.clip(1.1 - 0.5 * LID**2, 0.2, 2)
        scene.add(*horizontal_line(x, top, lash), 0.22, mix(skin * 0.4, dark, 0.5 + 0.4 * t["lashes"]))
        scene.add(*horizontal_line(x, bottom, 0.018), 0.22, mix(skin, skin * 0.6, 0.8 * scene.cover(0.04)))
        crease = top - np.maximum(t["crease"], 0.06) * np.clip(1.1 - LID**2, 0.2, 1)
        scene.add(*horizontal_line(x, crease, 0.02), 0.2, mix(skin, skin * 0.6, scene.cover(0.045)))


def add_brows(face: Face) -> None:
    """Add both eyebrows."""
    scene, t, m, fine = face.scene, face.traits, face.normal, face.fine
    raised = 0.13 * face.strengths.expression * m["brows"]
    frown = 0.09 * face.strengths.expression * m["frown"]
    level = -np.clip(t["brow_height"], 0.45, 1.2) - raised
    x = 1.05 + t["brow_gap"] + LID * t["brow_width"]
    y = level - t["brow_arch"] * (1 - (LID - 0.25) ** 2) - (t["brow_tilt"] + frown) * LID * 0.8
    half = (
        max(t["brow_thick"], 0.035)
        * (1 - np.clip(t["brow_taper"], 0, 0.9) * (LID + 1) / 2)
        * np.clip(1.3 - LID**6, 0, 1)
    )
    colour = mix(face.hair * 0.75, face.skin, 0.12)
    scene.both(*horizontal_line(x, y, half), 0.35, colour)
    if scene.pixel < 0.03:
        for i in range(4):
            a = fine[-12 + i] * 1.6 - 0.9
            at = np.array([a, a + 0.05, a + 0.22, a + 0.18])
            hairs_y = level - t["brow_arch"] * (1 - (a - 0.25) ** 2) - (t["brow_tilt"] + frown) * a * 0.8
            rise = np.array([0.06, 0.06, -0.09, -0.09]) * (0.5 + fine[-8 + i])
            scene.both(1.05 + t["brow_gap"] + at * t["brow_width"], hairs_y + rise, 0.35, colour * 0.6)


def add_nose(face: Face) -> None:
    """Add nostrils, wings and the shadow under the nose."""
    scene, t, skin = face.scene, face.traits, face.skin
    base, width = t["nose_length"], t["nose_width"]
    wing_x = width * np.array([0.82, 1.0, 0.98, 0.75])
    wing_y = base + np.array([-0.22, -0.1, 0.06, 0.12])
    scene.both(*vertical_line(wing_x, wing_y, np.array([0.015, 0.03, 0.03, 0.02])), 0.55, skin * 0.68)
    hole_x, hole_y = width * 0.45 + t["nostril"] * 1.2 * CIRCLE[:, 0], base + 0.07 + t["nostril"] * 0.55 * CIRCLE[:, 1]
    scene.both(hole_x, hole_y, 0.8, skin * 0.35)
    under = np.linspace(-0.4, 0.4, 5) * width
    scene.add(
        *horizontal_line(under, base + 0.15 - 0.8 * np.abs(under) ** 2, 0.022),
        0.8,
        mix(skin, skin * 0.6, scene.cover(0.05)),
    )


def add_mouth(face: Face) -> None:
    """Add the lips, and the teeth where the mouth is open."""
    scene, t, m, mouth_open = face.scene, face.traits, face.normal, face.mouth_open
    smile = np.clip(face.strengths.expression * m["smile"], -1.5, 2.5)
    x = LID * (t["mouth_width"] * (1 + 0.09 * smile))
    line = t["mouth"] + (t["mouth_curve"] - 0.09 * smile) * (LID**2 - 0.3)
    body = np.clip(1 - LID**2, 0, 1)
    bow = 1 - t["bow"] * np.exp(-((LID / 0.18) ** 2))
    top = line - max(t["upper_lip"], 0.03) * body**0.7 * bow - mouth_open * 0.25 * body
    upper_edge = line - mouth_open * 0.3 * body
    lower_edge = line + mouth_open * 1.3 * body
    bottom = lower_edge + max(t["lower_lip"], 0.05) * body**0.6
    red = mix(face.skin * 0.85, np.array([176.0, 62, 70]), float(np.clip(t["lip_red"], 0.05, 0.95)))

    def between(a: Floats, b: Floats, colour: Floats) -> None:
        scene.add(np.concatenate([x, x[:, ::-1]], 1), np.concatenate([a, b[:, ::-1]], 1), 0.45, colour)

    between(upper_edge, lower_edge, np.array([70.0, 26, 28]))
    between(upper_edge, np.minimum(upper_edge + 0.16, lower_edge), np.array([236.0, 230, 220]))
    between(top, upper_edge, red * 0.88)
    between(lower_edge, bottom, np.minimum(red * 1.06, 255))
    closed = mouth_open[:, 0] < 0.03
    scene.add(*horizontal_line(x, (upper_edge + lower_edge) / 2, 0.028 * body + 0.008), 0.45, red * 0.45, closed)


def add_fine_detail(face: Face) -> None:
    """Add freckles, moles and wrinkles: half a pixel or less of a 36-px picture."""
    scene, fine, skin = face.scene, face.fine, face.skin
    spots = fine[: SPOTS * 4].reshape(SPOTS, 4)
    freckled = fine[-3] < 0.4
    for i, (a, b, c, d) in enumerate(spots.tolist()):
        mole = i < 2 + int(fine[-4] * 5)
        if not mole and not freckled:
            break
        x, y = (3.4 * a - 1.7, 4.6 * b - 1.5) if mole else (2.8 * a - 1.4, 0.4 + 1.1 * b)
        radius = 0.03 + 0.025 * c if mole else 0.02 + 0.02 * c
        colour = (
            mix(skin, np.array([60.0, 34, 26]), 0.8)
            if mole
            else mix(skin, skin * np.array([0.72, 0.6, 0.5]), 0.5 + 0.4 * d)
        )
        share = face.strengths.detail * scene.cover(2 * radius) ** 2
        scene.ellipse(x, y, radius, radius, 0.3, mix(skin, colour, min(share, 1.0)))
    lines = fine[SPOTS * 4 : SPOTS * 4 + WRINKLES * 5].reshape(WRINKLES, 5)
    span = np.linspace(-1, 1, 5)
    for i, (a, b, c, d, e) in enumerate(lines.tolist()):
        if e < 0.35:
            continue
        shade = mix(skin, skin * 0.62, min((0.4 + 0.5 * c) * face.strengths.detail * scene.cover(0.05), 1.0))
        if i < 3:  # across the forehead
            along, level = (
                0.5 * (a - 0.5) + span * (0.4 + 0.8 * d),
                -1.15 - 0.25 * i + 0.15 * (b - 0.5) + 0.08 * span**2,
            )
            scene.add(*horizontal_line(along, level, 0.02), 0.1, shade)
        else:  # crow's feet and under the eyes
            side = 1 if i % 2 else -1
            along, level = side * (0.9 + 0.7 * a + 0.3 * span), 0.45 + 0.25 * b + (d - 0.5) * 0.3 * span
            scene.add(*horizontal_line(along, level, 0.016), 0.1, shade)
