"""The analysis of runs: every question that applies, one after the other, each with its finding on disk."""

import traceback
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hrfr_fast.analysis.embedding_cache import EmbeddingCache, why_no_faces
from hrfr_fast.analysis.finding import Finding
from hrfr_fast.analysis.models import Model, model_names, read_model
from hrfr_fast.format.reader import Packed, open_packed
from hrfr_fast.model.lineage import data_note, find_data, holds_training_data
from hrfr_fast.runtime.errors import CannotWrite, HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.files import write_bytes, write_json, writing
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.progress import console, progress_bar
from hrfr_fast.runtime.signals import StopFlag

if TYPE_CHECKING:
    from hrfr_fast.runtime.device import Compute

QUESTIONS = ("resolution_gap", "distances", "alignment", "sphere", "kernels", "drift", "failures")
"""Modules of this package, each with KEY, QUESTION and ``analyse(cache, out) -> Finding``."""


class IncompleteAnalysis(HrfrError):
    """Some questions could not be answered. ``findings`` are those of the others; they are on disk too."""

    def __init__(self, message: str, findings: list[Finding]) -> None:
        super().__init__(message)
        self.findings = findings


@dataclass(frozen=True)
class _Failure:
    question: str
    reason: str


def analyze(
    runs: list[str | Path],
    out: str | Path,
    *,
    packed: str | Path | None = None,
    device: str = "auto",
    questions: list[str] | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> list[Finding]:
    """Answer the questions and write ``<key>.json``, figures (PNG) and ``index.json`` to ``out``.

    Args:
        runs: run directories or checkpoints; they go by their directories' names. Where two models are compared, the
            first is compared with each of the others.
        packed: the packed data whose highres_eval faces and pairs are used; None: the runs' own. Where a run was
            trained on other data, every answer says so.
        questions: of QUESTIONS; None: all that apply. One that is asked for and does not apply is an error.
        seed: of folds, halves, drawn pairs and resamples.

    Returns:
        A Finding for each question that was answered: the answer in words, its numbers and figures.

    Raises:
        UsageError: no such run, question or data; runs of different data without ``packed``.
        IncompleteAnalysis: after everything else was answered and written: which questions were not, and why.
        Interrupted: Ctrl-C or SIGTERM; what was answered is on disk.
        CannotWrite: a full disk; what was answered is kept.
    """
    from hrfr_fast.runtime.device import choose_compute

    _chosen(questions)
    models = [read_model(run, name) for run, name in zip(runs, model_names(runs), strict=True)]
    if not models:
        raise UsageError("no run was given to analyse")
    data = open_packed(packed) if packed else _data_of(models)
    out = Path(out)
    with directory_lock(out), writing(out, lambda: f"What was answered so far is in {out}; run the same command again"):
        return _analyze(models, data, out, choose_compute(device), questions, seed, show_progress)


def _analyze(
    models: list[Model],
    packed: Packed,
    out: Path,
    compute: "Compute",
    questions: list[str] | None,
    seed: int,
    show_progress: bool,
) -> list[Finding]:
    """Answer the questions one after the other, with the directory locked."""
    chosen = _chosen(questions)
    with progress_bar(show_progress) as bar, StopFlag() as stop:
        pictures = bar.add_task("embedding pictures", total=None, note="")
        answered = bar.add_task("questions", total=len(chosen), note="")

        def advance(count: int) -> None:
            bar.advance(pictures, count)
            _raise_if_stopped(stop, out)

        cache = EmbeddingCache(models, packed, compute, seed=seed, advance=advance)
        findings: list[Finding] = []
        failures: list[_Failure] = []
        left_out: dict[str, str] = {}
        for name in chosen:
            _raise_if_stopped(stop, out)
            bar.update(answered, note=name)
            reason = why_not_applicable(name, models, packed)
            if reason and questions is None:
                left_out[name] = reason
            else:
                _answer(name, reason, cache, out, findings, failures)
            bar.advance(answered)
    for name, reason in left_out.items():
        console.print(f"left out: {name}: {reason}", markup=False, highlight=False)
    _write_index(out, cache, findings, failures, left_out)
    if failures:
        raise _incomplete(failures, findings, len(chosen), out)
    return findings


def _incomplete(failures: list[_Failure], findings: list[Finding], asked: int, out: Path) -> IncompleteAnalysis:
    lines = [f"  {failure.question}: {failure.reason}" for failure in failures]
    heading = f"{len(failures)} of {asked} questions could not be answered ({len(findings)} are in {out}):"
    return IncompleteAnalysis("\n".join([heading, *lines]), findings)


def why_not_applicable(question: str, models: list[Model], packed: Packed) -> str | None:
    """Why a question does not apply to these models and data; None where it does."""
    if question not in ("kernels", "failures") and (reason := why_no_faces(packed)):
        return reason
    if question == "drift" and len(models) < 2:
        return "it compares two models; give two runs"
    if question == "failures" and not packed.pairs:
        return f"{packed.path} holds no pairs"
    return None


def _answer(
    name: str, reason: str | None, cache: EmbeddingCache, out: Path, findings: list[Finding], failures: list[_Failure]
) -> None:
    """Answer one question and save the finding; an error is recorded and does not stop the other questions."""
    log = out / f"{name}.error.txt"
    (out / f"{name}.json").unlink(missing_ok=True)  # an older answer, should this question fail now
    try:
        if reason:
            raise UsageError(reason)
        finding = _with_notes(_module(name).analyse(cache, out), cache)
        finding.save(out)
    except (Interrupted, CannotWrite):
        raise
    except HrfrError as error:
        failures.append(_Failure(name, str(error)))
    except Exception as error:  # a bug in one question must not cost the others' answers
        write_bytes(log, traceback.format_exc().encode(errors="backslashreplace"))
        failures.append(_Failure(name, f"a fault in hrfr-fast ({type(error).__name__}: {error}); details in {log}"))
    else:
        findings.append(finding)
        log.unlink(missing_ok=True)


def _with_notes(finding: Finding, cache: EmbeddingCache) -> Finding:
    """``finding`` with a line for each model that was trained on other data than the faces it is asked about."""
    notes = [(model.label, data_note(model.metadata, cache.packed)) for model in cache.models]
    lines = [finding.answer, *(f"Note on {label}: {note}." for label, note in notes if note)]
    return replace(finding, answer="\n".join(lines))


def _module(name: str) -> ModuleType:
    return import_module(f"hrfr_fast.analysis.{name}")


def _chosen(questions: list[str] | None) -> list[str]:
    for name in questions or []:
        if name not in QUESTIONS:
            raise UsageError(f"no question is called {name!r}; there are {', '.join(QUESTIONS)}")
    return [name for name in QUESTIONS if questions is None or name in questions]


def _data_of(models: list[Model]) -> Packed:
    """The packed data all models were trained on."""
    packed = open_packed(find_data(models[0].metadata, models[0].weights, "--data"))
    if len(models) > 1 and not all(holds_training_data(model.metadata, packed.manifest) for model in models):
        raise UsageError("the runs were trained on different data; say with --data whose faces to use")
    return packed


def _raise_if_stopped(stop: StopFlag, out: Path) -> None:
    if stop.signal_number is not None:
        raise Interrupted(f"stopped; what was answered so far is in {out}", stop.signal_number)


def _write_index(
    out: Path, cache: EmbeddingCache, findings: list[Finding], failures: list[_Failure], left_out: dict[str, str]
) -> None:
    content: dict[str, Any] = {
        "data": {"path": str(cache.packed.path), "digest": cache.packed.digest},
        "seed": cache.seed,
        "models": [
            {"name": m.name, "weights": str(m.weights), "regime": m.metadata.get("regime"), "input_size": m.input_size}
            for m in cache.models
        ],
        "findings": [{"key": f.key, "question": f.question, "answer": f.answer, "file": f"{f.key}.json"}
                     for f in findings],
        "left_out": left_out,
        "failed": {failure.question: failure.reason for failure in failures},
    }  # fmt: skip
    write_json(out / "index.json", content)
