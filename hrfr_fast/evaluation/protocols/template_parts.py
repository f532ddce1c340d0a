"""Templates of a protocol: pooled from its pictures as they are embedded, and verified in pairs, millions of them."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import RESAMPLES, interval_caveats
from hrfr_fast.evaluation.pair_rates import PAIRS, RESAMPLING, PairRates, Pairs, pair_rates
from hrfr_fast.evaluation.protocols.form import Pictures, VerificationPairs
from hrfr_fast.evaluation.protocols.results import Decisions, Measure, PartResult
from hrfr_fast.evaluation.protocols.scoring_progress import scoring_progress
from hrfr_fast.evaluation.templates import TemplatePool
from hrfr_fast.evaluation.verification import FEWEST_FALSE_ACCEPTS

COMPARED_FAR = 1e-4
"""The FAR at which two models are compared pair by pair, or the next looser one that enough impostors decide."""


def pooled_templates(pictures: Pictures, batches: Iterable[tuple[int, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """The templates of ``pictures``, unit rows, float32 [T, D], by their numbers, in memory for the templates alone.

    Args:
        batches: the number of the first picture, and embeddings [n, D], of each batch.
    """
    assert pictures.templates is not None, "these pictures belong to no templates"
    media = np.arange(len(pictures)) if pictures.media is None else pictures.media
    pool = TemplatePool(pictures.templates, media, pictures.weights)
    for start, embeddings in batches:
        pool.add(start, embeddings)
    return pool.features()


def template_subjects(pictures: Pictures) -> NDArray[np.int64] | None:
    """Whom each template shows, int64 [T]; None where the pictures do not say it."""
    if pictures.subjects is None or pictures.templates is None:
        return None
    _, first = np.unique(pictures.templates, return_index=True)
    return pictures.subjects[first]


def template_pair_part(
    templates: NDArray[np.float32],
    pairs: VerificationPairs,
    subjects: NDArray[np.int64] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    show_progress: bool = True,
) -> PartResult:
    """TAR at the FARs of ``pairs``, and AUC, exactly, in memory that does not grow with all scores (``pair_rates``).

    Args:
        templates: unit rows, float32 [T, D].
        subjects: int64 [T], whom each shows; None where they are unknown.

    Raises:
        UsageError: there are no genuine or no impostor pairs, or embeddings are not finite.
        Interrupted: after Ctrl-C.
    """
    totals = {PAIRS: int((~pairs.same).sum()), RESAMPLING: resamples}
    with scoring_progress(totals, show_progress) as advance:
        rates = pair_rates(
            templates, Pairs(pairs.first, pairs.second, pairs.same), subjects,
            fars=pairs.fars, resamples=resamples, seed=seed, advance=advance,
        )  # fmt: skip
    measures = [Measure(f"TAR@FAR {far:g}", value, rates.interval(far)) for far, value in rates.tar.items()]
    measures.append(Measure("AUC", rates.auc, rates.interval("auc")))
    counts = {"pairs": len(pairs), "genuine": rates.genuine}
    warnings = list(rates.warnings)
    if subjects is not None:
        counts["people"] = rates.unit_count
    warnings += interval_caveats(counts.get("people"))
    level: Literal["identity", "pair"] = "pair" if subjects is None else "identity"
    decisions = _decisions(rates, pairs, subjects)
    return PartResult("", "verification", counts, tuple(measures), level, tuple(warnings), decisions)


def _decisions(rates: PairRates, pairs: VerificationPairs, subjects: NDArray[np.int64] | None) -> Decisions | None:
    """Whether each genuine pair is accepted at a FAR; None where too few impostors decide every one."""
    trusted = [far for far in pairs.fars if far >= COMPARED_FAR and far * rates.impostors >= FEWEST_FALSE_ACCEPTS]
    if not trusted:
        return None
    people = None
    if subjects is not None:
        ends = np.stack([subjects[pairs.first[pairs.same]], subjects[pairs.second[pairs.same]]], axis=1)
        people = np.unique(ends, return_inverse=True)[1].reshape(-1).astype(np.int32)
    far = min(trusted)
    return Decisions(rates.accepted(far), np.ones(rates.genuine, bool), people, f"TAR@FAR {far:g}")
