"""The remedies that a study compares, as data: which regimes, with which settings, each beside which control."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hrfr_fast.regimes import Regime, in_order, needed_regimes, regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.validation import Checked


class Candidate(Checked):
    """A remedy: a regime, or one with other values or settings. Raises UsageError for what is no regime."""

    regime: str
    """Name of a built-in regime, or a .toml file of one."""
    label: str = ""
    """What tables call it; the regime's name if not given."""
    summary: str = ""
    """What the report says it is; the regime's summary and the changes if not given."""
    control: str = ""
    """Label of the candidate that has everything but what this one adds; compared beside the base."""
    changes: dict[str, Any] = {}
    """Other values of the regime's fields."""
    settings: dict[str, Any] = {}
    """Further training settings of its runs."""
    trials: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    """Other values of fields that are tried with the first seed; development pairs choose among them and the plain
    one, and only the best goes on with all seeds."""
    combines: bool = True
    """Whether it may be one of the best that are put together."""

    @field_validator("label")
    @classmethod
    def _label_names_a_directory(cls, label: str) -> str:
        if not re.fullmatch(r"[\w.-]*", label):
            raise ValueError(f"a label must be letters, digits, '.', '_' and '-'; it is {label!r}")
        return label

    @model_validator(mode="after")
    def _is_a_regime(self) -> Self:
        plain = regime_named(self.regime)
        for values in ({}, *self.trials):
            plain.replaced(**({"name": self.label or plain.name} | self.changes | values))
        return self

    @property
    def name(self) -> str:
        """The label of its runs."""
        return self.label or regime_named(self.regime).name

    def variants(self) -> list[tuple[str, Regime]]:
        """Label and regime of the plain one, then of each trial; a regime that differs from its file's is named anew.

        Raises:
            UsageError: a value that does not fit the regime.
        """
        return [self._variant(number, values) for number, values in enumerate(({}, *self.trials))]

    def needed(self) -> list[str]:
        """Names of the regimes that have to be trained before any variant, parents and teachers, in that order.

        Raises:
            UsageError: one of them is not built in.
        """
        return in_order(dict.fromkeys(name for _, regime in self.variants() for name in needed_regimes(regime)))

    def _variant(self, number: int, values: dict[str, Any]) -> tuple[str, Regime]:
        plain, changed = regime_named(self.regime), self.changes | values
        label = f"{self.name}-try{number}" if number else self.name
        if not changed:
            return label, plain
        if label == plain.name:
            raise UsageError(f"{label}: a candidate whose regime is changed needs a label of its own")
        own = values if self.summary else changed
        said = "; ".join([self.summary or plain.summary, *(f"{name} {value}" for name, value in own.items())])
        return label, plain.replaced(name=label, summary=said, control_of=None, **changed)


class PublicSet(Checked):
    """A public set of real low-resolution faces on this machine. Raises UsageError for an unknown protocol."""

    place: str = Field(min_length=1)
    """The folder in its published layout; relative to the working directory."""
    protocol: Literal["", "tinyface", "survface", "scface"] = ""
    """Empty: the one whose layout the folder has."""
    pictures: str = ""
    """Where the (aligned) pictures are, if not in their usual place."""


TOGETHER = "best-together"
"""Label of the best that are put together."""


class Remedies(Checked):
    """What a study of remedies compares, and with what. Raises UsageError for labels that are there twice."""

    base: str = "highlow144"
    """The regime that every remedy is judged against."""
    candidates: tuple[Candidate, ...] = Field(min_length=1, strict=False)
    best: int = Field(default=2, ge=0)
    """So many of the best on development pairs are put together in one regime more; 0 or 1: none."""
    match: bool = True
    """Choose the parameters of the degradation by ``match-degradation`` on the base's first seed."""
    public: tuple[PublicSet, ...] = Field(default=(), strict=False)
    """Public sets of real low-resolution faces that all are judged on after the choice, beside the criterion."""
    shown: int = Field(default=2, ge=1)
    """So many of the best are drawn beside the base: embedding maps, and pairs that changed sides."""

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        names = [self.base, TOGETHER, *(label for candidate in self.candidates for label, _ in candidate.variants())]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(
                f"candidates are called {', '.join(sorted(twice))} twice, the base {self.base} and {TOGETHER} included;"
                " give them labels"
            )
        return self

    @property
    def family(self) -> int:
        """How many remedies are judged, and corrected together by Holm's method."""
        return len(self.candidates) + (self.best > 1)


_VIEWS = "crossres144-views"
CANDIDATES = (
    Candidate(regime=_VIEWS),
    Candidate(regime="matched-views", control=_VIEWS),
    Candidate(regime="crossres144", control=_VIEWS),
    Candidate(regime="remedy-contrast", control=_VIEWS, trials=({"contrast": 0.1}, {"contrast": 0.3})),
    Candidate(regime="remedy-norm", control=_VIEWS),
    Candidate(regime="remedy-distillation", control=_VIEWS),
)
"""The remedies of the study: both views alone, and what each remedy adds to them."""
MORE_VALUES = tuple(
    candidate.replaced(trials=({"domain_norm": "separate"},)) if candidate.name == "remedy-norm" else candidate
    for candidate in CANDIDATES
)
"""The same with more values to try."""


def _with_adaface(regime: str, label: str, **more: Any) -> Candidate:
    """A candidate with a margin that grows with the quality of a face (m = 0.4 is its paper's)."""
    return Candidate(regime=regime, label=label, settings={"head": "adaface", "margin": 0.4}, **more)


WITH_ADAFACE = (
    _with_adaface("highlow144", "adaface"),
    _with_adaface("matched-views", "matched-adaface", control="matched-views", combines=False),
    _with_adaface("remedy-contrast", "contrast-adaface", control="remedy-contrast", combines=False),
    _with_adaface("remedy-norm", "norm-adaface", control="remedy-norm", combines=False),
    _with_adaface("remedy-distillation", "distillation-adaface", control="remedy-distillation", combines=False),
)
"""A margin that grows with the quality of a face, alone and with each remedy."""

_LORA = {"lora_rank": 8, "lora_alpha": 32.0}
"""Rank 8 as PETALface has it (Narayan et al., WACV 2025; scripts/train_lora.sh of its authors); four times the rank as
alpha, for SGD moves a product of two small matrices slowly."""
_TUNED: dict[str, Any] = {
    "parents": ("highlow144",), "inherit_head": True, "tune": "lora", "batchnorm": "frozen", "budget": "finetune",
}  # fmt: skip
"""highlow144 and its class matrix go on; BatchNorm's statistics stay, so that adapters alone change the network."""


def _by_lora(regime: str, label: str, added: str, **more: Any) -> Candidate:
    """highlow144, tuned by adapters as ``regime`` trains; what was trained already is no part of the best together."""
    settings = _LORA | more.pop("settings", {})
    return Candidate(
        regime=regime, label=label, summary=f"highlow144, then low-rank adapters tuned on {added}", changes=_TUNED,
        settings=settings, combines=False, **more,
    )  # fmt: skip


WITH_LORA = (
    _by_lora("highlow144", "lora", "the same pictures"),
    _by_lora(_VIEWS, "lora-views", "both views", control="lora"),
    _by_lora("matched-views", "lora-matched", "both views, the second one matched", control="lora-views"),
    _by_lora("remedy-contrast", "lora-contrast", "both views with contrast", control="lora-views"),
    _by_lora("remedy-distillation", "lora-distillation", "both views with distillation", control="lora-views"),
    _by_lora(
        _VIEWS, "lora-adaface", "both views with AdaFace", control="lora-views",
        settings={"head": "adaface", "margin": 0.4},
    ),
)  # fmt: skip
"""The base tuned further by low-rank adapters: with nothing new, as a control of the further steps, and with each
remedy but BatchNorm by resolution, whose statistics would have to move."""
