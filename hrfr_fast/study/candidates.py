"""The remedies that a study compares, as data: which regimes, with which settings, each beside which control."""

import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from hrfr_fast.regimes import Regime, regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.validation import Checked


class Candidate(Checked):
    """A remedy: a regime, or one with other values or settings. Raises UsageError for what is no regime."""

    regime: str
    """Name of a built-in regime, or a .toml file of one."""
    label: str = ""
    """What tables call it; the regime's name if not given."""
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
            plain.replaced(**(self.changes | values))
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

    def _variant(self, number: int, values: dict[str, Any]) -> tuple[str, Regime]:
        plain, changed = regime_named(self.regime), self.changes | values
        label = f"{self.name}-try{number}" if number else self.name
        if not changed:
            return label, plain
        if label == plain.name:
            raise UsageError(f"{label}: a candidate whose regime is changed needs a label of its own")
        said = ", ".join(f"{name} {value}" for name, value in changed.items())
        return label, plain.replaced(name=label, summary=f"{plain.summary}; {said}", control_of=None, **changed)


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
WITH_ADAFACE = (
    Candidate(regime="highlow144", label="adaface", settings={"head": "adaface", "margin": 0.4}),
    Candidate(
        regime="remedy-contrast", label="contrast-adaface", control="remedy-contrast", combines=False,
        settings={"head": "adaface", "margin": 0.4},
    ),
    Candidate(
        regime="remedy-distillation", label="distillation-adaface", control="remedy-distillation", combines=False,
        settings={"head": "adaface", "margin": 0.4},
    ),
)  # fmt: skip
"""A margin that grows with the quality of a face, alone and with remedies that add a loss."""
