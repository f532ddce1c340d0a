"""What the commands print: the account of a pack, the plan of a study, findings, and tables of results."""

import json
from textwrap import indent
from typing import TYPE_CHECKING

from hrfr_fast.runtime.terminal import echo

if TYPE_CHECKING:
    from hrfr_fast.analysis.degradation_match import MatchedDegradation
    from hrfr_fast.analysis.finding import Finding
    from hrfr_fast.doctor.links import Exchange
    from hrfr_fast.evaluation.evaluate import PairResult
    from hrfr_fast.evaluation.protocols.compare import ProtocolComparison
    from hrfr_fast.evaluation.protocols.results import Measure, ProtocolResult, SetResult
    from hrfr_fast.packing.summary import PackSummary
    from hrfr_fast.study.run import PlannedRun


def print_pack(summary: "PackSummary") -> None:
    from hrfr_fast.runtime.progress import console

    lines = [*summary.lines(), *(f"warning: {warning}" for warning in summary.warnings)]
    console.print("\n".join(lines), markup=False, highlight=False)


def print_exchange(exchange: "Exchange | None") -> None:
    from hrfr_fast.doctor.links import rate, shown_links, size, slow
    from hrfr_fast.runtime.terminal import print_rows

    if exchange is None:
        echo(
            "between ranks: nothing to time in one process; `torchrun --nproc-per-node N -m hrfr_fast doctor` times it"
        )
        return
    count, machines = len(exchange.hosts), len(set(exchange.hosts))
    sums = [
        (size(one.message_bytes), f"{1e3 * one.seconds:.3f} ms", rate(one.bus_rate(count))) for one in exchange.sums
    ]
    title = f"all-reduce over {count} ranks on {machines} machine{'s' * (machines > 1)} ({exchange.device})"
    print_rows(("message", "time", "bandwidth of a link"), sums, title=title, right=(0, 1, 2))
    shown = shown_links(exchange)
    rows = [
        (f"{link.first} - {link.second}", exchange.way(link), f"{1e6 * link.latency:,.0f} us", rate(link.rate))
        for link in shown
    ]
    left_out = "" if len(shown) == len(exchange.links) else f", the slowest {len(shown)} of {len(exchange.links)}"
    print_rows(("ranks", "machine", "latency", "bandwidth"), rows, title=f"messages between two ranks{left_out}",
               right=(2, 3))  # fmt: skip
    named = slow(exchange)
    for text in named:
        echo(f"slow link: {text}")
    if not named:
        echo("no link is slow: each carries at least half of what the fastest of its kind does")


def print_matched(matched: "MatchedDegradation") -> None:
    from hrfr_fast.runtime.terminal import print_rows, print_values

    rows = [
        (name, f"{found.mean:.3f} +- {found.error:.3f}", f"{held_out.mean:.3f} +- {held_out.error:.3f}")
        for name, found, held_out in zip(
            matched.searched, matched.searched.values(), matched.held_out.values(), strict=True
        )
    ]
    title = "AUC (+- standard error) of a probe that tells degraded from native faces; 0.500: it cannot"
    print_rows(("degradation", "identities of the search", "other identities"), rows, title=title, right=(1, 2))
    sharp, native = matched.pictures
    echo(f"{matched.candidates} degradations tried on {sharp:,} sharp and {native:,} native development pictures")
    if matched.nothing_to_match:
        echo(
            "plain downsampling is told from native faces no better than the two sets are where neither shows its own"
            " resolution: this network and these pictures leave nothing to match"
        )
    print_values("chosen", dict(matched.settings))


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
    echo(f"{left} of {len(runs)} runs to do, about {hours:.1f} hours ({60 * hours:.0f} minutes) on this device")
    echo("the embedding analyses and the report come on top: minutes")


def print_findings(findings: "list[Finding]", as_json: bool) -> None:
    if as_json:
        echo(json.dumps({finding.key: finding.to_json() for finding in findings}, indent=2))
        return
    for finding in findings:
        echo(finding.question)
        echo(indent(finding.answer, "  ") + "\n")


def print_results(results: dict[str, "PairResult"]) -> None:
    from hrfr_fast.runtime.terminal import print_rows

    if not results:
        echo("warning: there were no pairs to verify on")
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
        echo(f"{', '.join(names)}: {text}")


def print_protocol(result: "ProtocolResult") -> None:
    from hrfr_fast.runtime.terminal import print_rows

    rows = []
    for name, test_set in result.sets.items():
        for part in test_set.parts:
            what = " ".join(filter(None, (name, part.part)))
            rows += [[what, ", ".join(filter(None, (one.name, one.method))), *_numbers(one)] for one in part.measures]
    print_rows(("set", "measure", "value", "95 % interval"), rows, title=f"{result.model}: {result.title}")
    for name, test_set in result.sets.items():
        for text in _caveats(test_set):
            echo(f"{name}: {text}")
    echo(f"crop: {result.crop}")


def _numbers(measure: "Measure") -> list[str]:
    """The value, with its deviation over folds where the protocol reports it, and the interval."""

    def text(value: float) -> str:
        return f"{value:.4f}" if measure.name == "AUC" else f"{value:.2%}"

    value = text(measure.value) + ("" if measure.deviation is None else f" +- {text(measure.deviation)}")
    return [value, " to ".join(map(text, measure.interval or ()))]


def _caveats(test_set: "SetResult") -> list[str]:
    from hrfr_fast.runtime.names import few
    from hrfr_fast.runtime.words import plural

    counts = [
        " ".join(filter(None, (part.part, ", ".join(f"{count:,} {what}" for what, count in part.counts.items()))))
        for part in test_set.parts
    ]
    by_count = sorted(test_set.pictures.items(), key=lambda item: -item[1])
    sizes = few([f"{count:,} pictures of {size} px" for size, count in by_count])
    drawn = {part.interval_level for part in test_set.parts if any(one.interval for one in part.measures)}
    intervals = [f"intervals resample {' and '.join(sorted(map(plural, drawn)))}"] if drawn else []
    warnings = dict.fromkeys(warning for part in test_set.parts for warning in part.warnings)
    return [f"{sizes}; {'; '.join(counts)}", *intervals, *test_set.notes, *warnings]


def print_comparison(comparison: "ProtocolComparison") -> None:
    print_protocol(comparison.a)
    print_protocol(comparison.b)
    for one in comparison.contrasts:
        what = " ".join(filter(None, (one.set_name, one.part)))
        only_a, only_b, p = one.mcnemar
        echo(f"{what}, {one.measure}: {one.contrast.sentence}")
        names = (one.contrast.a, one.contrast.b)
        echo(f"  McNemar: {only_a:,} decisions only {names[0]} has right, {only_b:,} only {names[1]}; p = {p:.3g}")
        echo(f"  {one.contrast.advice}")
