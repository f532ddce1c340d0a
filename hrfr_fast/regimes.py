"""The experiments of the study, as data: what is trained on what, from which checkpoint, which parts move, how long.

Code elsewhere reads these fields and never a regime's name. A regime of one's own is a TOML file of the same fields.

Longer than 300 lines because every field, its rules and the table of experiments stand here and nowhere else.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml, write_toml
from hrfr_fast.runtime.validation import Checked, unset

SPLITS = ("lowres", "highres", "faces")
"""What can be trained on; ``faces`` is an ordinary set of one resolution."""
BOTH = ("lowres", "highres")
"""The two resolutions of the study, mixed under one head."""
MODELS = {"single": ("body", "output", "head"), "fused": ("body", "output", "fusion", "head")}
"""Kinds of model and the parts they have: blocks up to the final maps, output layer BN2d - Linear - BN1d (fused models
have two of both), fusion layer, class matrix."""
BUDGETS = {
    "lowres": "equal optimiser steps for all of this group",
    "highres": "to its own plateau (--plateau), never chosen on test pairs",
    "finetune": "equal optimiser steps for all of this group",
    "fused": "equal optimiser steps for all of this group",
    "none": "not trained",
    "own": "as --steps or --epochs say",
}


class Phase(Checked):
    """A part of training with a learning-rate schedule of its own, warm-up included.

    Raises UsageError for values out of range.
    """

    train: tuple[str, ...] = Field(min_length=1, strict=False)
    """The parts that train; all others are frozen and in evaluation mode."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the run's steps."""
    rate: float = Field(default=1.0, gt=0)
    """Factor on the learning rate."""


ALL_AT_ONCE = (Phase(train=("body", "output", "head")),)
_OUTPUTS = (Phase(train=("output", "fusion", "head")),)
HEAD_FIRST = (Phase(train=("head",), share=0.2), Phase(train=("body", "output", "head"), share=0.8, rate=0.1))


class Regime(Checked):
    """One row of the table. Raises UsageError naming the regime and the rule when fields contradict each other."""

    name: str
    sources: tuple[str, ...] = Field(strict=False)
    """Training splits. One epoch is a pass over the first; the second, where there is one, is mixed in, its labels
    offset by the number of identities in the first, under one head."""
    input_size: int = Field(ge=16, multiple_of=16)
    """Side of the input in pixels, a multiple of 16; the whole frame is resampled to it."""
    summary: str = ""
    parents: tuple[str, ...] = Field(default=(), strict=False)
    """What it starts from: names of regimes, or paths of runs or checkpoints (anything with a slash). A fused model has
    two, the first of its own input size."""
    model: Literal["single", "fused"] = "single"
    inherit_head: bool = False
    """Continue with the parent's class matrix too, where it was trained on the same identities."""
    phases: tuple[Phase, ...] = Field(default=ALL_AT_ONCE, strict=False)
    """In order; shares sum to 1. Empty: assembled from its parents and evaluated only."""
    batchnorm: Literal["moving", "frozen"] = "moving"
    """What BatchNorm layers taken from a parent do while their weights train: "moving": use the batch's statistics and
    follow them; "frozen": use the running statistics and keep them. A part that does not train keeps them anyway."""
    tune: Literal["full", "output", "lora"] = "full"
    """What of the parents' weights trains in the parts of a phase: all of them, the output layer alone, or low-rank
    adapters beside them (their rank and layers are settings)."""
    second_view: bool = False
    """Show each highres face twice in one batch: as it is and degraded to low resolution, under one label."""
    degradation: Literal["downsample", "native"] = "downsample"
    """What the degraded view undergoes: "downsample": to ``degrade_min`` to ``degrade_max`` pixels; "native": blur,
    downsampling, noise and JPEG as the settings ``degradation`` say, and upscaling by any kernel."""
    consistency: float = Field(default=0.0, ge=0)
    """lambda: weight of mean(1 - cos) between the two views' embeddings."""
    contrast: float = Field(default=0.0, ge=0)
    """lambda: weight of the stop-gradient contrast, which draws each degraded view to its sharp view as a slowly moving
    copy of the network embeds it, and away from other people (``training/two_view_losses.py``)."""
    domain_norm: Literal["shared", "statistics", "separate"] = "shared"
    """BatchNorm's statistics: one for all pictures, or one a domain, of low resolution (native and degraded) and of
    high; "separate": scale and shift, too, are one a domain (``model/domain_norm.py``)."""
    teacher: str = ""
    """A frozen network that embeds the sharp views, for the student to come close to: the name of a regime, whose run
    is trained first, or the path of a run or checkpoint (anything with a slash)."""
    distillation: float = Field(default=0.0, ge=0)
    """Weight of the distances to the teacher's embeddings and relations (``training/two_view_losses.py``)."""
    highres_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of highres among a batch's pictures; None: as they come."""
    budget: str = "own"
    """Key of BUDGETS."""
    control_of: Annotated[str | None, unset("")] = None
    """The regime that this one is the control of; None: a regime of its own."""

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except UsageError as error:
            raise UsageError(f"regime {values.get('name')!r}: {error}") from None

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        _require(bool(re.fullmatch(r"[\w.-]+", name)), "its name must be letters, digits, '.', '_' and '-'")
        return name

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        self._check_sources()
        self._check_remedies()
        self._check_parents()
        self._check_phases()
        _require(self.budget in BUDGETS, f"budget is {self.budget!r}; it must be one of {', '.join(BUDGETS)}")
        return self

    def _check_sources(self) -> None:
        known = all(source in SPLITS for source in self.sources)
        _require(
            known and 1 <= len(set(self.sources)) == len(self.sources) <= 2,
            f"sources are {list(self.sources)}; one or two of {', '.join(SPLITS)} are needed",
        )
        both = self.sources == BOTH
        _require(both or not self.second_view, "second_view needs sources lowres, highres in this order")
        _require(both or self.highres_share is None, "highres_share needs sources lowres, highres in this order")
        _require(self.second_view or not self.consistency, "consistency needs second_view = true")
        plain = self.degradation == "downsample"
        _require(self.second_view or plain, 'degradation = "native" needs second_view = true')

    def _check_remedies(self) -> None:
        _require(self.second_view or not self.contrast, "contrast needs second_view = true")
        # Every micro-batch then holds both domains, as many rows of each as of every other.
        _require(
            self.second_view or self.domain_norm == "shared",
            f'domain_norm = "{self.domain_norm}" needs second_view = true',
        )
        _require(
            self.model == "single" or self.domain_norm == "shared",
            f'domain_norm = "{self.domain_norm}" needs a single model',
        )
        _require(self.second_view or not self.teacher, "a teacher needs second_view = true")
        _require(bool(self.teacher) or not self.distillation, "distillation needs a teacher")
        _require(self.name != self.teacher, "it cannot be its own teacher")

    def _check_parents(self) -> None:
        wanted = "exactly two parents" if self.model == "fused" else "at most one parent"
        right = len(self.parents) == 2 if self.model == "fused" else len(self.parents) <= 1
        _require(right, f"parents are {list(self.parents)}; a {self.model} model has {wanted}")
        _require(self.name not in self.parents, "it cannot be its own parent")
        _require(
            not self.inherit_head or (self.model == "single" and bool(self.parents)),
            "inherit_head needs a single model with a parent",
        )
        _require(
            self.tune == "full" or bool(self.parents and self.phases),
            f'tune = "{self.tune}" keeps the weights of a parent: it needs one, and phases that train',
        )
        _require(
            bool(self.parents) or self.batchnorm == "moving",
            'batchnorm = "frozen" needs a parent: fresh statistics would never become those of faces',
        )

    def _check_phases(self) -> None:
        trained = {part for phase in self.phases for part in phase.train}
        unknown = trained - set(MODELS[self.model])
        _require(
            not unknown,
            f"a phase trains {', '.join(sorted(unknown))}; a {self.model} model has {', '.join(MODELS[self.model])}",
        )
        if not self.phases:
            _require(bool(self.parents), "without phases it needs parents, or there is nothing to evaluate")
            return
        total = sum(phase.share for phase in self.phases)
        _require(abs(total - 1) < 1e-6, f"the phases' shares sum to {total:g}; they must sum to 1")
        inherited = {"body", "output"} if self.parents else set()
        inherited |= {"head"} if self.inherit_head else set()
        missing = set(MODELS[self.model]) - inherited - trained
        _require(not missing, f"{', '.join(sorted(missing))} would stay random: neither inherited nor trained")

    def save(self, path: str | Path) -> None:
        """Write as a TOML file that ``load_regime`` reads, atomically."""
        write_toml(path, self.model_dump(exclude_none=True))


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


def _regime(name: str, sources: tuple[str, ...], input_size: int, summary: str, **more: Any) -> Regime:
    return Regime(name=name, sources=sources, input_size=input_size, summary=summary, **more)


_LARGE, _SMALL = "lowres144", "lowres32"

TABLE = (
    _regime("lowres32", ("lowres",), 32, "low-resolution faces, shrunk to 32 px", budget="lowres"),
    _regime("lowres144", ("lowres",), 144, "low-resolution faces, upscaled to 144 px", budget="lowres"),
    _regime("highres32", ("highres",), 32, "high-resolution faces, shrunk to 32 px", budget="highres"),
    _regime("highres144", ("highres",), 144, "high-resolution faces at 144 px", budget="highres"),
    _regime("highlow144", BOTH, 144, "both at 144 px, one head over all identities", budget="lowres"),
    _regime(
        "lowres144-finetuned", ("highres",), 144, "lowres144, then fine-tuned on high-resolution faces",
        parents=("lowres144",), phases=HEAD_FIRST, batchnorm="frozen", budget="finetune",
    ),
    _regime(
        "fused-head", ("highres",), 144, "lowres144 and lowres32 frozen; a fusion layer and a head trained on highres",
        parents=(_LARGE, _SMALL), model="fused", phases=(Phase(train=("fusion", "head")),), budget="fused",
    ),
    _regime(
        "fused-output", ("highres",), 144, "lowres144 and lowres32; output layers, fusion and head trained on highres",
        parents=(_LARGE, _SMALL), model="fused", phases=_OUTPUTS, budget="fused",
    ),
    _regime(
        "fused-highlow", ("highres",), 144, "highres144 and lowres32, f(low, high), trained as fused-output",
        parents=("highres144", _SMALL), model="fused", phases=_OUTPUTS, budget="fused",
    ),
    _regime(
        "crossres144", BOTH, 144, "highlow144, each high-resolution face also degraded, both views pulled together",
        second_view=True, consistency=1.0, highres_share=0.2, budget="lowres",
    ),
)  # fmt: skip
"""The ten regimes of the study."""

CONTROLS = (
    _regime(
        "lowres144-continued", ("lowres",), 144, "lowres144 continued on lowres exactly as lowres144-finetuned is",
        parents=("lowres144",), inherit_head=True, phases=HEAD_FIRST, batchnorm="frozen", budget="finetune",
        control_of="lowres144-finetuned",
    ),
    _regime(
        "fused-untrained", ("highres",), 144, "the embeddings of lowres144 and lowres32 side by side, nothing trained",
        parents=(_LARGE, _SMALL), model="fused", phases=(), budget="none", control_of="fused-head",
    ),
    _regime(
        "crossres144-views", BOTH, 144, "crossres144 without the pull: both views, lambda 0",
        second_view=True, highres_share=0.2, budget="lowres", control_of="crossres144",
    ),
)  # fmt: skip
"""What the regimes of the table are to be compared with, beside each other."""

_VIEWS: dict[str, Any] = {"second_view": True, "highres_share": 0.2, "budget": "lowres"}

REMEDIES = (
    _regime(
        "matched-views", BOTH, 144, "crossres144-views, the second view degraded as native low-resolution pictures are",
        degradation="native", **_VIEWS,
    ),
    _regime(
        "remedy-contrast", BOTH, 144, "both views; the degraded one drawn to the sharp one's, away from other people",
        contrast=0.2, **_VIEWS,
    ),
    _regime(
        "remedy-norm", BOTH, 144, "both views; BatchNorm with statistics of low and of high resolution",
        domain_norm="statistics", **_VIEWS,
    ),
    _regime(
        "remedy-distillation", BOTH, 144, "both views; both drawn to where highres144 puts the sharp one",
        teacher="highres144", distillation=1.0, **_VIEWS,
    ),
)  # fmt: skip
"""Further remedies for the gap between the two resolutions, one a regime."""

ORDINARY = (
    _regime("faces112", ("faces",), 112, "an ordinary set of faces at 112 px"),
    _regime("faces32", ("faces",), 32, "an ordinary set of faces, shrunk to 32 px"),
)
"""For a set of one resolution, which is no part of the study."""

REGIMES = {regime.name: regime for regime in TABLE + CONTROLS + REMEDIES + ORDINARY}


def regime_named(name: str) -> Regime:
    """The regime called ``name``, or the one in the file ``name`` where that ends in .toml.

    Raises UsageError listing the names there are, or what is wrong with the file.
    """
    if name.endswith(".toml"):
        return load_regime(name)
    if name not in REGIMES:
        raise UsageError(f"no regime is called {name!r}; there are {', '.join(REGIMES)}, or give a .toml file of one")
    return REGIMES[name]


def load_regime(path: str | Path) -> Regime:
    """A regime from a TOML file of Regime's fields; the name defaults to the file's. Raises UsageError."""
    path = Path(path)
    values = {"name": path.stem} | read_toml(path, "a regime")
    try:
        regime = Regime(**values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if regime.name in REGIMES and regime != REGIMES[regime.name]:
        raise UsageError(f"{path}: the name {regime.name} is taken; name your regime otherwise")
    return regime


def is_checkpoint(parent: str) -> bool:
    """Whether a parent is given as a path and not as a regime's name."""
    return "/" in parent or parent.endswith(".safetensors")


def needed_regimes(regime: Regime) -> tuple[str, ...]:
    """Names of the regimes whose runs have to be there before one of ``regime`` starts: parents, and its teacher."""
    names = (*regime.parents, *([regime.teacher] if regime.teacher else []))
    return tuple(dict.fromkeys(name for name in names if not is_checkpoint(name)))


def in_order(names: Iterable[str]) -> list[str]:
    """``names`` and the regimes they need (``needed_regimes``), each once, these first, else as given.

    Args:
        names: of regimes, or their .toml files; the result holds them as they were given.

    Raises:
        UsageError: an unknown regime; a parent or teacher that is neither built in nor among ``names``; a circle.
    """
    given = list(names)
    path_of = {regime_named(name).name: name for name in given}
    ordered: list[str] = []

    def visit(name: str, children: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in children:
            raise UsageError(f"regimes that start from each other: {' -> '.join([*children, name])}")
        for parent in needed_regimes(regime_named(name)):
            if parent not in path_of and parent not in REGIMES:
                raise UsageError(f"regime {name} needs {parent}, which is no built-in regime and was not given")
            visit(path_of.get(parent, parent), (*children, name))
        ordered.append(name)

    for name in given:
        visit(name, ())
    return ordered
