"""Public sets of real low-resolution faces that a study of remedies judges beside its own test faces.

They are read in the layouts of ``evaluation/protocols``, and embedded once, after the choice: nothing is chosen on
them, and they are no part of the criterion. Decisions are kept and not rates, so that remedies are compared person by
person.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.compare import resample_outcomes
from hrfr_fast.evaluation.protocols import protocol_at
from hrfr_fast.evaluation.protocols.results import Decisions, ProtocolResult
from hrfr_fast.format.beton import file_digest
from hrfr_fast.model.checkpoint import weights_path
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.files import atomic_write, write_json
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.study.candidates import PublicSet
from hrfr_fast.study.plan import StudyPlan, StudyRun
from hrfr_fast.study.remedies.results import PublicResult
from hrfr_fast.study.summary import summarize

FORMAT = 1
ARRAYS, FACTS = "public.npz", "public.json"
Found = dict[str, Decisions]
"""Name of a part, as "scface 4.20 m, rank-1" -> decisions."""


def check_public_sets(sets: Sequence[PublicSet]) -> None:
    """Read the lists of all ``sets``, before anything is trained. Raises UsageError for what is not there or wrong."""
    for one in sets:
        place, pictures = Path(one.place), Path(one.pictures) if one.pictures else None
        protocol_at(one.protocol or None, place).read(place, pictures)


def score_public_sets(plan: StudyPlan, labels: Sequence[str], sets: Sequence[PublicSet]) -> None:
    """Judge the last checkpoint of every run of ``labels``, unless the same was done before."""
    from hrfr_fast.evaluation.protocols.evaluate import evaluate_protocol

    for run in (run for label in labels for run in plan.of(label)) if sets else ():
        if read_decisions(run.directory, _asked(run, sets)) is not None:
            continue
        console.print(f"public sets: {run}", highlight=False)
        found: Found = {}
        for one in sets:
            result = evaluate_protocol(
                run.directory, one.place, protocol=one.protocol or None, pictures=one.pictures or None,
                device=plan.device, resamples=0, show_progress=False,
            )  # fmt: skip
            found |= _decisions(result, one, found)
        _save(run, found, sets)


def _decisions(result: ProtocolResult, one: PublicSet, known: Mapping[str, Decisions]) -> Found:
    """The parts of ``result`` that hold decisions; a name that is ``known`` gets the place behind it."""
    parts = [(name, part) for name, found in result.sets.items() for part in found.parts if part.decisions]
    found = {}
    for name, part in parts:
        assert part.decisions is not None
        title = f"{name} {part.part}".strip() + f", {part.decisions.measure}"
        found[f"{title} ({one.place})" if title in known else title] = part.decisions
    return found


def _asked(run: StudyRun, sets: Sequence[PublicSet]) -> dict[str, Any]:
    weights = file_digest(weights_path(run.directory))
    return {"format": FORMAT, "weights": weights, "sets": [one.model_dump() for one in sets]}


def _save(run: StudyRun, found: Found, sets: Sequence[PublicSet]) -> None:
    arrays: dict[str, Any] = {}
    for number, decisions in enumerate(found.values()):
        arrays |= {f"correct/{number}": decisions.correct, f"same/{number}": decisions.same}
        if decisions.identities is not None:
            arrays[f"identities/{number}"] = decisions.identities
    with atomic_write(run.directory / ARRAYS) as file:
        np.savez(file, **arrays)
    measures = {name: decisions.measure for name, decisions in found.items()}
    # Written last: it says that the arrays are complete.
    write_json(run.directory / FACTS, {"asked": _asked(run, sets), "measures": measures})


def read_decisions(run: Path, asked: Mapping[str, Any]) -> Found | None:
    """What ``score_public_sets`` left in ``run``; None without any, or for another ``asked``."""
    try:
        facts = parsed_json((run / FACTS).read_bytes())
        if facts["asked"] != asked:
            return None
        with np.load(run / ARRAYS, allow_pickle=False) as file:
            return {
                name: Decisions(
                    file[f"correct/{number}"], file[f"same/{number}"],
                    file.get(f"identities/{number}"), measure,
                )
                for number, (name, measure) in enumerate(facts["measures"].items())
            }  # fmt: skip
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None


@dataclass(frozen=True)
class _Part:
    """One part, judged by all runs: label -> seed -> right or wrong decisions, and what they are about."""

    correct: dict[str, dict[int, NDArray[np.bool_]]]
    decisions: Decisions


def public_results(plan: StudyPlan, labels: Sequence[str], base: str, sets: Sequence[PublicSet]) -> list[PublicResult]:
    """Every part of ``sets``: shares of right decisions of ``labels``, and their paired differences from ``base``."""
    parts: dict[str, _Part] = {}
    for label in labels if sets else ():
        for run in plan.of(label):
            found = read_decisions(run.directory, _asked(run, sets))
            if found is None:
                raise HrfrError(f"{run.directory} is not scored on the public sets; {plan.out} was changed meanwhile")
            for name, decisions in found.items():
                part = parts.setdefault(name, _Part({}, decisions))
                part.correct.setdefault(label, {})[run.seed] = decisions.correct
    return [_result(name, part, base) for name, part in parts.items()]


def _result(name: str, part: _Part, base: str) -> PublicResult:
    same, people = part.decisions.same, part.decisions.identities
    units = len(same) if people is None else len(np.unique(people))
    estimates = {label: one.accuracy for label, one in resample_outcomes(part.correct, same, people).items()}
    return PublicResult(
        name=name,
        decisions=len(same),
        units=units,
        level="pair" if people is None else "identity",
        values={label: summarize(estimate, units) for label, estimate in estimates.items()},
        changes={
            label: summarize(estimate.minus(estimates[base]), units, rate=False)
            for label, estimate in estimates.items()
            if label != base
        },
    )
