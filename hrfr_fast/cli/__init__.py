"""The command line: one command a verb, each a few lines: parse, call, print."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hrfr_fast.cli import deployment, judging
from hrfr_fast.cli.adopt import adopt
from hrfr_fast.cli.align import align
from hrfr_fast.cli.bench import bench
from hrfr_fast.cli.data_commands import check, inspect_command, pack, synth
from hrfr_fast.cli.derive import derive
from hrfr_fast.cli.failing import fail, how_to_install, refuse_ranks, silent_but_rank_0
from hrfr_fast.cli.onnx_flags import with_onnx_flags
from hrfr_fast.cli.options import with_setting_options
from hrfr_fast.cli.output import print_exchange, print_findings, print_matched, print_plan, print_results
from hrfr_fast.runtime.errors import HrfrError, ReportedElsewhere, UsageError
from hrfr_fast.runtime.files import in_words, refuse_lost_directory
from hrfr_fast.runtime.garbage import collect_seldom
from hrfr_fast.runtime.locales import use_utf8
from hrfr_fast.runtime.terminal import echo
from hrfr_fast.runtime.version import __version__

if TYPE_CHECKING:
    from hrfr_fast.analysis.finding import Finding as Finding
    from hrfr_fast.study.run import PlannedRun as PlannedRun

app = typer.Typer(
    help="Pack faces, train embedders on mixed resolutions, judge them honestly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Entry point. A user's mistake ends in one message and its exit code, never in a traceback."""
    use_utf8()
    collect_seldom()
    try:
        with silent_but_rank_0():
            app()
    except ReportedElsewhere as error:
        sys.exit(error.exit_code)
    except HrfrError as error:
        fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        fail(how_to_install(error), 1)
    except OSError as error:
        fail(in_words(error, "hrfr-fast " + " ".join(sys.argv[1:2])), 1)
    except MemoryError as error:
        fail(f"the memory is full: {error or 'nothing more can be had'}. Work with less at once (fewer --workers, a "
             "smaller --batch-size), or look whether a file claims to be larger than it can be", 1)  # fmt: skip
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which most commands need not import
            raise
        what = str(error).partition("\n")[0]
        fail(f"the GPU's memory is full: {what} See in `nvidia-smi` what else uses it, or use --device cpu.", 1)


def _show_version(value: bool) -> None:
    if value:
        echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    refuse_lost_directory()
    refuse_ranks(context.invoked_subcommand)


app.command()(synth)
app.command()(align)
app.command()(derive)
app.command()(pack)
app.command(name="inspect")(inspect_command)
app.command()(check)


@app.command()
def doctor(
    folder: Annotated[
        Path, typer.Argument(help="where the shards lie or will lie: the disk is measured there")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Show what is here, what each engine can do with it, and the fix for what is missing."""
    from hrfr_fast.doctor import examine, rows
    from hrfr_fast.runtime.terminal import print_values

    report = examine(folder)
    if as_json:
        echo(json.dumps(report.to_json(), indent=2))
    else:
        print_values("this machine", dict(rows(report.facts)))
        print_values(
            "engines", {v.engine: f"{'works' if v.works else 'does not work'}: {v.text}" for v in report.engines}
        )
        print_exchange(report.exchange)
        for fix in report.fixes:
            echo(f"fix: {fix}")
    if not report.works:
        raise HrfrError("no engine can work here; the fixes above come first")


app.command()(bench)


def _train(config: Path | None, resume: bool, flags: dict[str, Any]) -> None:
    from hrfr_fast.regimes import regime_named
    from hrfr_fast.runtime.progress import console
    from hrfr_fast.runtime.words import counted
    from hrfr_fast.settings import TrainSettings, load_settings
    from hrfr_fast.training.advice import without_effect
    from hrfr_fast.training.resuming import refuse_changes
    from hrfr_fast.training.trainer import train

    if resume and config:
        raise UsageError("--resume goes on with the settings in the run directory; leave --config out")
    settings = load_settings(config) if config else TrainSettings()
    settings = settings.updated(flags, "command line")
    if resume:
        refuse_changes(settings, flags)
    else:
        regime = regime_named(settings.regime)
        for name in without_effect(settings, regime, flags):
            console.print(f"warning: --{name.replace('_', '-')} has no effect on regime {regime.name} as it is set")
    result = train(settings, resume=resume)
    print_results(result.results)
    if math.isfinite(result.loss):  # steps were taken now, and not all before it was resumed
        echo(f"{counted(result.steps, 'step')}, loss {result.loss:.3f}, {result.speed}")
    echo(f"report: {result.report}")


app.command(name="train")(with_setting_options(_train))
deployment.add_commands(app)
app.command()(adopt)


app.command()(with_onnx_flags(judging.evaluate))
app.command()(with_onnx_flags(judging.compare))


@app.command()
def analyze(
    runs: Annotated[list[Path], typer.Argument(help="run directories or checkpoints; the first is the reference")],
    out: Annotated[Path, typer.Option(help="where findings and figures go")] = Path("analysis"),
    data: Annotated[Path | None, typer.Option(help="packed directory; the runs' own if not given")] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            help="only this; may be repeated: resolution_gap, distances, alignment, sphere, kernels, drift, failures"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="of folds, halves, drawn pairs and resamples")] = 0,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object: a finding a key")] = False,
) -> None:
    """Ask embeddings what they know: resolution, distances, alignment, sphere, kernels, drift, failures."""
    from hrfr_fast.analysis.run import IncompleteAnalysis
    from hrfr_fast.analysis.run import analyze as run_analysis

    try:
        findings = run_analysis(list(runs), out, packed=data, device=device, questions=question, seed=seed)
    except IncompleteAnalysis as error:
        print_findings(error.findings, as_json)
        raise
    print_findings(findings, as_json)
    if not as_json:
        echo(f"numbers and figures: {out}")


@app.command()
def match_degradation(
    packed: Annotated[Path, typer.Argument(help="directory written by pack --dev-identities")],
    run: Annotated[Path, typer.Argument(help="run directory or checkpoint that was trained on it")],
    out: Annotated[Path, typer.Option(help="settings to write, for train --degradation")] = Path("degradation.toml"),
    candidates: Annotated[int, typer.Option(help="how many degradations to try at random")] = 27,
    neighbours: Annotated[int, typer.Option(help="how many to try near the best of them")] = 9,
    seed: Annotated[int, typer.Option(help="of halves, folds, candidates and drawn degradations")] = 0,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
) -> None:
    """Choose the degradation of sharp faces that a network cannot tell from native low resolution."""
    from hrfr_fast.analysis.degradation_match import match_degradation as run_match

    matched = run_match(packed, run, out=out, candidates=candidates, neighbours=neighbours, device=device, seed=seed)
    print_matched(matched)
    echo(f"settings: {out}; use them with: hrfr-fast train --regime matched-views --degradation {out}")


@app.command()
def study(
    regimes: Annotated[
        str, typer.Option(help="names or .toml files with commas between; all: the ten of the table and their controls")
    ] = "all",
    data: Annotated[Path, typer.Option(help="directory written by pack")] = Path("packed"),
    out: Annotated[
        Path, typer.Option(help="where runs, tables and the report go; an unfinished study continues")
    ] = Path("study"),
    preset: Annotated[
        str,
        typer.Option(help="full, cpu-small, cpu-faces, remedies, remedies-faces, or a .toml file of one"),
    ] = "full",
    seeds: Annotated[
        int, typer.Option(help="how many; 0: as the preset says. Three are needed to tell regimes apart")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    dose: Annotated[
        bool, typer.Option("--dose", help="add runs with fewer highres identities and other shares")
    ] = False,
    on: Annotated[
        str,
        typer.Option(
            help="here: one run after the other; ray: as many at once as this machine has GPUs, or its cores divided;"
            " ray://auto, ray://HOST:10001: on that Ray cluster, over a folder that all nodes share"
        ),
    ] = "here",
    threads_per_run: Annotated[
        int,
        typer.Option(
            help="to train with on a CPU, where results depend on it in their last bits; 0: as a run was begun, else"
            " all cores, or those that a cluster gives it"
        ),
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run and how long it takes here")] = False,
) -> None:
    """Run every regime over several seeds, compare them with error bars, and write one report."""
    from hrfr_fast.study.run import dry_run as plan_only
    from hrfr_fast.study.run import planned, run_study

    names = [name.strip() for name in regimes.split(",") if name.strip()]
    if dry_run:
        print_plan(plan_only(planned(names, data, out, preset=preset, seeds=seeds, device=device, dose=dose)))
        return
    report = run_study(
        names, data, out, preset=preset, seeds=seeds, device=device, dose=dose, on=on, threads_per_run=threads_per_run
    )
    results = json.loads((report.parent / "results.json").read_text(encoding="utf-8"))
    if "remedies" in results:
        echo(results["remedies"]["statement"])
    for one in results["contrasts"]:
        if one["fixed"]:
            echo(one["sentence"])
    echo(f"report: {report}")
