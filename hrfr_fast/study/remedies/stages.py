"""A study of remedies in stages, each of which knows what those before it have found.

1. The base, and what remedies start from or learn from, are trained.
2. The degradation is matched to real low resolution on the base's first seed: ``degradation.json``.
3. Other values are tried with one seed: ``trials.json``.
4. Every remedy is trained with every seed.
5. The best are chosen, and what two of them make together: ``choice.json``.
6. The best together are trained.
7. All are scored on the test faces, and on public sets where there are some. Until now nothing has looked at a test
   pair.

What a stage has found lies in its file, so the same command continues a study that was stopped, and a choice that was
made is never made again.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hrfr_fast.format.beton import file_digest
from hrfr_fast.model.checkpoint import weights_path
from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.study.candidates import TOGETHER
from hrfr_fast.study.plan import StudyPlan
from hrfr_fast.study.remedies.choice import RULE, evidence_of, now, ranking, read_choice, weights_of
from hrfr_fast.study.remedies.combine import Combination, Remedy, combine, first_that_fits
from hrfr_fast.study.remedies.development import development_sets
from hrfr_fast.study.remedies.plan import REMEDY, Entry, Stages, held_out, regime_file, write_regimes
from hrfr_fast.study.remedies.public_sets import check_public_sets, score_public_sets
from hrfr_fast.study.remedies.results import Choice

DEGRADATION, TRIALS, CHOICE = "degradation.json", "trials.json", "choice.json"
"""Files in the study's directory."""
Execute = Callable[[StudyPlan], None]


@dataclass(frozen=True)
class Known:
    """What the files of a study of remedies say so far; None: not found yet."""

    degradation: dict[str, Any] | None
    tuned: dict[str, str] | None
    choice: Choice | None


def read_known(stages: Stages) -> Known:
    """Raises UsageError for damaged files, and for a choice on other data."""
    choice = read_choice(stages.out / CHOICE)
    if choice and choice.data_digest != stages.packed.digest:
        raise UsageError(
            f"{stages.out / CHOICE} was chosen on other data; choose another --out, or remove it to choose anew"
        )
    degradation = {} if not stages.matches else _read(stages.out / DEGRADATION, "settings")
    return Known(degradation, _read(stages.out / TRIALS, "chosen"), choice)


def _read(path: Path, key: str) -> Any:
    if not path.exists():
        return None
    try:
        return parsed_json(path.read_bytes())[key]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged ({error!r}); remove it, and it is made anew") from None


def known_plan(stages: Stages) -> StudyPlan:
    """The runs that are known to come, for a dry run: of the best together, once they are chosen."""
    known = read_known(stages)
    degradation, tuned = known.degradation or {}, known.tuned or {}
    plan = stages.judged(degradation, tuned, _together(stages, degradation, tuned, known.choice))
    trials = stages.trials(degradation) if known.tuned is None else None
    if trials is None:
        return plan
    labels = set(plan.labels)
    # After the base, by which a dry run estimates the time: files of the regimes that are tried are not there yet.
    return replace(plan, runs=(*plan.runs, *(run for run in trials.runs if run.label not in labels)))


def run_stages(stages: Stages, execute: Execute) -> StudyPlan:
    """Run, or continue, all stages; returns the plan of all that is judged, scored on the test faces.

    Args:
        execute: trains and scores the runs of a plan.

    Raises:
        UsageError: no development pairs, a public set that is not there, or a choice whose runs have changed since.
    """
    development_sets(stages.packed)
    check_public_sets(stages.remedies.public)
    known = read_known(stages)

    def stage(plan: StudyPlan, text: str) -> None:
        console.print(f"[bold]{text}[/]", markup=True)
        write_regimes(plan)
        execute(plan)

    base = stages.base()
    stage(base, "remedies: the base, and what remedies start from")
    if known.degradation is None:
        degradation = match_to_native(stages, base)
    else:
        degradation = known.degradation
        warn_of_another_base(stages, base)
    tuned = dict(known.tuned or {})
    untried = tuple(one.name for one in stages.candidates if one.trials and one.name not in tuned)
    if untried and (known.tuned is None or known.choice is None):
        part = replace(stages, wanted=untried)
        if (trials := part.trials(degradation)) is not None:
            stage(trials, "remedies: other values, with one seed")
            tuned |= _tune(part, trials)
    plan = stages.judged(degradation, tuned)
    stage(plan, "remedies: every remedy, every seed")
    choice = _choose(stages, plan, degradation, tuned, known.choice)
    plan = stages.judged(degradation, tuned, _together(stages, degradation, tuned, choice))
    stage(plan, "remedies: the best together")
    shown = (stages.remedies.base, *choice.ranking[: stages.remedies.shown], *([TOGETHER] if choice.together else []))
    plan = replace(plan, tests=True, shown=shown)
    stage(plan, f"remedies: the choice is written ({stages.out / CHOICE}); now the test faces")
    judged = [label for label in plan.labels if label == stages.remedies.base or plan.of(label)[0].stage == REMEDY]
    score_public_sets(plan, judged, stages.remedies.public)
    return plan


def match_to_native(stages: Stages, base: StudyPlan) -> dict[str, Any]:
    """The settings of the degradation that development faces say is nearest to real low resolution."""
    from hrfr_fast.analysis.degradation_match import match_degradation

    run = base.of(stages.remedies.base)[0].directory
    console.print("[bold]remedies: matching the degradation to real low resolution[/]", markup=True)
    found = match_degradation(stages.packed.path, run, device=stages.device)
    settings = held_out(dict(found.settings))
    evidence = {
        half: {name: {"auc": auc.mean, "standard_error": auc.error} for name, auc in values.items()}
        for half, values in (("searched", found.searched), ("held_out", found.held_out))
    }
    weights = file_digest(weights_path(run))
    write_json(
        stages.out / DEGRADATION, {"settings": settings, "time": now(), "weights": weights, "evidence": evidence}
    )
    return settings


def warn_of_another_base(stages: Stages, base: StudyPlan) -> None:
    """Say so where the degradation was matched on other weights of the base than there are now.

    It stays what remedies are trained with: runs that have it may be there already.
    """
    path, run = stages.out / DEGRADATION, base.of(stages.remedies.base)[0]
    if not stages.matches or not path.exists():
        return
    if _read(path, "weights") != file_digest(weights_path(run.directory)):
        console.print(
            f"warning: {path} was matched on other weights of {run} than {run.directory} has now, so its evidence is"
            " of a network that is gone. It is used as it is; to match anew, remove it with the runs and regimes that"
            " were trained with it, or choose another --out",
            markup=False, highlight=False,
        )  # fmt: skip


def _tune(stages: Stages, trials: StudyPlan) -> dict[str, str]:
    """The best variant of each candidate, all with trials, written with its evidence beside what is known of others."""
    path = stages.out / TRIALS
    chosen: dict[str, str] = _read(path, "chosen") or {}
    evidence: dict[str, Any] = _read(path, "evidence") or {}
    for candidate in stages.candidates:
        labels = [label for label, _ in candidate.variants()]
        found = evidence_of(trials, stages.remedies.base, labels)
        evidence[candidate.name] = [asdict(one) for one in found]
        chosen[candidate.name] = next(iter(ranking(found)), candidate.name)
    write_json(path, {"chosen": chosen, "time": now(), "evidence": evidence})
    return chosen


def _choose(
    stages: Stages, plan: StudyPlan, degradation: Mapping[str, Any], tuned: Mapping[str, str], known: Choice | None
) -> Choice:
    weights = weights_of(plan)
    if known is not None:
        changed = [name for name, digest in weights.items() if known.weights.get(name, digest) != digest]
        if changed:
            raise UsageError(
                f"{stages.out / CHOICE} rests on another run of {changed[0]} than there is now; remove that file and"
                f" {stages.out / 'runs'}, or choose another --out"
            )
        if not set(weights) <= set(known.weights):
            console.print("remedies or seeds were added after the choice: it stays as it was made", highlight=False)
        return known
    labels = [run.label for run in plan.runs if run.seed == plan.seeds[0] and run.stage == REMEDY]
    evidence = evidence_of(plan, stages.remedies.base, labels)
    ranked = ranking(evidence)
    together, refused = _best(stages, ranked, degradation, tuned)
    choice = Choice(
        rule=RULE, time=now(), data_digest=stages.packed.digest,
        base=stages.remedies.base, seeds=list(plan.seeds), weights=weights, evidence=evidence, ranking=ranked,
        together=list(together.parts) if together else [], refused=refused,
    )  # fmt: skip
    choice.save(stages.out / CHOICE)
    return choice


def _best(
    stages: Stages, ranked: list[str], degradation: Mapping[str, Any], tuned: Mapping[str, str]
) -> tuple[Combination | None, list[str]]:
    if stages.remedies.best < 2:
        return None, ["the preset puts none together"]
    remedies = _remedies(stages, degradation, tuned)
    able = [remedies[label] for label in ranked if label in remedies]
    return first_that_fits(regime_named(stages.remedies.base), able, stages.remedies.best)


def _remedies(stages: Stages, degradation: Mapping[str, Any], tuned: Mapping[str, str]) -> dict[str, Remedy]:
    """By label, those that may be put together."""
    found = {}
    for candidate in stages.candidates:
        label, regime = stages.variant(candidate, tuned)
        if candidate.combines:
            found[label] = Remedy(label, regime, stages.settings_of(candidate, regime, degradation))
    return found


def _together(
    stages: Stages, degradation: Mapping[str, Any], tuned: Mapping[str, str], choice: Choice | None
) -> list[Entry]:
    """The row of the best together, where some were chosen and are still compared."""
    remedies = _remedies(stages, degradation, tuned)
    if not choice or not choice.together or not set(choice.together) <= set(remedies):
        return []
    found = combine(regime_named(stages.remedies.base), [remedies[label] for label in choice.together])
    if found.regime is None:
        raise UsageError(f"{stages.out / CHOICE}: {found.why_not}; choose another --out")
    path = regime_file(stages.out, found.regime)
    return [Entry(TOGETHER, str(path), found.regime, REMEDY, found.settings)]
