"""Files of a study's results: results.json, and one CSV a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.files import write_bytes, write_json
from hrfr_fast.study.remedies.tables import csv_rows
from hrfr_fast.study.results import StudyResults
from hrfr_fast.study.summary import Interval, Summary

Rows = list[dict[str, Any]]
"""Column -> cell, a dict each row."""


def write_tables(results: StudyResults, out: Path) -> None:
    """Write ``out/results.json`` and ``out/tables/*.csv``."""
    (out / "tables").mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results.to_json())
    for name, rows in tables(results).items():
        if rows:
            write_bytes(out / "tables" / f"{name}.csv", _csv(rows).encode(errors="backslashreplace"))


def tables(results: StudyResults) -> dict[str, Rows]:
    """Every table as flat rows, by name."""
    of_remedies = csv_rows(results.remedies) if results.remedies else {}
    return _of_regimes(results) | _of_comparisons(results) | of_remedies


def _of_regimes(results: StudyResults) -> dict[str, Rows]:
    verified = results.verified()
    return {
        "verification": _verification(results),
        "folds": [
            {"regime": label, "seed": seed, "fold": fold, "accuracy": accuracy}
            for label, result in verified.items()
            for seed, folds in result.folds.items()
            for fold, accuracy in enumerate(folds)
        ],
        "seeds": [
            {"regime": label, "seed": seed, "accuracy": accuracy}
            for label, result in verified.items()
            for seed, accuracy in result.accuracy.by_seed.items()
        ],
        "cross_resolution": [
            {"regime": label, "views": view} | _flat("accuracy", accuracy)
            for label, result in verified.items()
            for view, accuracy in result.cross_resolution.items()
        ],
        "resolution": [
            {"regime": label, "pixels": accuracy.pixels} | _flat("accuracy", accuracy)
            for label, result in verified.items()
            for accuracy in result.by_resolution
        ],
        "identification": [
            {"regime": label, "probes": view, "rank": rank, "rate": rate, "low": low, "high": high}
            for label, result in verified.items()
            if result.identification
            for view in ("HR", "LR")
            for rank in (1, 5)
            for rate, (low, high) in [result.identification.of(view).rate(rank)]
        ],
        "other_pairs": [
            {"regime": label, "set": name, "kind": pairs.kind, "pairs": pairs.pairs, "accuracy": pairs.accuracy}
            | _ends("first_seed", pairs.first_seed_interval)
            for label, regime in results.regimes.items()
            for name, pairs in regime.other_pairs.items()
        ],
    }


def _verification(results: StudyResults) -> Rows:
    rows = []
    for label, result in results.verified().items():
        regime = results.regimes[label]
        row = {"regime": label, "stage": regime.stage, "steps": regime.steps, "fold_spread": result.fold_spread}
        row |= {"seed_spread": result.accuracy.seed_spread} | _flat("accuracy", result.accuracy)
        row |= _flat("auc", result.auc) | _flat("eer", result.eer)
        for far, tar in result.tar_at_far.items():
            row |= _flat(f"tar_at_far_{far}", tar)
        rows.append(row)
    return rows


def _of_comparisons(results: StudyResults) -> dict[str, Rows]:
    return {
        "contrasts": [
            {name: getattr(contrast, name) for name in _CONTRAST}
            | {"low": contrast.interval[0], "high": contrast.interval[1]}
            for contrast in results.contrasts
        ],
        "mcnemar": [
            {"a": contrast.a, "b": contrast.b, "seed": seed} | vars(test)
            for contrast in results.contrasts
            for seed, test in contrast.mcnemar.items()
        ],
        "dose": [
            {"regime": dose.regime, "kind": dose.kind, "dose": dose.dose, "label": dose.label} | _flat("accuracy", dose)
            for dose in results.dose or []
        ],
        "space": [
            {"regime": label, "method": method}
            | {key: value for name, summary in vars(result).items() for key, value in _flat(name, summary).items()}
            for label, space in (results.space.regimes if results.space else {}).items()
            for method, result in space.methods.items()
        ],
        "remedy": [
            {"against": other, "quantity": quantity, "met": criterion.met} | _flat("difference", criterion)
            for other, criteria in (results.remedy.against if results.remedy else {}).items()
            for quantity, criterion in criteria.items()
        ],
        "claims": [
            {"claim": finding.claim, "verdict": finding.verdict, "leaning": finding.leaning, "why": finding.why}
            for finding in results.claims
        ],
    }


_CONTRAST = (
    "a", "b", "fixed", "seeds", "pairs", "level", "identities", "difference", "p", "p_holm", "verdict", "detectable",
    "needed_identities", "needed_pairs", "needed_seeds",
)  # fmt: skip


def _flat(name: str, summary: Summary) -> dict[str, Any]:
    return {name: summary.value} | _ends(name, summary.interval)


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
