"""How large a study is: budgets, seeds and what is judged, as data. A preset of one's own is a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hrfr_fast.evaluation.resolution import RESOLUTIONS
from hrfr_fast.evaluation.views import HR
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml


@dataclass(frozen=True)
class Preset:
    """Everything about a study but its regimes and data. Raises UsageError for values out of range.

    Regimes of one budget (see ``regimes.BUDGETS``) take equally many steps; it is given in ``steps`` or in ``epochs``.
    """

    name: str
    summary: str
    seeds: int
    steps: Mapping[str, int] = field(default_factory=dict)
    """Budget -> optimiser steps."""
    epochs: Mapping[str, float] = field(default_factory=dict)
    """Budget -> passes over the split it is counted in (``plan.COUNTED_IN``), at the batch size of the largest input,
    where ``steps`` says nothing."""
    plateau: int = 0
    """Looks without a gain that make a plateau for budget "highres", whose steps are then the most; 0: all steps."""
    batch: Mapping[str, int] = field(default_factory=lambda: {"32": 512, "144": 512})
    """Input size in pixels -> batch size. An input size that is not here takes that of the next larger one."""
    looks: int = 5
    """Verifications on the way, at equal distances."""
    sides: tuple[int, ...] = RESOLUTIONS
    """Test resolutions of the accuracy-by-resolution curve in pixels, 0: as they are."""
    detailed_seeds: int = 1
    """The first so many seeds also get the resolution curve and identification."""
    analysed: tuple[str, ...] = ("lowres144", "highlow144", "crossres144", "lowres144-finetuned", "lowres32")
    """Regimes whose embeddings are analysed, with their first seed; the first is what the others are compared with."""
    probed: tuple[str, ...] = ("lowres144", "highlow144", "crossres144", "crossres144-views")
    """Regimes whose true-resolution probe is compared over all seeds: the remedy, its reference and its control."""
    sphere: tuple[str, ...] = ("lowres32",)
    """Regimes that are also trained, with the first seed, to three-dimensional embeddings."""
    sphere_settings: Mapping[str, Any] = field(
        default_factory=lambda: {
            "embedding_size": 3,
            "most_identities": 100,
            "scale": 16.0,
            "margin": 0.05,
            "learning_rate": 0.05,
            "warmup": 0.2,
        }  # fmt: skip
    )
    """Of those runs. A hundred directions on a sphere lie some 0.2 apart: a margin of 0.5 could never be met. With a
    scale of 32, a rate of 0.1 and a short warm-up all faces fell into one point (loss 4.3 after 830 steps; now 3.4)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further training settings, the same for every regime."""
    dose_identities: tuple[float, ...] = (0.25, 0.5)
    """Shares of the highres identities in the dose-response stage; none and all are runs of the study itself."""
    dose_shares: tuple[float, ...] = (0.05, 0.2, 0.4)
    """Shares of highres pictures among highlow144's batches of the same stage."""

    def __post_init__(self) -> None:
        rules = {
            "seeds": self.seeds >= 1, "plateau": self.plateau >= 0, "looks": self.looks >= 0,
            "detailed_seeds": self.detailed_seeds >= 0,
            "batch": bool(self.batch) and all(side.isdecimal() and size >= 2 for side, size in self.batch.items()),
            "steps": all(steps >= 1 for steps in self.steps.values()),
            "epochs": all(epochs > 0 for epochs in self.epochs.values()),
            "sides": bool(self.sides) and min(self.sides) >= 0,
            "dose_identities": all(0 < share < 1 for share in self.dose_identities),
            "dose_shares": all(0 < share < 1 for share in self.dose_shares),
        }  # fmt: skip
        for name, holds in rules.items():
            if not holds:
                raise UsageError(f"preset {self.name}: {name} is {getattr(self, name)}; that is out of range")

    def batch_size(self, input_size: int) -> int:
        """Samples a step for a regime of this input size."""
        known = sorted(map(int, self.batch))
        return self.batch[str(next((size for size in known if size >= input_size), known[-1]))]


_NARROW = {"width": 16, "scale": 16.0, "margin": 0.2, "learning_rate": 0.1}
"""A short run of a narrow network wants an easy margin: after 320 steps on `synth --scale small` ArcFace's s = 64 and
m = 0.5 gave 54 % of the pairs (at half the rate and batch), 32 and 0.3 gave 71 %, 16 and 0.2 gave 81 %; on 6,640 real
faces and 4 passes 68.6 % and 76.7 % of the development pairs for the latter two. On the drawn faces pairs of the same
tree were looked at, its test pairs among them: what they score says that training works, and no more."""

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "full", "the study as designed: full width, 20 passes over lowres; for a GPU", seeds=3,
            epochs={"lowres": 20.0, "highres": 120.0, "finetune": 20.0, "fused": 20.0, "own": 20.0}, plateau=3,
            looks=20,
        ),
        Preset(
            "cpu-small", "a quarter of the width, 2.4 passes over `synth --scale small`, 2 seeds: under 45 minutes on "
            "two CPU cores with bf16 instructions, more without", seeds=2,
            steps={"lowres": 240, "highres": 100, "finetune": 80, "fused": 80, "own": 80},
            batch={"32": 32, "144": 32}, looks=1, sides=(12, 24, 36, 72, HR),
            settings=_NARROW | {"embedding_size": 128},
        ),
        Preset(
            "cpu-faces", "some thousand real faces on two CPU cores: a quarter of the width, 4 passes, 3 seeds; 5 "
            "minutes a run at 144 px and 7,000 faces", seeds=3,
            epochs={"lowres": 4.0, "highres": 40.0, "finetune": 8.0, "fused": 8.0, "own": 8.0}, plateau=3,
            batch={"32": 32, "144": 32}, looks=3, sides=(12, 24, 36, 72, HR),
            settings=_NARROW | {"embedding_size": 256},
        ),
    )
}  # fmt: skip


def preset_named(name: str) -> Preset:
    """The preset called ``name``, or the one in the file ``name`` where that ends in .toml. Raises UsageError."""
    if name.endswith(".toml"):
        return load_preset(Path(name))
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}, or give a .toml file of one")
    return PRESETS[name]


def load_preset(path: Path) -> Preset:
    """A preset from a TOML file: fields of Preset over those of ``base`` (a preset's name, "full" if not given)."""
    values = read_toml(path, "a preset")
    base_name = values.pop("base", "full")
    if base_name not in PRESETS:
        raise UsageError(f"{path}: base is {base_name!r}; it must be one of {', '.join(PRESETS)}")
    base = PRESETS[base_name]
    known = {one.name: one for one in fields(Preset)}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{path}: there is no field {name!r}; there are {', '.join(known)}")
        wanted = type(getattr(base, name))
        if isinstance(value, list) and wanted is tuple:
            values[name] = tuple(value)
        elif not isinstance(value, wanted):
            raise UsageError(f"{path}: {name} must be {wanted.__name__}, it is {value!r}")
    try:
        return replace(base, **{"name": path.stem} | values)
    except (TypeError, AttributeError) as error:
        raise UsageError(f"{path}: a value in a list or table is of the wrong kind: {error}") from None
