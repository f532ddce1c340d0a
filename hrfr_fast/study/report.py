"""The report of a study: the question, the answer with its error bars, and everything the answer rests on, in one
HTML file. Pictures lie beside it as PNG, tables as CSV, all numbers in results.json."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from hrfr_fast.analysis.alignment import CPD, LINEAR, NONE
from hrfr_fast.evaluation.compare import FIXED_CONTRASTS
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS
from hrfr_fast.model.lineage import UNKNOWN
from hrfr_fast.regimes import BUDGETS
from hrfr_fast.reporting.page import facts, figure, note, table, write_page
from hrfr_fast.runtime.words import counted
from hrfr_fast.study.figures import CAPTIONS, write_figures
from hrfr_fast.study.plan import APART

QUESTION = "What does a small high-resolution face set add to a large low-resolution one?"
MAIN = FIXED_CONTRASTS[0]
SYNTHETIC = (
    "These faces are synthetic: parametric drawings. What is found on them tests the tool, not the hypothesis; it says "
    "nothing about real faces."
)


def write_study_report(out: Path, results: Mapping[str, Any]) -> Path:
    """Draw the figures and write ``out/report.html`` from what ``gather`` put together."""
    drawn = write_figures(out, results)
    body = [
        f"<h1>{escape(QUESTION)}</h1>",
        _headline(results),
        *_cautions(results),
        _section("Accuracy of every regime", _accuracy_table(results), *_pictures(drawn, "accuracy", "folds")),
        _section("The five contrasts", *_contrasts(results)),
        _section("Findings to reproduce or refute", *_claims(results)),
        _section("Every regime against every other", *_pictures(drawn, "matrix"), _exploratory(results)),
        _section("The remedy: does crossres144 close the gap?", *_remedy(results)),
        _section("High against low resolution", *_pictures(drawn, "cross"), _cross_table(results),
                 *_pictures(drawn, "resolution"), _other_pairs(results)),
        _section("Who is it? Identification", *_pictures(drawn, "identification"), _identification_table(results)),
        _section("How much high resolution is needed?", *_pictures(drawn, "dose"), _dose_table(results)),
        _section("Curves of all regimes", *_pictures(drawn, "loss", "progress", "roc")),
        _section("Curves of each regime", *_each_regime(results, drawn)),
        _section("The embedding space", _space_table(results), *_findings(results, out), _unanswered(results)),
        _section("How it was made", _how(results), facts(_provenance(results))),
    ]  # fmt: skip
    return write_page(out / "report.html", "Study", body)


def _section(title: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<h2>{escape(title)}</h2>\n{inside}" if inside else ""


def _pictures(drawn: Mapping[str, Path], *names: str) -> list[str]:
    return [figure(drawn[name], CAPTIONS[name].split(".")[0], CAPTIONS[name]) for name in names if name in drawn]


def _judged(results: Mapping[str, Any]) -> dict[str, Any]:
    return {label: entry for label, entry in results["regimes"].items() if "accuracy" in entry}


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _with_interval(one: Mapping[str, Any], digits: int = 1) -> str:
    low, high = one["interval"]
    return f"{100 * one['value']:.{digits}f} %\n{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def _headline(results: Mapping[str, Any]) -> str:
    main = next((one for one in results["contrasts"] if (one["a"], one["b"]) == MAIN), None)
    judged = _judged(results)
    if not judged:
        return note("There were no test pairs: nothing could be compared.")
    compared = [label for label, one in judged.items() if one["stage"] not in APART]
    best = max(compared, key=lambda label: judged[label]["accuracy"]["value"])
    lead = main["sentence"] if main else "highlow144 and lowres144 are not both in this study."
    advice = main["advice"] if main else ""
    value, interval = _with_interval(judged[best]["accuracy"]).split("\n")
    return (
        f'<p class="lead"><strong>{escape(lead)}</strong></p>'
        f"<p>{escape(advice)} The most accurate here is {escape(best)} with {value} (95 % interval {interval}) of the "
        f"test pairs decided rightly; guessing gives {_percent(results['data']['pairs']['guessing'], 0)}.</p>"
    )


def _cautions(results: Mapping[str, Any]) -> list[str]:
    texts = []
    if results["data"]["synthetic"]:
        texts.append(SYNTHETIC)
    if len(results["seeds"]) < FEWEST_SEEDS:
        texts.append(
            f"{counted(len(results['seeds']), 'seed')}: these checkpoints can be compared, the regimes cannot. "
            f"Intervals cover the choice of test faces alone; {FEWEST_SEEDS} seeds or more are needed to call a "
            "difference likely real."
        )
    short = [label for label, one in results["regimes"].items() if one["plateau"] in ("not reached", "not watched")]
    if short:
        texts.append(
            f"{', '.join(short)}: the steps were spent before training stopped helping, or nobody watched for it; more "
            "steps may make them better than they look here."
        )
    texts += [f"{label}: {one['data_note']}." for label, one in results["regimes"].items() if one.get("data_note")]
    pairs = results["data"]["pairs"]
    if pairs:
        texts += pairs["notes"]
        warnings: list[str] = next((one["warnings"] for one in _judged(results).values()), [])
        texts += ["; ".join(warnings) + "."] if warnings else []
    return [note(text) for text in texts]


def _accuracy_table(results: Mapping[str, Any]) -> str:
    rows = []
    for label, one in _judged(results).items():
        if one["stage"] in APART:
            continue
        spread = one["accuracy"]["seed_spread"]
        tars = [_with_interval(one["tar_at_far"][far]) for far in ("0.1", "0.01", "0.001")]
        rows.append(
            (
                label, _with_interval(one["accuracy"]), _percent(one["fold_spread"]),
                "one seed" if spread is None else _percent(spread), _with_interval(one["auc"]),
                _with_interval(one["eer"]), *tars,
            )
        )  # fmt: skip
    head = (
        "regime", "accuracy", "10-fold spread", "seed spread", "AUC", "EER",
        "TAR at FAR 0.1", "0.01", "0.001",
    )  # fmt: skip
    text = (
        f"<p>Below each rate its 95 % interval, over the choice of {_units(results)} and, with three seeds, of seeds. "
        "Spreads are standard deviations.</p>"
    )
    return table(head, rows) + text if rows else ""


def _units(results: Mapping[str, Any]) -> str:
    by_pair = (results["data"]["pairs"] or {}).get("level") == "pair"
    return "pairs (nobody knows the people, so it is too narrow)" if by_pair else "test people"


def _contrasts(results: Mapping[str, Any]) -> list[str]:
    if not results["contrasts"]:
        return []
    fixed = {(one["a"], one["b"]): one for one in results["contrasts"] if one["fixed"]}
    parts = [
        "<p>Fixed before any result was seen; the verdicts are corrected together by Holm's method, always as five. "
        f"The interval, not corrected, covers the choice of {_units(results)} and, with three seeds or more, of seeds; "
        "both regimes see the same pairs and resamples.</p>"
    ]
    for a, b in FIXED_CONTRASTS:
        one = fixed.get((a, b))
        if one is None:
            parts.append(f"<p>{escape(a)} against {escape(b)}: not both in this study.</p>")
            continue
        counts = ", ".join(
            f"seed {seed}: {m['only_a']} against {m['only_b']} (p = {m['p']:.2g})" for seed, m in one["mcnemar"].items()
        )
        parts.append(
            f"<h3>{escape(a)} against {escape(b)}</h3><p><strong>{escape(one['sentence'])}</strong> "
            f"{escape(one['advice'])} {escape(one['budgets'])} p = {one['p']:.2g}, Holm-corrected "
            f"{one['p_holm']:.2g}.</p>"
            f"<p>McNemar, pairs only one of the two decides rightly: {escape(counts)}. It takes pairs as "
            "independent.</p>"
        )
    return parts + _controls(results)


def _controls(results: Mapping[str, Any]) -> list[str]:
    """Each regime beside its control, where both are in the study."""
    of = {(entry["control_of"], label) for label, entry in results["regimes"].items() if entry["control_of"]}
    found = [one for one in results["contrasts"] if {(one["a"], one["b"]), (one["b"], one["a"])} & of]
    lines = [f"<li>{escape(one['sentence'])} {escape(one['budgets'])}</li>" for one in found]
    return ["<h3>Regimes and their controls</h3>", f"<ul>{''.join(lines)}</ul>"] if lines else []


def _claims(results: Mapping[str, Any]) -> list[str]:
    parts = [note(SYNTHETIC)] if results["data"]["synthetic"] else []
    parts.append("<p>In small print the rule that decides: part of the program, not chosen on these results.</p>")
    for one in results["claims"]:
        verdict = one["verdict"]
        if verdict != one["leaning"]:
            verdict += f" (fewer than {FEWEST_SEEDS} seeds; by these checkpoints: {one['leaning']})"
        parts.append(
            f"<h3>{escape(one['claim'])}: {escape(verdict)}</h3>"
            f"<p>{escape(one['why'])}.<br><small>{escape(one['rule'][0].upper() + one['rule'][1:])}.</small></p>"
        )
    return parts


def _exploratory(results: Mapping[str, Any]) -> str:
    if not results["contrasts"]:
        return ""
    told = [one for one in results["contrasts"] if not one["fixed"] and one["p"] < 0.05]
    if not told:
        return "<p>No exploratory comparison is told from chance.</p>"
    rows = []
    for one in sorted(told, key=lambda one: -abs(one["difference"])):
        first, second, sign = (one["a"], one["b"], 1) if one["difference"] > 0 else (one["b"], one["a"], -1)
        low, high = sorted(100 * sign * end for end in one["interval"])
        seen = [f"{results['regimes'][label]['pictures_seen']:,}" for label in (first, second)]
        points = f"{100 * abs(one['difference']):.2f} ({low:.2f} to {high:.2f})"
        rows.append((first, second, points, f"{one['p']:.2g}", " and ".join(seen) if one["budgets"] else "as many"))
    few = len(results["seeds"]) < FEWEST_SEEDS
    scope = f" They are of these checkpoints; regimes need {FEWEST_SEEDS} seeds." if few else ""
    return (
        f"<p>Exploratory differences whose 95 % interval excludes 0, not corrected for their number: {len(rows)} of "
        f"{sum(not one['fixed'] for one in results['contrasts'])} comparisons, of which one in twenty would be here by "
        f"chance alone.{scope}</p>"
        + table(("better", "worse", "points (95 % interval)", "p", "pictures seen in training"), rows)
    )


def _remedy(results: Mapping[str, Any]) -> list[str]:
    remedy = results.get("remedy")
    if not remedy or not remedy["against"]:
        return []
    parts = [
        f"<p>By the criterion fixed beforehand: <strong>{escape(remedy['verdict'])}</strong>. Success needs three "
        "seeds, a lower probe AUC on a degradation never trained on, a higher TAR at FAR 1e-2 of sharp against "
        "degraded faces (both intervals excluding 0), an accuracy on sharp pairs whose interval stays above "
        "-0.5 points, and in every seed at least half of the other's effective rank (no collapse).</p>"
    ]
    for other, rows in remedy["against"].items():
        lines = [(name, _change(name, one), {"yes": "met", "no": "not met", "opposite": "the opposite"}[one["met"]])
                 for name, one in rows.items()]  # fmt: skip
        parts.append(f"<h3>crossres144 minus {escape(other)}</h3>" + table(("quantity", "points", "criterion"), lines))
    return parts


def _change(name: str, one: Mapping[str, Any]) -> str:
    if name != "effective rank":
        return _points(one)
    low, high = one["interval"]
    return f"{one['value']:.2f} times ({low:.2f} to {high:.2f} over seeds)"


def _points(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f"{100 * one['value']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _cross_table(results: Mapping[str, Any]) -> str:
    rows = [
        (label, *(_with_interval(one) for one in entry["cross_resolution"].values()),
         *(_with_interval(entry["cross_resolution"][view]["tar_at_far"]["0.01"]) for view in ("HR-HR", "HR-LR")))
        for label, entry in _judged(results).items() if entry["stage"] not in APART
    ]  # fmt: skip
    head = ("regime", "accuracy HR-HR", "HR-LR", "LR-LR", "TAR at FAR 0.01 HR-HR", "HR-LR")
    text = "<p>A 32-px model shrinks every view to 32 px: for it the three differ little, a near-identity control.</p>"
    return table(head, rows) + text if rows else ""


def _other_pairs(results: Mapping[str, Any]) -> str:
    names = sorted({name for entry in results["regimes"].values() for name in entry["other_pairs"]})
    names = [name for name in names if not results["data"]["pairs"] or name != results["data"]["pairs"]["name"]]
    if not names:
        return (
            "<p>There are no development pairs: <code>pack --dev-identities</code> sets real low-resolution people "
            "aside, who then show whether simulated low resolution resembles the real one.</p>"
        )
    tests = {
        name for entry in results["regimes"].values() for name, one in entry["other_pairs"].items()
        if one["kind"] == "test"
    }  # fmt: skip
    parts = ""
    for kind, title, text in (
        ("development", "Development pairs", "Pairs of held-out training people, mean over seeds. dev-lowres are real "
         "low-resolution faces: compare them with the simulated LR-LR above, which shows other people."),
        ("test", "Other test pairs", "Test pairs the regimes are not compared on, mean over seeds."),
    ):  # fmt: skip
        mine = [name for name in names if (name in tests) == (kind == "test")]
        rows = [
            (label, *(_other(entry["other_pairs"].get(name)) for name in mine))
            for label, entry in results["regimes"].items()
            if entry["stage"] not in APART
        ]
        if mine:
            parts += f"<h3>{title}</h3><p>{text}</p>" + table(("regime", *mine), rows)
    return parts


def _other(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    low, high = one["first_seed_interval"]
    learnt = "\nperhaps of people it learnt" if one["kind"] == UNKNOWN else ""
    return f"{_percent(one['accuracy'])}\nfirst seed {100 * low:.1f} to {100 * high:.1f}{learnt}"


def _identification_table(results: Mapping[str, Any]) -> str:
    rows = []
    for label, entry in _judged(results).items():
        found = entry["identification"]
        if found:
            cells = [
                f"{_percent(found[view][f'rank{rank}'])}\n{100 * found[view][f'rank{rank}_ci'][0]:.1f} to "
                f"{100 * found[view][f'rank{rank}_ci'][1]:.1f}"
                for view in ("HR", "LR") for rank in (1, 5)
            ]  # fmt: skip
            rows.append((label, *cells, f"{found['probes']:,} among {found['gallery']:,}"))
    return table(("regime", "HR rank 1", "rank 5", "LR rank 1", "rank 5", "probes"), rows) if rows else ""


def _dose_table(results: Mapping[str, Any]) -> str:
    rows = [(row["regime"], row["kind"].replace("_", " "), _percent(row["dose"], 0), _with_interval(row))
            for row in results.get("dose", [])]  # fmt: skip
    return table(("regime", "what is dosed", "dose", "accuracy"), rows) if rows else ""


def _each_regime(results: Mapping[str, Any], drawn: Mapping[str, Path]) -> Iterable[str]:
    for label, entry in results["regimes"].items():
        picture = drawn.get(f"regime-{label}")
        if picture:
            caption = f"{entry['summary']}. Training loss, accuracy while training and ROC, a colour a seed."
            yield f"<h3>{escape(label)}</h3>" + figure(picture, f"Curves of {label}", caption)


def _space_table(results: Mapping[str, Any]) -> str:
    rows = []
    for label, one in results.get("space", {"regimes": {}})["regimes"].items():
        methods, ranks = one["methods"], list(one["effective_rank"].values())
        if methods:
            rows.append(
                (
                    label, *(_area(methods[name]["probe_auc"]) for name in (NONE, CPD, LINEAR)),
                    *(_points(methods[name]["accuracy_gain"]) for name in (CPD, LINEAR)),
                    _with_interval(one["overlap"]), f"{min(ranks):.1f} to {max(ranks):.1f}",
                )
            )  # fmt: skip
    head = (
        "regime", "probe AUC as it is", "after CPD", "after a linear map", "points gained by CPD",
        "by a linear map", "overlap HR-LR", "effective rank",
    )  # fmt: skip
    text = (
        "<p>Over all seeds, with 95 % intervals: how well a probe guesses the true resolution of an embedding (AUC; "
        "chance is 0.5) before and after the low-resolution cloud is moved onto the other, on people the move was not "
        "fitted on; what that does to HR-LR accuracy; how much the cosines of one person's and of two people's "
        "pictures overlap. CPD sees two clouds, the linear map is shown which points are the same picture. The figures "
        "below show the first seed.</p>"
    )
    return text + table(head, rows) if rows else ""


def _area(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f"{one['value']:.3f}\n{low:.3f} to {high:.3f}"


def _findings(results: Mapping[str, Any], out: Path) -> Iterable[str]:
    for one in results["findings"]:
        pictures = "".join(figure(out / f["file"], one["question"], f["caption"]) for f in one["figures"])
        lines = "".join(f"<li>{escape(line)}</li>" for line in one["answer"].splitlines())
        yield f"<h3>{escape(one['question'])}</h3><ul>{lines}</ul>{pictures}"


def _unanswered(results: Mapping[str, Any]) -> str:
    rows = list(results["unanswered"].items())
    return "<h3>Not answered</h3>" + table(("question", "why"), rows, wide=(1,)) if rows else ""


def _how(results: Mapping[str, Any]) -> str:
    rows = [
        (label, entry["summary"], entry["stage"], f"{entry['input_size']} px", entry["budget"],
         f"{_steps(entry)} x {entry['batch_size']}",
         f"{len(entry['runs'])}", entry["runs"][next(iter(entry["runs"]))])
        for label, entry in results["regimes"].items()
    ]  # fmt: skip
    preset = results["preset"]
    used = {entry["budget"] for entry in results["regimes"].values()}
    budgets = [f"{name}: {text}" for name, text in BUDGETS.items() if name in used]
    return (
        f"<p>Preset {escape(preset['name'])}: {escape(preset['summary'])}. Every checkpoint is the last of its run; "
        "nothing was chosen on the test pairs of this study.</p>"
        + table(
            ("regime", "trained on", "part", "input", "budget", "steps x batch", "seeds", "first run"), rows, wide=(1,)
        )
        + f"<p>Budgets: {escape('; '.join(budgets))}.</p>"
    )


def _steps(entry: Mapping[str, Any]) -> str:
    least, most = (limit(entry["steps_by_seed"].values()) for limit in (min, max))
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _provenance(results: Mapping[str, Any]) -> dict[str, object]:
    data = results["data"]
    known: dict[str, object] = {
        "data": data["path"],
        "data digest": data["digest"],
        "hrfr-fast": results["hrfr_fast"],
        "seeds": ", ".join(map(str, results["seeds"])),
    }
    for name, split in data["splits"].items():
        known[name] = f"{split['pictures']:,} pictures of {split['identities']:,} people, {split['pixels']} px"
    if data["pairs"]:
        known["test pairs"] = (
            f"{data['pairs']['name']}: {data['pairs']['pairs']:,}; the bootstrap draws {data['pairs']['identities']:,} "
            + ("identities" if data["pairs"]["level"] == "identity" else "pairs")
        )
    settings = {name: value for name, value in results["preset"].items() if name not in ("name", "summary")}
    return known | {f"preset.{name}": value for name, value in settings.items()}
