"""Report of a study: the question, the answer with its error bars, and everything the answer rests on, in one HTML
file. Figures lie beside it as PNG, tables as CSV, all numbers in results.json."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hrfr_fast.evaluation.compare import FIXED_CONTRASTS
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS
from hrfr_fast.evaluation.verification import NO_ERRORS
from hrfr_fast.regimes import BUDGETS
from hrfr_fast.reporting.page import EmbeddedImage, embedded, write_page
from hrfr_fast.runtime.words import counted
from hrfr_fast.study import report_tables
from hrfr_fast.study.figures import CAPTIONS, write_figures
from hrfr_fast.study.remedies import report as remedies_report
from hrfr_fast.study.report_tables import percent, with_interval
from hrfr_fast.study.results import ContrastResult, StudyFinding, StudyResults

TEMPLATE = Path(__file__).parent / "templates" / "study_report.html.j2"
QUESTION = "What does a small high-resolution face set add to a large low-resolution one?"
MAIN = FIXED_CONTRASTS[0]
SYNTHETIC = (
    "These faces are synthetic: parametric drawings. What is found on them tests the tool, not the hypothesis; it says "
    "nothing about real faces."
)


def write_study_report(out: Path, results: StudyResults) -> Path:
    """Draw the figures and write ``out/report.html``."""
    return write_page(
        out / "report.html",
        TEMPLATE,
        title="Study",
        question=remedies_report.QUESTION if results.remedies else QUESTION,
        headline=_headline(results),
        cautions=list(_cautions(results)),
        synthetic=SYNTHETIC if results.data.synthetic else "",
        units=_units(results),
        contrasts=_contrasts(results),
        controls=_controls(results),
        findings=[_finding(finding) for finding in results.claims],
        exploratory=_exploratory(results),
        remedy=_remedy(results),
        remedies=remedies_report.section_of(results, out),
        images=_images(write_figures(out, results), results),
        regimes=list(results.regimes),
        analyses=_analyses(results, out),
        preset=results.preset,
        budgets=_budgets(results),
        provenance=_provenance(results),
        **report_tables.tables_of(results),
    )


def _images(drawn: dict[str, Path], results: StudyResults) -> dict[str, EmbeddedImage | None]:
    images = {
        name: embedded(drawn[name], caption.split(".")[0], caption)
        for name, caption in CAPTIONS.items()
        if name in drawn
    } | remedies_report.captioned(drawn)
    for label, regime in results.regimes.items():
        if (name := f"regime-{label}") in drawn:
            caption = f"{regime.summary}. Training loss, accuracy while training and ROC, one colour for each seed."
            images[name] = embedded(drawn[name], f"Curves of {label}", caption)
    return images


def _headline(results: StudyResults) -> dict[str, str] | None:
    """The main contrast and the best regime, in words; None without test pairs."""
    compared = results.verified(apart=False)
    if not compared or results.data.pairs is None:
        return None
    best = max(compared, key=lambda label: compared[label].accuracy.value)
    main = next((contrast for contrast in results.contrasts if (contrast.a, contrast.b) == MAIN), None)
    accuracy, interval = with_interval(compared[best].accuracy).split("\n")
    return {
        "sentence": main.sentence if main else "highlow144 and lowres144 are not both in this study.",
        "advice": main.advice if main else "", "best": best, "accuracy": accuracy, "interval": interval,
        "guessing": percent(results.data.pairs.guessing, 0),
    }  # fmt: skip


def _cautions(results: StudyResults) -> Iterator[str]:
    if results.data.synthetic:
        yield SYNTHETIC
    if len(results.seeds) < FEWEST_SEEDS:
        yield (
            f"{counted(len(results.seeds), 'seed')}: these checkpoints can be compared, the regimes cannot. "
            f"Intervals cover the choice of test faces alone; a difference between regimes can be called significant "
            f"with {FEWEST_SEEDS} seeds or more."
        )
    early = [label for label, regime in results.regimes.items() if regime.plateau in ("not reached", "not watched")]
    if early:
        yield (
            f"{', '.join(early)}: training ended before its accuracy stopped rising, or without watching for that; "
            "more steps may make them better than they look here."
        )
    for label, regime in results.regimes.items():
        if regime.data_note:
            yield f"{label}: {regime.data_note}."
    if results.data.pairs:
        yield from results.data.pairs.notes
        verified = results.verified()
        warnings = next((result.warnings for result in verified.values()), [])
        if warnings:
            yield "; ".join(warnings) + "."
        perfect = [label for label, result in verified.items() if min(result.accuracy.by_seed.values()) == 1]
        if perfect:
            yield f"{', '.join(perfect)}: {NO_ERRORS}."


def _units(results: StudyResults) -> str:
    by_pair = results.data.pairs is not None and results.data.pairs.level == "pair"
    return "pairs (their people are not known, so it is too narrow)" if by_pair else "test people"


def _contrasts(results: StudyResults) -> list[dict[str, str]]:
    """The five fixed contrasts in words; a title alone where one is missing; none where nothing was compared."""
    if not results.contrasts:
        return []
    fixed = {(contrast.a, contrast.b): contrast for contrast in results.contrasts if contrast.fixed}
    return [_contrast(f"{a} against {b}", fixed.get((a, b))) for a, b in FIXED_CONTRASTS]


def _contrast(title: str, contrast: ContrastResult | None) -> dict[str, str]:
    if contrast is None:
        return {"title": title, "sentence": ""}
    return {
        "title": title, "sentence": contrast.sentence, "advice": contrast.advice, "budgets": contrast.budgets,
        "p": f"p = {contrast.p:.2g}, Holm-corrected {contrast.p_holm:.2g}.",
        "mcnemar": ", ".join(
            f"seed {seed}: {test.only_a} against {test.only_b} (p = {test.p:.2g})"
            for seed, test in contrast.mcnemar.items()
        ),
    }  # fmt: skip


def _controls(results: StudyResults) -> list[str]:
    """A sentence for each regime and its control, where both are in the study."""
    of = {frozenset((regime.control_of, label)) for label, regime in results.regimes.items() if regime.control_of}
    found = [contrast for contrast in results.contrasts if frozenset((contrast.a, contrast.b)) in of]
    return [f"{contrast.sentence} {contrast.budgets}".strip() for contrast in found]


def _finding(finding: StudyFinding) -> dict[str, str]:
    verdict = finding.verdict
    if verdict != finding.leaning:
        verdict += f" (fewer than {FEWEST_SEEDS} seeds; by these checkpoints: {finding.leaning})"
    rule = finding.rule[0].upper() + finding.rule[1:]
    return {"title": f"{finding.claim}: {verdict}", "why": finding.why, "rule": rule}


def _exploratory(results: StudyResults) -> dict[str, Any] | None:
    """The significant exploratory differences; None where nothing was compared."""
    if not results.contrasts:
        return None
    few = len(results.seeds) < FEWEST_SEEDS
    return {
        "table": report_tables.exploratory_differences(results),
        "number": sum(not contrast.fixed for contrast in results.contrasts),
        "scope": f" They are of these checkpoints; regimes need {FEWEST_SEEDS} seeds." if few else "",
    }


def _remedy(results: StudyResults) -> dict[str, Any] | None:
    remedy = results.remedy
    if remedy is None or not remedy.against:
        return None
    against = {other: report_tables.criteria(rows) for other, rows in remedy.against.items()}
    return {"verdict": remedy.verdict, "against": against}


def _analyses(results: StudyResults, out: Path) -> list[dict[str, Any]]:
    taken = remedies_report.taken_figures(results)
    return [
        {
            "question": answer.question,
            "lines": answer.answer.splitlines(),
            "images": [
                embedded(out / figure.file, answer.question, figure.caption)
                for figure in answer.figures
                if figure.file not in taken
            ],
        }
        for answer in results.findings
    ]


def _budgets(results: StudyResults) -> str:
    used = {regime.budget for regime in results.regimes.values()}
    return "; ".join(f"{name}: {text}" for name, text in BUDGETS.items() if name in used)


def _provenance(results: StudyResults) -> dict[str, object]:
    data = results.data
    known: dict[str, object] = {
        "data": data.path,
        "data digest": data.digest,
        "hrfr-fast": results.hrfr_fast,
        "seeds": ", ".join(map(str, results.seeds)),
    }
    for name, split in data.splits.items():
        known[name] = f"{split.pictures:,} images of {split.identities:,} people, {split.pixels} px"
    if data.pairs:
        units = "identities" if data.pairs.level == "identity" else "pairs"
        known["test pairs"] = (
            f"{data.pairs.name}: {data.pairs.pairs:,}; the bootstrap draws {data.pairs.identities:,} {units}"
        )
    settings = {name: value for name, value in results.preset.items() if name not in ("name", "summary")}
    return known | {f"preset.{name}": value for name, value in settings.items()}
