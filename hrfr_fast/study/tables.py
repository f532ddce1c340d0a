"""From results to files: results.json, and one CSV a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.files import write_bytes, write_json


def write_tables(results: Mapping[str, Any], out: Path) -> None:
    """Write ``out/results.json`` and ``out/tables/*.csv``."""
    (out / "tables").mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results)
    for name, rows in tables(results).items():
        if rows:
            write_bytes(out / "tables" / f"{name}.csv", _csv(rows).encode(errors="backslashreplace"))


def tables(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every table as flat rows, by name."""
    return _of_regimes(results["regimes"]) | _of_comparisons(results)


def _of_regimes(entries: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    regimes = {label: entry for label, entry in entries.items() if "accuracy" in entry}
    named = ("accuracy", "auc", "eer")
    return {
        "verification": [
            {"regime": label, "stage": entry["stage"], "steps": entry["steps"], "fold_spread": entry["fold_spread"]}
            | {"seed_spread": entry["accuracy"]["seed_spread"]}
            | {key: value for name in named for key, value in _flat(name, entry[name]).items()}
            | {k: v for far, tar in entry["tar_at_far"].items() for k, v in _flat(f"tar_at_far_{far}", tar).items()}
            for label, entry in regimes.items()
        ],
        "folds": [
            {"regime": label, "seed": seed, "fold": fold, "accuracy": accuracy}
            for label, entry in regimes.items()
            for seed, folds in entry["folds"].items()
            for fold, accuracy in enumerate(folds)
        ],
        "seeds": [
            {"regime": label, "seed": seed, "accuracy": accuracy}
            for label, entry in regimes.items()
            for seed, accuracy in entry["accuracy"]["by_seed"].items()
        ],
        "cross_resolution": [
            {"regime": label, "views": view} | _flat("accuracy", one)
            for label, entry in regimes.items()
            for view, one in entry["cross_resolution"].items()
        ],
        "resolution": [
            {"regime": label, "pixels": row["pixels"]} | _flat("accuracy", row)
            for label, entry in regimes.items()
            for row in entry["by_resolution"]
        ],
        "identification": [
            {"regime": label, "probes": view, "rank": rank, "rate": entry["identification"][view][f"rank{rank}"]}
            | dict(zip(("low", "high"), entry["identification"][view][f"rank{rank}_ci"], strict=True))
            for label, entry in regimes.items()
            if entry["identification"]
            for view in ("HR", "LR")
            for rank in (1, 5)
        ],
        "other_pairs": [
            {"regime": label, "set": name, "kind": one["kind"], "pairs": one["pairs"], "accuracy": one["accuracy"]}
            | dict(zip(("first_seed_low", "first_seed_high"), one["first_seed_interval"], strict=True))
            for label, entry in entries.items()
            for name, one in entry["other_pairs"].items()
        ],
    }


def _of_comparisons(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        "contrasts": [
            {name: one[name] for name in _CONTRAST} | {"low": one["interval"][0], "high": one["interval"][1]}
            for one in results["contrasts"]
        ],
        "mcnemar": [
            {"a": one["a"], "b": one["b"], "seed": seed} | counts
            for one in results["contrasts"]
            for seed, counts in one["mcnemar"].items()
        ],
        "dose": [
            {name: row[name] for name in ("regime", "kind", "dose", "label")} | _flat("accuracy", row)
            for row in results.get("dose", [])
        ],
        "space": [
            {"regime": label, "method": method}
            | {key: value for name, numbers in one.items() for key, value in _flat(name, numbers).items()}
            for label, entry in results.get("space", {"regimes": {}})["regimes"].items()
            for method, one in entry["methods"].items()
        ],
        "remedy": [
            {"against": other, "quantity": quantity, "met": one["met"]} | _flat("difference", one)
            for other, rows in ((results.get("remedy") or {}).get("against", {})).items()
            for quantity, one in rows.items()
        ],
        "claims": [{name: one[name] for name in ("claim", "verdict", "leaning", "why")} for one in results["claims"]],
    }


_CONTRAST = (
    "a", "b", "fixed", "seeds", "pairs", "level", "identities", "difference", "p", "p_holm", "verdict", "detectable",
    "needed_identities", "needed_pairs", "needed_seeds",
)  # fmt: skip


def _flat(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one["value"], f"{name}_low": one["interval"][0], f"{name}_high": one["interval"][1]}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
