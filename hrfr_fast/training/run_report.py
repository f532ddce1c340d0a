"""The report of one run: a single HTML file with the pictures inside, for screen, phone and paper."""

import json
import shlex
from html import escape
from pathlib import Path
from typing import Any

from hrfr_fast.reporting.page import facts, figure, note, table, write_page
from hrfr_fast.runtime.toml_files import read_toml
from hrfr_fast.runtime.words import counted, plural
from hrfr_fast.training.metrics import read_metrics

FIGURES = (
    ("loss.png", "Training loss and learning rate",
     "How wrong the model was on the training faces, and how large its steps were. A healthy loss falls and flattens."),
    ("accuracy.png", "Accuracy while training",
     "Share of pairs decided rightly; 50 % is guessing. Dotted sets are test pairs: watched, never used to choose."),
    ("roc.png", "Receiver operating characteristic",
     "How many true matches are accepted (up) for how many false ones (right). The dot is the equal error rate."),
    ("scores.png", "Scores of same and different people",
     "How similar the model finds the two pictures of a pair. Where the hills overlap it errs."),
)  # fmt: skip


def write_run_report(run: Path) -> Path:
    """Write ``run/report/report.html`` from settings.toml, metrics.jsonl, results.json and the PNGs beside it."""
    settings = read_toml(run / "settings.toml", "settings")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    regime = read_toml(run / "regime.toml", "a regime")
    body = [
        f"<h1>{escape(regime['name'])}: {escape(regime['summary'])}</h1>",
        _headline(results),
        "<h2>Verification</h2>",
        _results_table(results),
        *(_titled(run / "report" / name, title, text) for name, title, text in FIGURES),
        "<h2>How it was made</h2>",
        _provenance(run, settings),
    ]
    return write_page(run / "report" / "report.html", regime["name"], body)


def _headline(results: dict[str, Any]) -> str:
    tests = {name: result for name, result in results.items() if result["kind"] == "test"}
    if not tests:
        return "<p>There were no test pairs to verify on.</p>"
    name, result = max(tests.items(), key=lambda item: item[1]["pairs"])
    low, high = result["accuracy_ci"]
    return (
        f"<p>On {counted(result['pairs'], 'test pair')} ({escape(name)}) the last checkpoint decides "
        f"<strong>{result['accuracy']:.1%}</strong> rightly (95 % interval {low:.1%} to {high:.1%}, "
        f"resampling {plural(result['interval_level'])}). Guessing gives 50 %.</p>"
    )


def _results_table(results: dict[str, Any]) -> str:
    rows, notes = [], []
    for name, result in results.items():
        low, high = result["accuracy_ci"]
        rows.append((
            name, result["kind"], f"{result['pairs']:,}", f"{result['accuracy']:.2%}\n{low:.2%} to {high:.2%}",
            f"{result['auc']:.4f}", f"{result['eer']:.2%}", *(f"{tar:.1%}" for tar in result["tar_at_far"].values()),
        ))  # fmt: skip
        notes += [f"{name}: {text}" for text in [*result["notes"], *result["warnings"]]]
    fars = list(next(iter(results.values()))["tar_at_far"]) if results else []
    rates = [f"{'TAR at FAR ' if far == fars[0] else ''}{far}" for far in fars]
    head = ("pairs", "kind", "number", "accuracy, 95 % interval", "AUC", "EER", *rates)
    return table(head, rows) + "".join(map(note, notes))


def _titled(path: Path, title: str, text: str) -> str:
    return f"<h2>{escape(title)}</h2>{figure(path, title, text)}" if path.exists() else ""


def _provenance(run: Path, settings: dict[str, Any]) -> str:
    from hrfr_fast.model.checkpoint import read_metadata

    steps = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
    metadata = read_metadata(run / "checkpoints" / "last.safetensors")
    known: dict[str, object] = {
        "steps": f"{metadata['step']:,} ({counted(metadata['samples'], 'sample')}, epoch {metadata['epoch']:g})",
        "last training loss": f"{steps[-1]['loss']:.4f}" if steps else "none logged",
        "data": f"{metadata['data']['path']} (digest {metadata['data']['digest']})",
        "hrfr-fast": metadata["hrfr_fast"],
        "again": f"hrfr-fast train --config {shlex.quote(str((run / 'settings.toml').absolute()))} --out OTHER",
    }
    flat = {name: value for name, value in settings.items() if name != "augment"}
    flat |= {f"augment.{name}": value for name, value in settings.get("augment", {}).items()}
    return facts(known | flat)
