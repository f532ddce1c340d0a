"""Two remedies put together in one regime: the fields of each that differ from the base's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from hrfr_fast.regimes import Regime
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.study.candidates import TOGETHER

DESCRIPTIVE = ("name", "summary", "control_of", "budget")
"""Fields that say what a regime is, not what it does."""


@dataclass(frozen=True)
class Remedy:
    """A remedy that takes part in a combination: its label, its regime and the settings of its runs."""

    label: str
    regime: Regime
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Combination:
    """Remedies in one regime, or ``why_not``."""

    parts: tuple[str, ...]
    regime: Regime | None
    settings: dict[str, Any]
    why_not: str = ""


def effects(regime: Regime, base: Regime) -> dict[str, Any]:
    """The fields of ``regime`` that differ from ``base`` and decide what is trained."""
    return {
        name: value for name, value in dict(regime).items() if name not in DESCRIPTIVE and value != getattr(base, name)
    }


def combine(base: Regime, remedies: Sequence[Remedy]) -> Combination:
    """All ``remedies`` in one regime on top of ``base``; says why where they cannot be: two values of one field, a
    regime that the rules refuse, or one that is nothing new."""
    parts = tuple(remedy.label for remedy in remedies)
    names = " and ".join(parts)
    fields: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for remedy in remedies:
        for known, found in ((fields, effects(remedy.regime, base)), (settings, dict(remedy.settings))):
            for name, value in found.items():
                if known.setdefault(name, value) != value:
                    why = f"{names} want two values of {name}: {known[name]} and {value}"
                    return Combination(parts, None, {}, why)
    for remedy in remedies:
        if effects(remedy.regime, base) == fields and dict(remedy.settings) == settings:
            return Combination(parts, None, {}, f"{names} together are {remedy.label}")
    try:
        summary = f"{names} together"
        regime = base.replaced(**(fields | {"name": TOGETHER, "summary": summary, "control_of": None}))
    except UsageError as error:
        return Combination(parts, None, {}, f"{names}: {error}")
    return Combination(parts, regime, settings)


def first_that_fits(base: Regime, ranked: Sequence[Remedy], size: int) -> tuple[Combination | None, list[str]]:
    """The first combination of ``size`` of the ``ranked`` remedies that can be, best first; and why those before it
    cannot. The rank of a combination is the sum of its members'."""
    refused: list[str] = []
    for members in sorted(combinations(range(len(ranked)), size), key=lambda places: (sum(places), places)):
        found = combine(base, [ranked[place] for place in members])
        if found.regime is not None:
            return found, refused
        refused.append(found.why_not)
    return None, refused
