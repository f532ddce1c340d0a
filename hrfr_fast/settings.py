"""The settings of a training run: one frozen dataclass is the single source of names, types, defaults and help.

Defaults < ``--config file.toml`` < flags. The command line builds its options from this class, the run directory
keeps the resolved values as ``settings.toml``, and that file is itself a valid ``--config``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from hrfr_fast.regimes import REGIMES, regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml, write_toml

CHOICES: dict[str, tuple[str, ...]] = {
    "head": ("arcface", "cosface", "sphereface", "combined", "adaface", "softmax"),
    "schedule": ("cosine", "polynomial"),
    "device": ("auto", "cpu", "cuda"),
    "engine": ("auto", "resident", "dali", "ffcv"),
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "batchnorm": ("regime", "moving", "frozen"),
    "compile": ("auto", "on", "off"),
    "graphs": ("auto", "on", "off"),
}

SPEED_ONLY = (
    "device", "engine", "compile", "graphs", "profile", "save_minutes", "log_every", "verify_checksums",
    "activation_checkpointing",
)  # fmt: skip
"""Settings that do not change what a run computes: a resumed run may have others."""


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _share(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class AugmentSettings:
    """How strongly to augment; the defaults are those of every regime. crossres144's degraded second view is not among
    them: it has settings of its own. Raises UsageError for values out of range."""

    flip: float = _share(0.5, "probability of a horizontal flip")
    shift: float = _share(0.0625, "largest shift to each side, as a share of the frame: 2 px of 32; 0 to 0.5")
    zoom: float = _share(0.0, "the source box is 1 - zoom to 1 + zoom of the frame; 0 to 0.5")
    brightness: float = _share(0.2, "brightness times 1 - this to 1 + this; 0 to 1")
    contrast: float = _share(0.0, "contrast times 1 - this to 1 + this; 0 to 1")
    saturation: float = _share(0.0, "saturation times 1 - this to 1 + this; 0 to 1")
    grey: float = _share(0.0, "probability of a grey picture")
    blur: float = _share(0.0, "probability of a Gaussian blur")
    blur_sigma: float = _share(0.02, "its largest standard deviation, as a share of the output's side; 0 to 0.1")
    erase: float = _share(0.0, "probability of one erased rectangle: 2 % to 20 % of the picture, level 128")
    degrade: float = _share(0.0, "probability that the frame is first shrunk, with a random kernel")
    degrade_min: int = field(default=16, metadata={"help": "fewest pixels a side to which it is shrunk"})
    degrade_max: int = field(default=48, metadata={"help": "most pixels a side to which it is shrunk"})

    def __post_init__(self) -> None:
        most = {"shift": 0.5, "zoom": 0.5, "blur_sigma": 0.1, "degrade_min": 4096, "degrade_max": 4096}
        for one in fields(self):
            value, limit = getattr(self, one.name), most.get(one.name, 1.0)
            if not 0 <= value <= limit:
                raise UsageError(f"augmentation {one.name} is {value}; it must lie in [0, {limit:g}]")
        if not 1 <= self.degrade_min <= self.degrade_max:
            raise UsageError(
                f"degrade_min is {self.degrade_min} and degrade_max {self.degrade_max}; 1 <= min <= max is needed"
            )


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides what a run computes, and how fast. Raises UsageError for values out of range."""

    regime: str = _setting("highlow144", f"what is trained on what: {', '.join(REGIMES)}, or a .toml file of one")
    data: str = _setting("packed", "directory written by `hrfr-fast pack`")
    out: str = _setting("", "run directory; runs/REGIME if not given")
    init: str = _setting("", "runs or checkpoints to start from, with commas between; runs beside --out if not given")
    epochs: float = _setting(20.0, "passes over the regime's first split")
    steps: int = _setting(0, "optimiser steps instead of epochs; 0: epochs count")
    plateau: int = _setting(
        0,
        "verifications without a gain after which the rate falls tenfold; at the third time the run ends, with"
        " --steps or --epochs as the most; 0: exactly those",
    )
    batch_size: int = _setting(0, "samples an optimiser step, or auto: find what fits (0 in files)")
    accumulate: int = _setting(1, "micro-batches a step; BatchNorm then sees batch_size / accumulate samples")
    seed: int = _setting(0, "decides weights, order and augmentation")
    head: str = _setting("arcface", "margin-softmax head")
    scale: float = _setting(0.0, "the head's scale s; 0: the value its paper uses")
    margin: float = _setting(-1.0, "the head's margin m; negative: the value its paper uses")
    width: int = _setting(64, "channels of the first blocks; 64 is IR-SE-18, 16 suits CPUs")
    embedding_size: int = _setting(512, "dimensions of the embedding")
    dropout: float = _setting(0.0, "dropout before the last linear layer")
    learning_rate: float = _setting(0.1, "peak learning rate of SGD")
    warmup: float = _setting(0.05, "share of all steps over which the rate rises from near 0")
    schedule: str = _setting("cosine", "how the rate falls after warm-up")
    momentum: float = _setting(0.9, "momentum of SGD")
    weight_decay: float = _setting(5e-4, "on weights only: not on BatchNorm, PReLU and biases")
    clip_gradient: float = _setting(5.0, "largest gradient norm; 0: no clipping")
    highres_share: float = _setting(-1.0, "share of highres in mixed regimes; negative: the regime's or as they come")
    highres_identities: float = _setting(1.0, "share of the highres identities to train on: the first ones, by name")
    most_identities: int = _setting(0, "train on the first so many identities of each split, by name; 0: on all")
    batchnorm: str = _setting("regime", "what statistics inherited from a parent do while their layer trains")
    consistency: float = _setting(-1.0, "lambda of the pull between two views of a face; negative: the regime's")
    degrade_min: int = _setting(28, "fewest pixels a side of the degraded second view")
    degrade_max: int = _setting(44, "most pixels a side of the degraded second view")
    kernels: str = _setting(
        "linear,box", "kernels of the degraded second view, of cubic, linear, box; test views use cubic"
    )
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    device: str = _setting("auto", "where to train")
    engine: str = _setting("auto", "data path; auto: the fastest that fits")
    precision: str = _setting(
        "auto", "auto: bf16 where the hardware has it, else fp16 with loss scaling (GPU) or fp32 (CPU)"
    )
    compile: str = _setting("auto", "torch.compile of the step; auto: on CUDA, for runs long enough to pay for it")
    graphs: str = _setting("auto", "the whole step as one CUDA graph; auto: on CUDA, where it can be captured")
    profile: int = _setting(0, "record this many steps: a trace and a table in the run's profile/; 0: none")
    activation_checkpointing: bool = _setting(False, "recompute activations: less memory, a third slower")
    # Only the first use of a record costs: 1.8 us at 36 px, 23 us at 144 px on one core (zlib), so 1.8 s and 0.2 s
    # in a whole run over 1,000,000 + 10,000 faces. Later passes look up one byte a record.
    verify_checksums: bool = _setting(True, "compare each record with its checksum when it is first used")
    eval_every: float = _setting(1.0, "epochs between verifications; 0: only at the end")
    save_minutes: float = _setting(5.0, "minutes between checkpoints")
    log_every: int = _setting(10, "steps between metrics lines")

    def __post_init__(self) -> None:
        if not self.regime.endswith(".toml"):  # a file is read when it is trained
            regime_named(self.regime)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        rules = {
            "epochs": self.epochs > 0, "steps": self.steps >= 0, "batch_size": self.batch_size >= 0,
            "accumulate": self.accumulate >= 1, "seed": 0 <= self.seed < 2**63,
            "width": self.width >= 8 and self.width % 8 == 0,
            "embedding_size": self.embedding_size >= 2, "dropout": 0 <= self.dropout < 1,
            "learning_rate": self.learning_rate > 0, "warmup": 0 <= self.warmup < 1,
            "momentum": 0 <= self.momentum < 1, "weight_decay": self.weight_decay >= 0,
            "clip_gradient": self.clip_gradient >= 0, "highres_share": self.highres_share < 1,
            "log_every": self.log_every >= 1, "eval_every": self.eval_every >= 0,
            "save_minutes": self.save_minutes > 0, "scale": self.scale >= 0, "plateau": self.plateau >= 0,
            "highres_identities": 0 < self.highres_identities <= 1, "degrade_min": self.degrade_min >= 1,
            "profile": self.profile >= 0, "most_identities": self.most_identities == 0 or self.most_identities >= 2,
        }  # fmt: skip
        for name, holds in rules.items():
            if not holds:
                raise UsageError(f"{name} is {getattr(self, name)}; that is out of range")
        if self.batch_size % self.accumulate:
            raise UsageError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        if 0 < self.batch_size < 2 * self.accumulate:
            raise UsageError(
                f"batch_size {self.batch_size} in {self.accumulate} micro-batches: BatchNorm needs 2 samples in each"
            )
        if self.plateau and not self.eval_every:
            raise UsageError("plateau counts verifications; eval_every must not be 0")

    @property
    def run_directory(self) -> Path:
        """Where the run goes. Raises UsageError for a regime that does not exist where that names the directory."""
        return Path(self.out or f"runs/{regime_named(self.regime).name}")

    def updated(self, values: Mapping[str, Any], origin: str) -> Self:
        """These settings with some replaced. Raises UsageError naming ``origin`` for an unknown name or type."""
        augment = values.get("augment", {})
        known = {f.name for f in fields(self)} - {"augment"}
        plain = {name: value for name, value in values.items() if name != "augment"}
        for name in plain:
            if name not in known:
                raise UsageError(f"{origin}: there is no setting {name!r}; there are {', '.join(sorted(known))}")
        converted = {name: _converted(type(self), name, value, origin) for name, value in plain.items()}
        return replace(self, **converted, augment=_augment(self.augment, augment, origin))

    def save(self, path: str | Path) -> None:
        """Write as TOML, atomically."""
        write_toml(path, asdict(self))


def load_settings(path: str | Path, base: TrainSettings | None = None) -> TrainSettings:
    """Settings from a TOML file over ``base`` (the defaults). Raises UsageError naming file and setting."""
    return (base or TrainSettings()).updated(read_toml(path, "settings"), str(path))


def _augment(base: AugmentSettings, values: Any, origin: str) -> AugmentSettings:
    if not isinstance(values, Mapping):
        raise UsageError(f"{origin}: augment must be a table of settings, it is {values!r}")
    known = {f.name for f in fields(AugmentSettings)}
    for name in values:
        if name not in known:
            raise UsageError(f"{origin}: there is no augmentation {name!r}; there are {', '.join(sorted(known))}")
    return replace(base, **{n: _converted(AugmentSettings, n, v, origin) for n, v in values.items()})


def _converted(owner: type, name: str, value: Any, origin: str) -> Any:
    """``value`` as the field's type; an integer will do for a float, nothing else is bent."""
    if name == "batch_size" and isinstance(value, str):
        return _batch_size(value, origin)
    kind = get_type_hints(owner)[name]
    kind = (get_args(kind) or (kind,))[0]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{origin}: {name} must be {kind.__name__}, it is {value!r}")
    return value


def _batch_size(text: str, origin: str) -> int:
    if text != "auto" and not text.isdecimal():
        raise UsageError(f"{origin}: batch_size must be auto or a whole number, it is {text!r}")
    return 0 if text == "auto" else int(text)
