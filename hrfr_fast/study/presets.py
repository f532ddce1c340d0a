"""How large a study is: budgets, seeds and what is judged, as data. A preset of one's own is a TOML file."""

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import Field, field_validator

from hrfr_fast.evaluation.resolution import RESOLUTIONS
from hrfr_fast.evaluation.views import HR
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml
from hrfr_fast.runtime.validation import Checked, unset
from hrfr_fast.study.candidates import CANDIDATES, MORE_VALUES, WITH_ADAFACE, WITH_LORA, Remedies


class Preset(Checked):
    """Everything about a study but its regimes and data. Raises UsageError for values out of range.

    Regimes of one budget (see ``regimes.BUDGETS``) take equally many steps; it is given in ``steps`` or in ``epochs``.
    """

    name: str
    summary: str
    seeds: int = Field(ge=1)
    steps: dict[str, Annotated[int, Ge(1)]] = {}
    """Budget -> optimiser steps."""
    epochs: dict[str, Annotated[float, Gt(0)]] = {}
    """Budget -> passes over the split it is counted in (``plan.COUNTED_IN``), at the batch size of the largest input,
    where ``steps`` says nothing."""
    plateau: Annotated[int | None, unset(0)] = Field(default=None, ge=1)
    """Verifications without a gain that make a plateau for budget "highres", whose steps are then the most; None: all
    steps."""
    batch: dict[str, Annotated[int, Ge(2)]] = Field(default={"32": 512, "144": 512}, min_length=1)
    """Input size in pixels -> batch size. An input size that is not here takes that of the next larger one."""
    looks: int = Field(default=5, ge=0)
    """Verifications on the way, at equal distances."""
    sides: tuple[Annotated[int, Ge(0)], ...] = Field(default=RESOLUTIONS, min_length=1, strict=False)
    """Test resolutions of the accuracy-by-resolution curve in pixels, 0: as they are."""
    detailed_seeds: int = Field(default=1, ge=0)
    """The first so many seeds also get the resolution curve and identification."""
    analysed: tuple[str, ...] = Field(
        default=("lowres144", "highlow144", "crossres144", "lowres144-finetuned", "lowres32"), strict=False
    )
    """Regimes whose embeddings are analysed, with their first seed; the first is what the others are compared with."""
    probed: tuple[str, ...] = Field(
        default=("lowres144", "highlow144", "crossres144", "crossres144-views"), strict=False
    )
    """Regimes whose true-resolution probe is compared over all seeds: the remedy, its reference and its control."""
    sphere: tuple[str, ...] = Field(default=("lowres32",), strict=False)
    """Regimes that are also trained, with the first seed, to three-dimensional embeddings."""
    sphere_settings: dict[str, Any] = {
        "embedding_size": 3, "most_identities": 100, "scale": 16.0, "margin": 0.05, "learning_rate": 0.05,
        "warmup": 0.2,
    }  # fmt: skip
    """Of those runs. A hundred directions on a sphere lie some 0.2 apart: a margin of 0.5 could never be met. With a
    scale of 32, a rate of 0.1 and a short warm-up all faces fell into one point (loss 4.3 after 830 steps; now 3.4)."""
    settings: dict[str, Any] = {}
    """Further training settings, the same for every regime."""
    dose_identities: tuple[Annotated[float, Gt(0), Lt(1)], ...] = Field(default=(0.25, 0.5), strict=False)
    """Shares of the highres identities in the dose-response stage; none and all are runs of the study itself."""
    dose_shares: tuple[Annotated[float, Gt(0), Lt(1)], ...] = Field(default=(0.05, 0.2, 0.4), strict=False)
    """Shares of highres pictures among highlow144's batches of the same stage."""
    remedies: Remedies | None = None
    """What a study of remedies compares, in place of the regimes; None: a study of regimes."""

    @field_validator("batch")
    @classmethod
    def _keys_are_pixels(cls, batch: dict[str, int]) -> dict[str, int]:
        for size in batch:
            if not size.isdecimal():
                raise ValueError(f"{size!r} is no number of pixels")
        return batch

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except UsageError as error:
            raise UsageError(f"preset {values.get('name')}: {error}") from None

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
            name="full", summary="the study as designed: full width, 20 passes over lowres; for a GPU", seeds=3,
            epochs={"lowres": 20.0, "highres": 120.0, "finetune": 20.0, "fused": 20.0, "own": 20.0}, plateau=3,
            looks=20,
        ),
        Preset(
            name="cpu-small",
            summary="a quarter of the width, 2.4 passes over `synth --scale small`, 2 seeds: under 45 minutes on "
            "two CPU cores with bf16 instructions, more without", seeds=2,
            steps={"lowres": 240, "highres": 100, "finetune": 80, "fused": 80, "own": 80},
            batch={"32": 32, "144": 32}, looks=1, sides=(12, 24, 36, 72, HR),
            settings=_NARROW | {"embedding_size": 128},
        ),
        Preset(
            name="cpu-faces",
            summary="some thousand real faces on two CPU cores: a quarter of the width, 4 passes, 3 seeds; 5 "
            "minutes a run at 144 px and 7,000 faces", seeds=3,
            epochs={"lowres": 4.0, "highres": 40.0, "finetune": 8.0, "fused": 8.0, "own": 8.0}, plateau=3,
            batch={"32": 32, "144": 32}, looks=3, sides=(12, 24, 36, 72, HR),
            settings=_NARROW | {"embedding_size": 256},
        ),
        Preset(
            name="remedies",
            summary="the ablation of remedies at full width, 20 passes over lowres, 3 seeds; for a GPU", seeds=3,
            epochs={"lowres": 20.0, "highres": 120.0, "finetune": 20.0, "fused": 20.0, "own": 20.0}, plateau=3,
            looks=10, detailed_seeds=3, sphere=(),
            remedies=Remedies(candidates=MORE_VALUES + WITH_ADAFACE + WITH_LORA),
        ),
        Preset(
            name="remedies-faces",
            summary="the ablation of remedies on some thousand real faces and two CPU cores: a quarter of the width, "
            "360 steps of 32 faces, 3 seeds", seeds=3,
            steps={"lowres": 360, "highres": 360, "finetune": 360, "fused": 360, "own": 360},
            batch={"32": 32, "144": 32}, looks=0, detailed_seeds=3, sides=(8, 12, 16, 24, 36, 72, HR), sphere=(),
            settings=_NARROW | {"embedding_size": 256}, remedies=Remedies(candidates=CANDIDATES),
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
    base = values.pop("base", "full")
    if not isinstance(base, str) or base not in PRESETS:
        raise UsageError(f"{path}: base is {base!r}; it must be one of {', '.join(PRESETS)}")
    try:
        return PRESETS[base].replaced(**{"name": path.stem} | values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
