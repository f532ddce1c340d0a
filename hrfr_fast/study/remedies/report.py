"""The part of a study's report that is about remedies."""

from pathlib import Path
from typing import Any

from hrfr_fast.evaluation.protocols import MODULES
from hrfr_fast.reporting.page import EmbeddedImage, Table, embedded
from hrfr_fast.study.remedies.figures import CAPTIONS
from hrfr_fast.study.remedies.plan import REGIMES
from hrfr_fast.study.remedies.results import RemediesResult
from hrfr_fast.study.remedies.tables import tables_of
from hrfr_fast.study.results import AnalysisFigure, StudyResults

QUESTION = "Which remedy closes the gap between sharp and low-resolution faces, and at what cost?"
NATIVE_PROTOCOLS = [name for name in ("tinyface", "survface", "scface") if name in MODULES]
"""Public protocols of real low-resolution faces that ``evaluate`` and ``compare`` read."""


def section_of(results: StudyResults, out: Path) -> dict[str, Any] | None:
    """What the template shows of remedies; None in a study of regimes."""
    result = results.remedies
    if result is None:
        return None
    best = result.recommended or next(iter(result.choice.ranking), "")
    return {
        "statement": result.statement,
        "base": result.base,
        "file": _regime_file(result.recommended, out),
        "family": result.family,
        "tables": tables_of(result),
        "together": _together(result),
        "choice": result.choice,
        "unseen": result.unseen,
        "public": [one.name for one in result.public],
        "degradation": ", ".join(f"{name} {value}" for name, value in result.degradation.items()),
        "native_probe": _native_probe(result),
        "maps": _images(results, out, "resolution_gap", [result.base, *_shown(results)], start="resolution_gap-"),
        "changed": _images(results, out, "failures", _shown(results), start=f"failures-{result.base}-"),
        "commands": _commands(results, best) if best else [],
    }


def _regime_file(label: str, out: Path) -> str:
    """The file of the recommended regime, relative to the study's directory; "" where it is built in, or none is."""
    path = Path(REGIMES) / f"{label}.toml"
    return str(path) if label and (out / path).exists() else ""


def _native_probe(result: RemediesResult) -> Table:
    """How well the base's embeddings tell real low resolution from three degradations."""
    halves = [result.degradation_evidence.get(half, {}) for half in ("searched", "held_out")]
    rows = [
        (name, *(f"{half[name]['auc']:.3f} +- {half[name]['standard_error']:.3f}" for half in halves if name in half))
        for name in halves[0]
    ]
    return Table(("degradation", "AUC +- standard error, people of the search", "other development people"), rows)


def _shown(results: StudyResults) -> list[str]:
    return [row.label for row in results.remedies.judged] if results.remedies else []


def _together(result: RemediesResult) -> str:
    if result.choice.together:
        return f"Put together: {' and '.join(result.choice.together)}."
    return "None are put together."


def taken_figures(results: StudyResults) -> set[str]:
    """Files of the analyses' figures that the part about remedies shows, and no other part needs to."""
    if results.remedies is None:
        return set()
    labels = [results.remedies.base, *_shown(results)]
    names = [f"resolution_gap-{label}.png" for label in labels]
    names += [f"failures-{results.remedies.base}-{label}.png" for label in _shown(results)]
    return {figure.file for figure in _figures(results) if Path(figure.file).name in names}


def _figures(results: StudyResults) -> list[AnalysisFigure]:
    return [figure for finding in results.findings for figure in finding.figures]


def _images(results: StudyResults, out: Path, key: str, labels: list[str], *, start: str) -> list[EmbeddedImage | None]:
    """Figures of one analysis, those of ``labels`` in their order."""
    figures = [figure for finding in results.findings if finding.key == key for figure in finding.figures]
    by_name = {Path(figure.file).name: figure for figure in figures}
    chosen = [by_name[name] for label in labels if (name := f"{start}{label}.png") in by_name]
    return [embedded(out / figure.file, Path(figure.file).stem, figure.caption) for figure in chosen]


def _commands(results: StudyResults, best: str) -> list[str]:
    """How to judge the base and the best remedy on real low-resolution faces that are not packed."""
    assert results.remedies is not None
    runs = [results.regimes[label].first_run for label in (results.remedies.base, best) if label in results.regimes]
    if len(runs) < 2:
        return []
    return [f"hrfr-fast compare {' '.join(runs)} FOLDER --protocol {name}" for name in NATIVE_PROTOCOLS]


def captioned(drawn: dict[str, Path]) -> dict[str, EmbeddedImage | None]:
    """The figures of remedies among those that were drawn."""
    return {
        name: embedded(drawn[name], caption.split(":")[0], caption)
        for name, caption in CAPTIONS.items()
        if name in drawn
    }
