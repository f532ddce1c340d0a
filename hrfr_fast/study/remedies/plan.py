"""The runs of a study of remedies, stage by stage: what each stage knows decides which runs come next."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrfr_fast.analysis.embedding_cache import HELD_OUT
from hrfr_fast.format.reader import Packed
from hrfr_fast.regimes import Regime, regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml
from hrfr_fast.settings import DegradationSettings
from hrfr_fast.study.candidates import Candidate, Remedies
from hrfr_fast.study.plan import StudyPlan, StudyRun, settings_of
from hrfr_fast.study.presets import Preset

ON_DEVELOPMENT: Mapping[str, Any] = {"verify_on": "development"}
"""Settings of every run: not even its own curves may show test pairs before the choice is written."""
BASE, NEEDED, TRIAL, REMEDY = "regime", "control", "trial", "remedy"
"""Stages of runs: the base; what remedies start from or learn from; one seed of other values; the remedies."""
REGIMES = "regimes"
"""Folder in a study's directory with the regimes that are not built in."""


@dataclass(frozen=True)
class Entry:
    """One row of the ablation: all runs of one label."""

    label: str
    name: str
    """What ``regime_named`` knows the regime by: a name, or a .toml file."""
    regime: Regime
    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stages:
    """The plan of each stage of a study of remedies. ``wanted``: labels of the candidates; none: all of the preset."""

    preset: Preset
    packed: Packed
    out: Path
    seeds: tuple[int, ...]
    device: str
    wanted: tuple[str, ...] = ()

    @property
    def remedies(self) -> Remedies:
        assert self.preset.remedies is not None
        return self.preset.remedies

    @property
    def candidates(self) -> list[Candidate]:
        """In the preset's order. Raises UsageError for a wanted label that is none of them, and where none is left."""
        known = {candidate.name: candidate for candidate in self.remedies.candidates}
        if unknown := [name for name in self.wanted if name not in (*known, self.remedies.base)]:
            raise UsageError(f"preset {self.preset.name} has no remedy {unknown[0]!r}; it has {', '.join(known)}")
        chosen = [candidate for name, candidate in known.items() if not self.wanted or name in self.wanted]
        if not chosen:
            raise UsageError(f"{self.remedies.base} is the base; name remedies to compare with it: {', '.join(known)}")
        return chosen

    def base(self) -> StudyPlan:
        """The base and all that a remedy starts from or learns from, every seed."""
        return self._plan(self._needed(), self.seeds)

    def trials(self, degradation: Mapping[str, Any]) -> StudyPlan | None:
        """The base and every variant of the candidates that have trials, with the first seed; None without trials."""
        rows = [
            Entry(label, self._name(label, regime), regime, TRIAL, self.settings_of(candidate, regime, degradation))
            for candidate in self.candidates
            if candidate.trials
            for label, regime in candidate.variants()
        ]
        return self._plan([*self._needed_beside(rows), *rows], self.seeds[:1]) if rows else None

    def judged(self, degradation: Mapping[str, Any], tuned: Mapping[str, str], more: Iterable[Entry] = ()) -> StudyPlan:
        """The base and every remedy, every seed.

        Args:
            tuned: candidate -> label of its best variant, where that is not the plain one.
            more: further rows, as the best put together.
        """
        rows = []
        for candidate in self.candidates:
            label, regime = self.variant(candidate, tuned)
            settings = self.settings_of(candidate, regime, degradation)
            rows.append(Entry(label, self._name(label, regime), regime, REMEDY, settings))
        return self._plan([*self._needed_beside(rows), *rows, *more], self.seeds)

    def variant(self, candidate: Candidate, tuned: Mapping[str, str]) -> tuple[str, Regime]:
        """Label and regime of the candidate's best variant."""
        variants = dict(candidate.variants())
        label = tuned.get(candidate.name, candidate.name)
        if label not in variants:
            raise UsageError(f"{self.out}: {label} was chosen, which the preset no longer tries; choose another --out")
        return label, variants[label]

    @property
    def matches(self) -> bool:
        """Whether the degradation is to be matched, and some remedy has it."""
        regimes = (regime for candidate in self.candidates for _, regime in candidate.variants())
        return self.remedies.match and any(regime.degradation == "native" for regime in regimes)

    def settings_of(self, candidate: Candidate, regime: Regime, degradation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Training settings of the candidate's runs beside the preset's."""
        matched = {"degradation": held_out(degradation)} if regime.degradation == "native" else {}
        return matched | dict(candidate.settings)

    def _needed(self) -> list[Entry]:
        base = self.remedies.base
        rows = [Entry(base, base, regime_named(base), BASE)]
        for candidate in self.candidates:
            rows += [
                Entry(name, name, regime_named(name), NEEDED)
                for name in candidate.needed()
                if name not in [row.label for row in rows]
            ]
        return rows

    def _needed_beside(self, rows: list[Entry]) -> list[Entry]:
        """``_needed`` without what is among ``rows``: one remedy may be what another starts from."""
        labels = [row.label for row in rows]
        return [row for row in self._needed() if row.label not in labels]

    def _name(self, label: str, regime: Regime) -> str:
        """A name or file of ``regime``, which is written where it is no built-in one."""
        candidate = next((one for one in self.candidates if one.name == label and not one.changes), None)
        return candidate.regime if candidate else str(regime_file(self.out, regime))

    def _plan(self, rows: list[Entry], seeds: tuple[int, ...]) -> StudyPlan:
        for row in rows:
            if missing := [split for split in row.regime.sources if split not in self.packed.splits]:
                raise UsageError(f"{self.packed.path}: {row.label} needs {', '.join(missing)}, which is not packed")
        runs = [self._run(row, seed) for seed in seeds for row in rows]
        return StudyPlan(tuple(runs), self.preset, self.seeds, self.packed, self.out, self.device, tests=False)

    def _run(self, row: Entry, seed: int) -> StudyRun:
        settings = settings_of(row.name, row.regime, self.preset, self.packed, self.out, seed, self.device)
        own = dict(ON_DEVELOPMENT) | dict(row.settings) | {"out": str(settings.run_directory.parent / row.label)}
        return StudyRun(
            row.label, row.regime, seed, row.stage, settings.updated(own, f"preset {self.preset.name}, {row.label}")
        )


def held_out(degradation: Mapping[str, Any]) -> dict[str, Any]:
    """``degradation``, settings of ``DegradationSettings``, without the filter of the view that probes are tested on:
    a probe's view must be one that no model was trained on, or the criterion means nothing."""
    given = str(degradation.get("down", DegradationSettings().down))
    kept = [part for part in given.split(",") if part.partition(":")[0].strip() != HELD_OUT.filter]
    kept = [part for part in kept if part.partition(":")[2].strip() not in ("0", "0.0")]
    return dict(degradation) | {"down": ",".join(kept) or "cubic"}


def regime_file(out: Path, regime: Regime) -> Path:
    """Where a regime that is not built in lies in the study's directory ``out``."""
    return out / REGIMES / f"{regime.name}.toml"


def write_regimes(plan: StudyPlan) -> None:
    """Write the regimes of ``plan`` that are not built in, for runs to read; equal ones are left as they are."""
    for run in plan.runs:
        path = Path(run.settings.regime)
        if path.parent == plan.out / REGIMES:
            values = run.regime.model_dump(mode="json", exclude_none=True)
            if not path.exists() or Regime(**read_toml(path, "a regime")).model_dump(mode="json") != values:
                path.parent.mkdir(parents=True, exist_ok=True)
                run.regime.save(path)
