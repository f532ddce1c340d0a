"""The experiments of the study, as data: what is trained on what, from which checkpoint, which parts move, how long.

Code elsewhere reads these fields and never a regime's name. A regime of one's own is a TOML file of the same fields.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml, write_toml

SPLITS = ("lowres", "highres")
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


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a learning-rate schedule of its own, warm-up included.

    Raises UsageError for values out of range.
    """

    train: tuple[str, ...]
    """The parts that move; all others are frozen and in evaluation mode."""
    share: float = 1.0
    """Of the run's steps, > 0 to 1."""
    rate: float = 1.0
    """Factor on the learning rate, > 0."""

    def __post_init__(self) -> None:
        if not self.train:
            raise UsageError("a phase that trains no part; leave it out")
        if not 0 < self.share <= 1:
            raise UsageError(f"a phase's share is {self.share}; it must lie in (0, 1]")
        if not self.rate > 0:
            raise UsageError(f"a phase's rate is {self.rate}; it must be positive")


ALL_AT_ONCE = (Phase(("body", "output", "head")),)
HEAD_FIRST = (Phase(("head",), share=0.2), Phase(("body", "output", "head"), share=0.8, rate=0.1))


@dataclass(frozen=True)
class Regime:
    """One row of the table. Raises UsageError naming the regime and the rule when fields contradict each other."""

    name: str
    sources: tuple[str, ...]
    """Training splits. One epoch is a pass over the first; the second, where there is one, is mixed in, its labels
    offset by the number of identities in the first, under one head."""
    input_size: int
    """Side of the input in pixels, a multiple of 16; the whole frame is resampled to it."""
    summary: str = ""
    parents: tuple[str, ...] = ()
    """What it starts from: names of regimes, or paths of runs or checkpoints (anything with a slash). A fused model has
    two, the first of its own input size."""
    model: str = "single"
    inherit_head: bool = False
    """Continue with the parent's class matrix too, where it was trained on the same identities."""
    phases: tuple[Phase, ...] = ALL_AT_ONCE
    """In order; shares sum to 1. Empty: assembled from its parents and evaluated only."""
    batchnorm: str = "moving"
    """What BatchNorm layers taken from a parent do while their weights train: "moving": use the batch's statistics and
    follow them; "frozen": use the running statistics and keep them. A part that does not train keeps them anyway."""
    second_view: bool = False
    """Show each highres face twice in one batch: as it is and degraded to low resolution, under one label."""
    consistency: float = 0.0
    """lambda, >= 0: weight of mean(1 - cos) between the two views' embeddings."""
    highres_share: float | None = None
    """Share of highres among a batch's pictures, in (0, 1); None: as they come."""
    budget: str = "own"
    """Key of BUDGETS."""
    control_of: str = ""
    """The regime that this one is the control of; empty: a regime of the table."""

    def __post_init__(self) -> None:
        self._require(bool(re.fullmatch(r"[\w.-]+", self.name)), "its name must be letters, digits, '.', '_' and '-'")
        self._check_sources()
        self._require(self.model in MODELS, f"model is {self.model!r}; it must be one of {', '.join(MODELS)}")
        self._check_parents()
        self._check_phases()
        self._require(self.budget in BUDGETS, f"budget is {self.budget!r}; it must be one of {', '.join(BUDGETS)}")

    def _require(self, holds: bool, rule: str) -> None:
        if not holds:
            raise UsageError(f"regime {self.name!r}: {rule}")

    def _check_sources(self) -> None:
        known = all(source in SPLITS for source in self.sources)
        self._require(
            known and 1 <= len(set(self.sources)) == len(self.sources),
            f"sources are {list(self.sources)}; one or both of {', '.join(SPLITS)} are needed",
        )
        self._require(
            self.input_size >= 16 and self.input_size % 16 == 0,
            f"input_size is {self.input_size}; it must be a positive multiple of 16",
        )
        both = self.sources == SPLITS
        self._require(both or not self.second_view, "second_view needs sources lowres, highres in this order")
        self._require(both or self.highres_share is None, "highres_share needs sources lowres, highres in this order")
        share = self.highres_share
        self._require(share is None or 0 < share < 1, f"highres_share is {share}; it must lie in (0, 1)")
        self._require(self.consistency >= 0, f"consistency is {self.consistency}; it must be at least 0")
        self._require(self.second_view or not self.consistency, "consistency needs second_view = true")

    def _check_parents(self) -> None:
        wanted = "exactly two parents" if self.model == "fused" else "at most one parent"
        right = len(self.parents) == 2 if self.model == "fused" else len(self.parents) <= 1
        self._require(right, f"parents are {list(self.parents)}; a {self.model} model has {wanted}")
        self._require(self.name not in self.parents, "it cannot be its own parent")
        self._require(
            not self.inherit_head or (self.model == "single" and bool(self.parents)),
            "inherit_head needs a single model with a parent",
        )
        self._require(
            self.batchnorm in ("moving", "frozen"), f"batchnorm is {self.batchnorm!r}; it must be moving or frozen"
        )
        self._require(
            bool(self.parents) or self.batchnorm == "moving",
            'batchnorm = "frozen" needs a parent: fresh statistics would never become those of faces',
        )

    def _check_phases(self) -> None:
        trained = {part for phase in self.phases for part in phase.train}
        unknown = trained - set(MODELS[self.model])
        self._require(
            not unknown,
            f"a phase trains {', '.join(sorted(unknown))}; a {self.model} model has {', '.join(MODELS[self.model])}",
        )
        if not self.phases:
            self._require(bool(self.parents), "without phases it needs parents, or there is nothing to evaluate")
            return
        total = sum(phase.share for phase in self.phases)
        self._require(abs(total - 1) < 1e-6, f"the phases' shares sum to {total:g}; they must sum to 1")
        inherited = {"body", "output"} if self.parents else set()
        inherited |= {"head"} if self.inherit_head else set()
        missing = set(MODELS[self.model]) - inherited - trained
        self._require(not missing, f"{', '.join(sorted(missing))} would stay random: neither inherited nor trained")

    def save(self, path: str | Path) -> None:
        """Write as a TOML file that ``load_regime`` reads, atomically."""
        write_toml(path, {name: value for name, value in asdict(self).items() if value is not None})


_LARGE, _SMALL = "lowres144", "lowres32"

TABLE = (
    Regime("lowres32", ("lowres",), 32, "low-resolution faces, shrunk to 32 px", budget="lowres"),
    Regime("lowres144", ("lowres",), 144, "low-resolution faces, upscaled to 144 px", budget="lowres"),
    Regime("highres32", ("highres",), 32, "high-resolution faces, shrunk to 32 px", budget="highres"),
    Regime("highres144", ("highres",), 144, "high-resolution faces at 144 px", budget="highres"),
    Regime("highlow144", SPLITS, 144, "both at 144 px, one head over all identities", budget="lowres"),
    Regime(
        "lowres144-finetuned", ("highres",), 144, "lowres144, then fine-tuned on high-resolution faces",
        parents=("lowres144",), phases=HEAD_FIRST, batchnorm="frozen", budget="finetune",
    ),
    Regime(
        "fused-head", ("highres",), 144, "lowres144 and lowres32 frozen; a fusion layer and a head trained on highres",
        parents=(_LARGE, _SMALL), model="fused", phases=(Phase(("fusion", "head")),), budget="fused",
    ),
    Regime(
        "fused-output", ("highres",), 144, "lowres144 and lowres32; output layers, fusion and head trained on highres",
        parents=(_LARGE, _SMALL), model="fused", phases=(Phase(("output", "fusion", "head")),), budget="fused",
    ),
    Regime(
        "fused-highlow", ("highres",), 144, "highres144 and lowres32, f(low, high), trained as fused-output",
        parents=("highres144", _SMALL), model="fused", phases=(Phase(("output", "fusion", "head")),), budget="fused",
    ),
    Regime(
        "crossres144", SPLITS, 144, "highlow144, each high-resolution face also degraded, both views pulled together",
        second_view=True, consistency=1.0, highres_share=0.2, budget="lowres",
    ),
)  # fmt: skip
"""The ten regimes of the study."""

CONTROLS = (
    Regime(
        "lowres144-continued", ("lowres",), 144, "lowres144 continued on lowres exactly as lowres144-finetuned is",
        parents=("lowres144",), inherit_head=True, phases=HEAD_FIRST, batchnorm="frozen", budget="finetune",
        control_of="lowres144-finetuned",
    ),
    Regime(
        "fused-untrained", ("highres",), 144, "the embeddings of lowres144 and lowres32 side by side, nothing trained",
        parents=(_LARGE, _SMALL), model="fused", phases=(), budget="none", control_of="fused-head",
    ),
    Regime(
        "crossres144-views", SPLITS, 144, "crossres144 without the pull: both views, lambda 0",
        second_view=True, highres_share=0.2, budget="lowres", control_of="crossres144",
    ),
)  # fmt: skip
"""What the regimes of the table are to be compared with, beside each other."""

REGIMES = {regime.name: regime for regime in TABLE + CONTROLS}


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
    values = read_toml(path, "a regime")
    try:
        phases = values.pop("phases", None)
        known = {"name": path.stem} | values
        if phases is not None:
            if not isinstance(phases, list) or not all(isinstance(one, Mapping) for one in phases):
                raise UsageError("phases must be tables: [[phases]]")
            known["phases"] = tuple(_built(Phase, one) for one in phases)
        regime = _built(Regime, known)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if regime.name in REGIMES and regime != REGIMES[regime.name]:
        raise UsageError(f"{path}: the name {regime.name} is taken; name your regime otherwise")
    return regime


_KINDS: dict[str, Any] = {
    "name": str, "sources": tuple, "input_size": int, "summary": str, "parents": tuple, "model": str,
    "inherit_head": bool, "phases": tuple, "batchnorm": str, "second_view": bool, "consistency": float,
    "highres_share": float, "budget": str, "control_of": str, "train": tuple, "share": float, "rate": float,
}  # fmt: skip
_IN_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of texts"}


def _built(owner: Any, values: Mapping[str, Any]) -> Any:
    """``owner(**values)`` with lists as tuples. Raises UsageError for an unknown, missing or mistyped field."""
    names = [field.name for field in fields(owner)]
    for name in values:
        if name not in names:
            raise UsageError(f"there is no field {name!r}; there are {', '.join(names)}")
    for name in {"sources", "input_size", "train"} & set(names) - set(values):
        raise UsageError(f"{name} is missing ({_IN_WORDS[_KINDS[name]]})")
    return owner(**{name: value if name == "phases" else _typed(name, value) for name, value in values.items()})


def _typed(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    if kind is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is tuple or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{name} must be {_IN_WORDS[kind]}, it is {value!r}")
    return value


def is_checkpoint(parent: str) -> bool:
    """Whether a parent is given as a path and not as a regime's name."""
    return "/" in parent or parent.endswith(".safetensors")


def in_order(names: Iterable[str]) -> list[str]:
    """``names`` and the regimes they start from, each once, parents first, else as given.

    Args:
        names: of regimes, or their .toml files; the result holds them as they were given.

    Raises:
        UsageError: an unknown regime; a parent that is neither built in nor among ``names``; a circle of parents.
    """
    given = list(names)
    path_of = {regime_named(name).name: name for name in given}
    ordered: list[str] = []

    def visit(name: str, children: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in children:
            raise UsageError(f"regimes that start from each other: {' -> '.join([*children, name])}")
        for parent in regime_named(name).parents:
            if is_checkpoint(parent):
                continue
            if parent not in path_of and parent not in REGIMES:
                raise UsageError(f"regime {name} starts from {parent}, which is no built-in regime and was not given")
            visit(path_of.get(parent, parent), (*children, name))
        ordered.append(name)

    for name in given:
        visit(name, ())
    return ordered
