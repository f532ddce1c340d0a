"""Candidates for the distribution of a degradation, drawn at random over what is plausible, and drawn near another."""

from typing import Any

import numpy as np

from hrfr_fast.sampling.augmentation import FILTERS
from hrfr_fast.settings import DegradationSettings

ALL_FILTERS, DOWN = ",".join(FILTERS), "cubic,linear,box,nearest"
"""Kernels; lanczos is not tried for downsampling: the analyses make the view that no training has used by it."""
SIDES, MOST_BLUR, MOST_NOISE = (0.08, 0.7), 0.03, 25.0
"""Range of the middle side as a share of the source's, and the largest sigma and noise that are tried."""


def random_candidate(random: np.random.Generator, side: float) -> DegradationSettings:
    """One at random; ``side``, the native pictures' share of the sharp ones' side, is the middle of every other."""
    low, high = np.log(SIDES)
    middle = side if random.random() < 0.5 else float(np.exp(random.uniform(low, high)))
    width, blur = random.uniform(0, 0.5), random.uniform(0, MOST_BLUR)
    quality = int(random.integers(20, 96))
    return _rounded({
        "side_min": middle * (1 - width),
        "side_max": min(1.0, middle * (1 + width)),
        "blur": float(random.choice([0.0, 0.5, 1.0])),
        "blur_min": blur * random.choice([0.0, 0.5]),
        "blur_max": blur,
        "noise_max": float(np.exp(random.uniform(np.log(0.5), np.log(MOST_NOISE)))),
        "noise": float(random.choice([0.0, 0.5, 1.0])),
        "noise_grey": float(random.choice([0.0, 0.4, 1.0])),
        "jpeg": float(random.choice([0.0, 0.5, 1.0])),
        "jpeg_min": quality,
        "jpeg_max": int(random.integers(quality, 101)),
        "down": str(random.choice([DOWN, *DOWN.split(",")])),
        "up": str(random.choice([ALL_FILTERS, *FILTERS, "cubic", "cubic", "cubic"])),
    })  # fmt: skip


def neighbour(random: np.random.Generator, near: DegradationSettings, side: float) -> DegradationSettings:
    """``near`` with its sizes and strengths moved by up to a third, and one of its choices taken from a random one."""
    other, values = random_candidate(random, side), dict(near)
    for name in ("side_min", "side_max", "blur_min", "blur_max", "noise_max"):
        values[name] = values[name] * float(np.exp(random.uniform(-0.3, 0.3)))
    name = str(random.choice(["blur", "noise", "noise_grey", "jpeg", "down", "up", "jpeg_min"]))
    values[name] = getattr(other, name)
    if name == "jpeg_min":
        values["jpeg_max"] = other.jpeg_max
    return _rounded(values)


def _rounded(values: dict[str, Any]) -> DegradationSettings:
    """Settings with numbers of three digits and their bounds in order."""
    given: dict[str, Any] = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in values.items()
    }
    limits = {"side": (0.02, 1.0), "blur": (0.0, 0.1), "noise": (0.0, 64.0)}
    for name, (least, most) in limits.items():
        low, high = given.get(f"{name}_min", 0.0), given[f"{name}_max"]
        given[f"{name}_max"] = float(np.clip(high, least, most))
        given[f"{name}_min"] = float(np.clip(low, least, given[f"{name}_max"]))
    return DegradationSettings(**given)
