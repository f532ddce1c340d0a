"""What the commands print: the account of a pack, the plan of a study, findings, and tables of results."""

import json
from textwrap import indent
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hrfr_fast.analysis.finding import Finding
    from hrfr_fast.evaluation.evaluate import PairResult
    from hrfr_fast.packing.summary import PackSummary
    from hrfr_fast.study.run import PlannedRun


def print_pack(summary: "PackSummary") -> None:
    from hrfr_fast.runtime.progress import console

    lines = [*summary.lines(), *(f"warning: {warning}" for warning in summary.warnings)]
    console.print("\n".join(lines), markup=False, highlight=False)


def print_plan(runs: "list[PlannedRun]") -> None:
    from hrfr_fast.runtime.terminal import print_rows

    rows = [
        (
            run.label, str(run.seed), run.stage, run.state, f"{run.steps:,}", f"{run.batch_size:,}",
            f"{run.seconds / 60:.1f}",
        )
        for run in runs
    ]  # fmt: skip
    print_rows(("run", "seed", "part", "state", "steps", "batch", "minutes"), rows)
    hours = sum(run.seconds for run in runs) / 3600
    left = sum(run.state != "finished" for run in runs)
    typer.echo(f"{left} of {len(runs)} runs to do, about {hours:.1f} hours ({60 * hours:.0f} minutes) on this device")
    typer.echo("the embedding analyses and the report come on top: minutes")


def print_findings(findings: "list[Finding]", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({finding.key: finding.to_json() for finding in findings}, indent=2))
        return
    for finding in findings:
        typer.echo(finding.question)
        typer.echo(indent(finding.answer, "  ") + "\n")


def print_results(results: dict[str, "PairResult"]) -> None:
    from hrfr_fast.runtime.terminal import print_rows

    if not results:
        typer.echo("warning: there were no pairs to verify on")
        return
    rows, notes = [], dict[str, list[str]]()
    for key, result in results.items():
        values = result.to_json()
        low, high = values["accuracy_ci"]
        rows.append([
            key, values["kind"], values["view"], f"{values['pairs']:,}", f"{values['accuracy']:.2%}",
            f"{low:.2%} to {high:.2%} ({values['interval_level']})", f"{values['auc']:.4f}",
            f"{values['eer']:.2%}", f"{values['tar_at_far']['0.01']:.2%}",
        ])  # fmt: skip
        for text in [*values["notes"], *values["warnings"]]:
            notes.setdefault(text, []).append(key)
    head = ("pair set", "kind", "view", "pairs", "accuracy", "95 % interval", "AUC", "EER", "TAR@FAR 1e-2")
    print_rows(head, rows)
    for text, names in notes.items():
        typer.echo(f"{', '.join(names)}: {text}")
