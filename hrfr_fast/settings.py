"""The settings of a training run, in groups: the single source of names, types, defaults, bounds and help.

Defaults < ``--config file.toml`` < flags. The command line builds its options from these classes, the run directory
keeps the resolved values as ``settings.toml``, and that file is itself a valid ``--config``. Names are unique over all
groups, so files, flags and the constructor of :class:`TrainSettings` are flat: ``TrainSettings(width=16)`` is read back
as ``settings.model.width``. None means "not set"; such a key is left out of the file.

Longer than 300 lines because every setting, its bounds and its help stand here and nowhere else.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, model_validator
from pydantic.fields import FieldInfo

from hrfr_fast.regimes import REGIMES, regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml, write_toml
from hrfr_fast.runtime.validation import Checked, PathText, unknown_name, unset

Choice = Literal["auto", "on", "off"]


def _setting(default: Any, text: str, *, speed_only: bool = False, **bounds: Any) -> Any:
    """A field with its help. ``speed_only``: it does not change what a run computes, so a resumed run may differ."""
    return Field(default, description=text, json_schema_extra={"speed_only": speed_only}, **bounds)


def _number_or_auto(value: Any) -> Any:
    """The batch size as the command line gives it: a number in digits, or the word auto."""
    if not isinstance(value, str):
        return value
    if value == "auto":
        return None
    if not value.isdecimal():
        raise ValueError("it must be auto or a whole number")
    return int(value)


class SamplingSettings(Checked):
    """Which samples make up a batch."""

    batch_size: Annotated[int | None, BeforeValidator(_number_or_auto), unset(0)] = _setting(
        None, "samples an optimiser step, or auto: find what fits (0 in files)", ge=2
    )
    accumulate: int = _setting(1, "micro-batches a step; BatchNorm then sees batch_size / accumulate samples", ge=1)
    highres_share: Annotated[float | None, unset(negative=True)] = _setting(
        None, "share of highres in mixed regimes; negative: the regime's or as they come", ge=0, lt=1
    )
    highres_identities: float = _setting(
        1.0, "share of the highres identities to train on: the first ones, by name", gt=0, le=1
    )
    resident_shard: Annotated[int | None, unset(0)] = _setting(
        None,
        "cut the faces into so many blocks, of which each rank keeps its share of the pixels in memory, a multiple of"
        " the ranks; changes the order; 0: every rank keeps all",
        ge=1,
    )
    most_identities: Annotated[int | None, unset(0)] = _setting(
        None, "train on the first so many identities of each split, by name; 0: on all", ge=2
    )
    degrade_min: int = _setting(28, "fewest pixels a side of the degraded second view", ge=1)
    degrade_max: int = _setting(44, "most pixels a side of the degraded second view")
    kernels: str = _setting(
        "linear,box",
        "kernels of the degraded second view, of cubic, linear, box, nearest, lanczos; test views use cubic",
    )


class AugmentSettings(Checked):
    """How strongly to augment; the defaults are those of every regime. crossres144's degraded second view is not among
    them: it has settings of its own. Raises UsageError for values out of range."""

    flip: float = _setting(0.5, "probability of a horizontal flip", ge=0, le=1)
    shift: float = _setting(
        0.0625, "largest shift to each side, as a share of the frame: 2 px of 32; 0 to 0.5", ge=0, le=0.5
    )
    zoom: float = _setting(0.0, "the source box is 1 - zoom to 1 + zoom of the frame; 0 to 0.5", ge=0, le=0.5)
    brightness: float = _setting(0.2, "brightness times 1 - this to 1 + this; 0 to 1", ge=0, le=1)
    contrast: float = _setting(0.0, "contrast times 1 - this to 1 + this; 0 to 1", ge=0, le=1)
    saturation: float = _setting(0.0, "saturation times 1 - this to 1 + this; 0 to 1", ge=0, le=1)
    grey: float = _setting(0.0, "probability of a grey picture", ge=0, le=1)
    blur: float = _setting(0.0, "probability of a Gaussian blur", ge=0, le=1)
    blur_sigma: float = _setting(
        0.02, "its largest standard deviation, as a share of the output's side; 0 to 0.1", ge=0, le=0.1
    )
    erase: float = _setting(
        0.0, "probability of one erased rectangle: 2 % to 20 % of the picture, level 128", ge=0, le=1
    )
    degrade: float = _setting(0.0, "probability that the frame is first shrunk, with a random kernel", ge=0, le=1)
    degrade_min: int = _setting(16, "fewest pixels a side to which it is shrunk", ge=1, le=4096)
    degrade_max: int = _setting(48, "most pixels a side to which it is shrunk", ge=1, le=4096)

    @model_validator(mode="after")
    def _degrade_bounds_in_order(self) -> Self:
        if self.degrade_min > self.degrade_max:
            raise ValueError(
                f"degrade_min is {self.degrade_min} and degrade_max {self.degrade_max}; 1 <= min <= max is needed"
            )
        return self


class DegradationSettings(Checked):
    """What second views undergo in regimes whose degradation is "native"; see ``sampling.degradation``.

    The defaults are published ranges: blur and noise are GFPGAN's (Wang et al. 2021, section 4.1: sigma up to 10 of 512
    px, noise up to 15), JPEG is BSRGAN's (Zhang et al. 2021: quality 30 to 95, three pictures in four), and grey noise
    Real-ESRGAN's (Wang et al. 2021: two pictures in five). Raises UsageError for values out of range.
    """

    side_min: float = _setting(0.1, "smallest side of the degraded picture, as a share of the source's", gt=0, le=1)
    side_max: float = _setting(0.5, "its largest side, as a share of the source's", gt=0, le=1)
    blur: float = _setting(1.0, "probability of an optical blur", ge=0, le=1)
    blur_min: float = _setting(0.0, "its smallest sigma, as a share of the source's side", ge=0, le=0.1)
    blur_max: float = _setting(0.02, "its largest sigma, as a share of the source's side", ge=0, le=0.1)
    noise: float = _setting(1.0, "probability of noise", ge=0, le=1)
    noise_min: float = _setting(0.0, "its smallest standard deviation in pixel values", ge=0, le=64)
    noise_max: float = _setting(15.0, "its largest standard deviation in pixel values", ge=0, le=64)
    noise_grey: float = _setting(0.4, "probability that noise is the same in all three channels", ge=0, le=1)
    jpeg: float = _setting(0.75, "probability of JPEG compression", ge=0, le=1)
    jpeg_min: int = _setting(30, "its lowest quality", ge=1, le=100)
    jpeg_max: int = _setting(95, "its highest quality", ge=1, le=100)
    down: str = _setting(  # without lanczos, by which the analyses make the view that no training has used
        "cubic,linear,box,nearest",
        "kernels of the downsampling, of these and lanczos, each with an optional weight: cubic:2,box",
    )
    up: str = _setting("cubic,linear,box,nearest,lanczos", "kernels of the upscaling, each with an optional weight")
    orders: str = _setting(
        "blur-down-noise-jpeg,blur-down-jpeg-noise,down-blur-noise-jpeg,down-blur-jpeg-noise",
        "orders of the steps, each with an optional weight",
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        for name in ("side", "blur", "noise", "jpeg"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(f"{name}_min is {low:g} and {name}_max {high:g}; min <= max is needed")
        return self


class ModelSettings(Checked):
    """The embedder."""

    backbone: Literal[
        "irse18", "ir18", "ir34", "ir50", "ir100", "irse50", "irse100", "mobilefacenet", "vit-s", "vit-b"
    ] = _setting("irse18", "the network; a run that starts from another has that one's")
    width: int = _setting(64, "scale of all channels; 64 is the published network, 16 suits CPUs", ge=8, multiple_of=8)
    embedding_size: int = _setting(512, "dimensions of the embedding", ge=2)
    dropout: float = _setting(0.0, "dropout before the last linear layer", ge=0, lt=1)
    drop_path: Annotated[float | None, unset(negative=True)] = _setting(
        None,
        "stochastic depth: probability with which a sample skips the last block, falling to 0 at the first; negative:"
        " the network's, 0.05 of vit-s and vit-b and 0 of others",
        ge=0,
        lt=1,
    )
    resample_parent: bool = _setting(
        False, "take a parent of another input size: what depends on the size in its weights is resampled"
    )
    batchnorm: Literal["regime", "moving", "frozen"] = _setting(
        "regime", "what statistics inherited from a parent do while their layer trains"
    )
    sync_bn: bool = _setting(
        False, "of a run over several ranks: BatchNorm's statistics are those of all ranks' samples together"
    )


class TuningSettings(Checked):
    """What trains of the weights that a run has from its parents."""

    tune: Literal["regime", "full", "output", "lora"] = _setting(
        "regime",
        "of a parent's weights train all, the output layer alone, or low-rank adapters beside them; regime: as the"
        " regime says, all unless it names another",
    )
    lora_rank: int = _setting(8, "rank of the adapters", ge=1)
    lora_alpha: Annotated[float | None, unset(0)] = _setting(
        None, "adapters are scaled by alpha / rank; 0: alpha is the rank", gt=0
    )
    lora_layers: Literal["all", "body", "output"] = _setting(
        "all", "which convolutions and linear layers get adapters; a part without any stays as it is"
    )


class LossSettings(Checked):
    """The margin-softmax head, and the losses between two views of a face, which two-view regimes may add to it."""

    head: Literal["arcface", "cosface", "sphereface", "combined", "adaface", "softmax"] = _setting(
        "arcface", "margin-softmax head"
    )
    scale: Annotated[float | None, unset(0)] = _setting(None, "the head's scale s; 0: the value its paper uses", gt=0)
    margin: Annotated[float | None, unset(negative=True)] = _setting(
        None, "the head's margin m; negative: the value its paper uses", ge=0
    )
    partial_fc: float = _setting(
        1.0,
        "share of the other identities that a step compares its faces with, drawn anew each time; 1: all",
        gt=0,
        le=1,
    )
    consistency: Annotated[float | None, unset(negative=True)] = _setting(
        None, "lambda of the consistency loss between two views of a face; negative: the regime's", ge=0
    )
    contrast: Annotated[float | None, unset(negative=True)] = _setting(
        None,
        "weight of the stop-gradient contrast between a degraded view, its sharp view and other people; negative: the"
        " regime's",
        ge=0,
    )
    contrast_scale: Annotated[float | None, unset(0)] = _setting(
        None, "its scale s, which multiplies cosines; 0: the head's", gt=0
    )
    contrast_ema: float = _setting(
        0.999, "decay of the moving copy of the network that embeds the sharp side of the contrast", ge=0, lt=1
    )
    contrast_queue: int = _setting(0, "past embeddings of that copy to contrast with, too; 0: those of the batch", ge=0)
    distillation: Annotated[float | None, unset(negative=True)] = _setting(
        None,
        "weight of 20 (1 - cos) between both views and the teacher's embedding of the sharp one; negative: the"
        " regime's",
        ge=0,
    )
    distillation_relations: float = _setting(
        4.0,
        "weight of the distance between the degraded views' cosines with the teacher's sharp ones and the teacher's"
        " own, times that of the distillation",
        ge=0,
    )
    teacher: Annotated[PathText | None, unset("")] = _setting(
        None, "run or checkpoint of the frozen teacher; the run of the regime's teacher beside --out if not given"
    )


class OptimizerSettings(Checked):
    """The optimiser and the schedule of its learning rate."""

    optimizer: Literal["auto", "sgd", "adamw"] = _setting(
        "auto", "auto: the network's, adamw for vit-s and vit-b and sgd for others"
    )
    learning_rate: Annotated[float | None, unset(0)] = _setting(
        None, "peak learning rate; 0: the optimiser's, 0.1 of sgd and 0.001 of adamw", gt=0
    )
    warmup: float = _setting(0.05, "share of all steps over which the rate rises from near 0", ge=0, lt=1)
    schedule: Literal["cosine", "polynomial"] = _setting("cosine", "how the rate falls after warm-up")
    momentum: float = _setting(0.9, "momentum of SGD", ge=0, lt=1)
    beta1: float = _setting(0.9, "decay of AdamW's mean gradient", ge=0, lt=1)
    beta2: float = _setting(0.999, "decay of AdamW's mean squared gradient", ge=0, lt=1)
    weight_decay: Annotated[float | None, unset(negative=True)] = _setting(
        None,
        "on weights only: not on norms, PReLU, biases and positions; negative: the optimiser's, 0.0005 of sgd and 0.1"
        " of adamw",
        ge=0,
    )
    layer_decay: float = _setting(
        1.0, "factor of the learning rate from each layer of the network to the one below it; 1: all alike", gt=0, le=1
    )
    clip_gradient: float = _setting(5.0, "largest gradient norm; 0: no clipping", ge=0)
    ema: float = _setting(
        0.0, "decay of the weights' moving average, which is then what is evaluated and kept; 0: none", ge=0, lt=1
    )


class BudgetSettings(Checked):
    """How long a run trains."""

    epochs: float = _setting(20.0, "passes over the regime's first split", gt=0)
    steps: Annotated[int | None, unset(0)] = _setting(None, "optimiser steps instead of epochs; 0: epochs count", ge=1)
    plateau: Annotated[int | None, unset(0)] = _setting(
        None,
        "verifications without a gain after which the rate falls tenfold; at the third time the run ends, with"
        " --steps or --epochs as the most; 0: exactly those",
        ge=1,
    )


class ExecutionSettings(Checked):
    """Where and how the work is done: device, number format and speed."""

    device: Literal["auto", "cpu", "cuda"] = _setting("auto", "where to train", speed_only=True)
    engine: Literal["auto", "resident", "dali", "ffcv"] = _setting(
        "auto", "data path; auto: the fastest that fits", speed_only=True
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = _setting(
        "auto", "auto: bf16 where the hardware has it, else fp16 with loss scaling (GPU) or fp32 (CPU)"
    )
    compile: Choice = _setting(
        "auto", "torch.compile of the step; auto: on CUDA, for runs long enough to pay for it", speed_only=True
    )
    graphs: Choice = _setting(
        "auto", "the whole step as one CUDA graph; auto: on CUDA, where it can be captured", speed_only=True
    )
    allreduce: Literal["fp32", "bf16"] = _setting(
        "fp32", "number format in which the ranks of a run exchange gradients; bf16 halves the traffic"
    )
    shard_head: Choice = _setting(
        "auto",
        "of a run over several ranks: each holds a part of the head's identities; auto: where these weigh 1 GB or more",
        speed_only=True,
    )
    fused_kernels: Choice = _setting(
        "auto",
        "kernels of our own for what stands between convolutions, and for the head; auto: on CPUs, and on a GPU where a"
        " trial finds them faster",
        speed_only=True,
    )
    deterministic: bool = _setting(
        False, "on a GPU: equal bits from equal runs; slower, and neither compiled nor timed for the fastest algorithm"
    )
    activation_checkpointing: bool = _setting(
        False, "recompute activations: less memory, a third slower", speed_only=True
    )
    # Only the first use of a record costs: 1.8 us at 36 px, 23 us at 144 px on one core (zlib), so 1.8 s and 0.2 s
    # in a whole run over 1,000,000 + 10,000 faces. Later passes look up one byte a record.
    verify_checksums: bool = _setting(
        True, "compare each record with its checksum when it is first used", speed_only=True
    )


class LoggingSettings(Checked):
    """What is written and measured while a run trains."""

    eval_every: float = _setting(1.0, "epochs between verifications; 0: only at the end", ge=0)
    save_minutes: float = _setting(5.0, "minutes between checkpoints", speed_only=True, gt=0)
    log_every: int = _setting(10, "steps between metrics lines", speed_only=True, ge=1)
    profile: Annotated[int | None, unset(0)] = _setting(
        None, "record this many steps: a trace and a table in the run's profile/; 0: none", speed_only=True, ge=1
    )
    verify_on: Literal["all", "development"] = _setting(
        "all", "the pair sets that a run verifies itself on; development: test pairs are left to others"
    )


class TrainSettings(Checked):
    """Everything that decides what a run computes, and how fast.

    The constructor takes the flat names of all groups, and ``augment`` and ``degradation`` as their classes or as
    mappings, ``degradation`` as a TOML file, too. Raises UsageError for an unknown name, a wrong type or a value out of
    range.
    """

    regime: PathText = _setting("highlow144", f"what is trained on what: {', '.join(REGIMES)}, or a .toml file of one")
    data: PathText = _setting("packed", "directory written by `hrfr-fast pack`")
    out: Annotated[PathText | None, unset("")] = _setting(None, "run directory; runs/REGIME if not given")
    init: Annotated[PathText | None, unset("")] = _setting(
        None, "runs or checkpoints to start from, with commas between; runs beside --out if not given"
    )
    seed: int = _setting(0, "decides weights, order and augmentation", ge=0, lt=2**63)
    sampling: SamplingSettings = SamplingSettings()
    augment: AugmentSettings = AugmentSettings()
    degradation: DegradationSettings = DegradationSettings()
    model: ModelSettings = ModelSettings()
    tuning: TuningSettings = TuningSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    budget: BudgetSettings = BudgetSettings()
    execution: ExecutionSettings = ExecutionSettings()
    logging: LoggingSettings = LoggingSettings()

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**_grouped(values))

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        if not self.regime.endswith(".toml"):  # a file is read when it is trained
            regime_named(self.regime)
        size, parts = self.sampling.batch_size, self.sampling.accumulate
        if size is not None and size % parts:
            raise ValueError(f"batch_size {size} is not a multiple of accumulate {parts}")
        if size is not None and size < 2 * parts:
            raise ValueError(f"batch_size {size} in {parts} micro-batches: BatchNorm needs 2 samples in each")
        if self.budget.plateau and not self.logging.eval_every:
            raise ValueError("plateau counts verifications; eval_every must not be 0")
        return self

    @property
    def run_directory(self) -> Path:
        """Where the run goes. Raises UsageError for a regime that does not exist where that names the directory."""
        return Path(self.out or f"runs/{regime_named(self.regime).name}")

    def flat(self) -> dict[str, Any]:
        """Name -> value over all groups, each of TABLES as a dict of its own: what files of settings hold, and None."""
        values = {field.name: field.of(self) for field in flat_fields()}
        return values | {table: dict(getattr(self, table)) for table in TABLES}

    @property
    def given(self) -> frozenset[str]:
        """Flat names of the settings that were given a value, be it the default; TABLES aside."""
        return frozenset(
            field.name
            for field in flat_fields()
            if field.name in (getattr(self, field.group) if field.group else self).model_fields_set
        )

    def replaced(self, /, **values: Any) -> Self:
        """A copy with some values (flat names) replaced, checked again. Raises UsageError."""
        tables = {table: dict(getattr(self, table)) | _table(table, values.get(table, {})) for table in TABLES}
        known = {name: value for name, value in self.flat().items() if name in self.given}
        return type(self)(**known | values | tables)

    def updated(self, values: Mapping[str, Any], origin: str) -> Self:
        """These settings with some (flat names) replaced. Raises UsageError naming ``origin`` for a value that does not
        fit."""
        try:
            return self.replaced(**values)
        except UsageError as error:
            raise UsageError(f"{origin}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write as TOML, atomically."""
        write_toml(path, {name: value for name, value in self.flat().items() if value is not None})


TABLES: dict[str, type[Checked]] = {"augment": AugmentSettings, "degradation": DegradationSettings}
"""Groups that are tables of their own in files, whose names need not differ from those of other groups."""


class SettingField(NamedTuple):
    """One setting as flags and files know it."""

    name: str
    group: str
    """Attribute of TrainSettings; empty for the settings that are in no group."""
    info: FieldInfo

    def of(self, settings: TrainSettings) -> Any:
        """Its value in ``settings``."""
        return getattr(getattr(settings, self.group) if self.group else settings, self.name)

    @property
    def type(self) -> type:
        """What a value is, None aside: str, int, float or bool."""
        kind: Any = self.info.annotation
        if get_origin(kind) in (Union, UnionType):
            kind = next(member for member in get_args(kind) if member is not NoneType)
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        return str if get_origin(kind) is Literal else kind

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it may have, where they are few."""
        return get_args(self.info.annotation) if get_origin(self.info.annotation) is Literal else ()

    @property
    def speed_only(self) -> bool:
        """Whether it leaves the result of a run as it is."""
        extra = self.info.json_schema_extra
        return isinstance(extra, dict) and bool(extra["speed_only"])


def flat_fields() -> Iterator[SettingField]:
    """Every setting but those of TABLES, group after group."""
    for name, info in TrainSettings.model_fields.items():
        group = info.annotation
        if isinstance(group, type) and issubclass(group, Checked):
            if name not in TABLES:
                yield from (SettingField(one, name, field) for one, field in group.model_fields.items())
        else:
            yield SettingField(name, "", info)


def degradation_fields() -> Iterator[SettingField]:
    """The settings of ``degradation``."""
    yield from (SettingField(name, "degradation", one) for name, one in DegradationSettings.model_fields.items())


def augment_fields() -> Iterator[SettingField]:
    """The settings of ``augment``."""
    yield from (SettingField(name, "augment", field) for name, field in AugmentSettings.model_fields.items())


def choices(name: str) -> tuple[str, ...]:
    """The values that the setting ``name`` may have; none where they are not few."""
    return next(field.choices for field in flat_fields() if field.name == name)


SPEED_ONLY = tuple(field.name for field in flat_fields() if field.speed_only)
"""Settings that do not change what a run computes: a resumed run may have others."""
_GROUP_OF = {field.name: field.group for field in flat_fields()}


def _grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values under the groups they belong to. Raises UsageError for an unknown name."""
    groups: dict[str, Any] = {}
    for name, value in values.items():
        if name in TABLES:
            groups[name] = value if isinstance(value, TABLES[name]) else _checked_table(name, value)
        elif name not in _GROUP_OF:
            raise UsageError(unknown_name(name, _GROUP_OF))
        elif _GROUP_OF[name]:
            groups.setdefault(_GROUP_OF[name], {})[name] = value
        else:
            groups[name] = value
    models = {name: TrainSettings.model_fields[name].annotation for name in groups}
    return {
        name: models[name](**value) if isinstance(value, dict) else value  # type: ignore[misc]
        for name, value in groups.items()
    }


def _checked_table(name: str, value: Any) -> Checked:
    try:
        return TABLES[name](**_table(name, value))
    except UsageError as error:
        raise UsageError(f"{'augmentation' if name == 'augment' else name}: {error}") from None


def _table(name: str, value: Any) -> dict[str, Any]:
    """The settings of one of TABLES; those of ``degradation`` may be in a file. Raises UsageError."""
    if isinstance(value, TABLES[name]):
        return dict(value)
    if name == "degradation" and isinstance(value, str | Path):
        content = read_toml(value, "a degradation")
        value = content.get("degradation", content)
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} must be a table of settings, it is {value!r}")
    return dict(value)


def is_run(path: Path) -> bool:
    """Whether the directory ``path`` is, by what lies in it, that of a training run."""
    return (path / "settings.toml").exists() or (path / "checkpoints").is_dir()


def load_settings(path: str | Path, base: TrainSettings | None = None) -> TrainSettings:
    """Settings from a TOML file over ``base`` (the defaults). Raises UsageError naming file and setting."""
    return (base or TrainSettings()).updated(read_toml(path, "settings"), str(path))
