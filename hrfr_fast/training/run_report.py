"""Report of one run: a single HTML file with its figures inside."""

import json
import shlex
from pathlib import Path
from typing import Any

from hrfr_fast.model.checkpoint import read_metadata
from hrfr_fast.reporting.page import Table, embedded, write_page
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.toml_files import read_toml
from hrfr_fast.runtime.words import counted, plural
from hrfr_fast.settings import TABLES
from hrfr_fast.training.metrics import read_metrics

TEMPLATE = Path(__file__).parent / "templates" / "run_report.html.j2"
FIGURES = (
    ("loss.png", "Training loss and learning rate",
     "How wrong the model was on the training faces, and how large its steps were. A healthy loss falls and flattens."),
    ("accuracy.png", "Accuracy while training",
     "Share of pairs decided correctly; the grey line, 50 %, is guessing where half of the pairs are of one person."
     " Dotted sets are test pairs: watched, never used to choose."),
    ("roc.png", "Receiver operating characteristic",
     "True accept rate (up) against false accept rate (right). The dot is the equal error rate."),
    ("scores.png", "Scores of same and different people",
     "Cosine similarity of the two faces of a pair. Where the two histograms overlap the model errs. The dashed line is"
     " the threshold that is best on all pairs."),
)  # fmt: skip


def write_run_report(run: Path) -> Path:
    """Write ``run/report/report.html`` from settings.toml, metrics.jsonl, results.json and the PNGs beside it.

    Where Jinja2 is not installed a warning takes its place, for the run is whole without its report.
    """
    try:
        return _write(run)
    except ModuleNotFoundError as error:
        if error.name != "jinja2":
            raise
        console.print("warning: jinja2 is not installed, so the run gets no report (pip install jinja2)", markup=False)
        return run / "report" / "report.html"


def _write(run: Path) -> Path:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    regime = read_toml(run / "regime.toml", "a regime")
    folder = run / "report"
    return write_page(
        folder / "report.html",
        TEMPLATE,
        title=regime["name"],
        summary=regime["summary"],
        main=_main_result(results),
        results=_results_table(results),
        notes=[f"{name}: {text}" for name, found in results.items() for text in [*found["notes"], *found["warnings"]]],
        figures=[image for name, title, caption in FIGURES if (image := embedded(folder / name, title, caption))],
        provenance=_provenance(run, read_toml(run / "settings.toml", "settings")),
    )


def _main_result(results: dict[str, Any]) -> dict[str, str] | None:
    """The result on the largest set of test pairs, in words; None where there is none."""
    tests = {name: result for name, result in results.items() if result["kind"] == "test"}
    if not tests:
        return None
    name, result = max(tests.items(), key=lambda item: item[1]["pairs"])
    low, high = result["accuracy_ci"]
    return {
        "name": name, "pairs": counted(result["pairs"], "test pair"), "accuracy": f"{result['accuracy']:.1%}",
        "interval": f"{low:.1%} to {high:.1%}", "resampled": plural(result["interval_level"]),
        "guessing": f"{result['guessing']:.0%}" if "guessing" in result else "",  # earlier versions did not say it
    }  # fmt: skip


def _results_table(results: dict[str, Any]) -> Table:
    rows = []
    for name, result in results.items():
        low, high = result["accuracy_ci"]
        rows.append((
            name, result["kind"], f"{result['pairs']:,}", f"{result['accuracy']:.2%}\n{low:.2%} to {high:.2%}",
            f"{result['auc']:.4f}", f"{result['eer']:.2%}", *(f"{tar:.1%}" for tar in result["tar_at_far"].values()),
        ))  # fmt: skip
    fars = list(next(iter(results.values()))["tar_at_far"]) if results else []
    rates = [f"{'TAR at FAR ' if far == fars[0] else ''}{far}" for far in fars]
    return Table(("pairs", "kind", "number", "accuracy, 95 % interval", "AUC", "EER", *rates), rows)


def _terms(line: dict[str, Any]) -> str:
    terms = {name.removeprefix("loss_"): value for name, value in line.items() if name.startswith("loss_")}
    return ", ".join(f"{name} {value:.4f}" for name, value in terms.items())


def _provenance(run: Path, settings: dict[str, Any]) -> dict[str, object]:
    logged = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
    metadata = read_metadata(run / "checkpoints" / "last.safetensors")
    known: dict[str, object] = {
        "steps": f"{metadata['step']:,} ({counted(metadata['samples'], 'sample')}, epoch {metadata['epoch']:g})",
        "last training loss": f"{logged[-1]['loss']:.4f}" if logged else "none logged",
        **({"its terms, unweighted": _terms(logged[-1])} if logged and "loss_margin" in logged[-1] else {}),
        "data": f"{metadata['data']['path']} (digest {metadata['data']['digest']})",
        "hrfr-fast": metadata["hrfr_fast"],
        "again": f"hrfr-fast train --config {shlex.quote(str((run / 'settings.toml').absolute()))} --out OTHER",
    }
    flat = {name: value for name, value in settings.items() if name not in TABLES}
    for table in TABLES:
        flat |= {f"{table}.{name}": value for name, value in settings.get(table, {}).items()}
    return known | flat
