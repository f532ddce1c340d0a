"""Scores of one run's last checkpoint on development faces: all that a choice among remedies may rest on.

Development faces are of people taken out of the training splits (``pack --dev-identities``): real low-resolution faces
as they are, and high-resolution ones, which are also shown degraded.
"""

import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.verification import why_too_few_pairs
from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.names import DEVELOPMENT
from hrfr_fast.format.reader import Packed, PairSet
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import atomic_write, write_json
from hrfr_fast.runtime.untrusted import parsed_json

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

FORMAT = 2
ARRAYS, FACTS = "development.npz", "development.json"
NATIVE = "native"
"""Key of the scores of the real low-resolution pairs, both faces as they are."""
HR_HR = "HR-HR"
WRONG = ", wrong flag"
"""Ends the keys of scores with BatchNorm's statistics of the other resolution, of a network that has two."""


@dataclass(frozen=True)
class DevelopmentScores:
    """Scores of one run on development faces.

    ``by_view``: cosines float64 [P] of the high-resolution pairs, "HR-HR" and "HR-LR", and of the low-resolution ones,
    NATIVE; with WRONG at the end where the network has statistics by resolution. ``probe``: "<kind> <view>" ->
    confidence in low resolution, float64 [2N], of N distinct high-resolution images as they are and then in that view.
    ``images_per_second``: embedded, each face and its mirror image.
    """

    by_view: dict[str, NDArray[np.float64]]
    probe: dict[str, NDArray[np.float64]]
    effective_rank: float
    images_per_second: float


@dataclass(frozen=True)
class DevelopmentSets:
    """Development pairs of high and of low resolution."""

    high: PairSet
    low: PairSet

    def people(self) -> NDArray[np.int64]:
        """Identity of each distinct high-resolution image, int64 [N]."""
        from hrfr_fast.evaluation.embedding import distinct_pictures

        assert self.high.identities is not None
        return self.high.identities[distinct_pictures(self.high.split)[0]].astype(np.int64)


def development_sets(packed: Packed) -> DevelopmentSets:
    """The development pairs that remedies are chosen on. Raises UsageError where ``packed`` lacks any."""
    found = []
    for split in ("highres", "lowres"):
        pairs = packed.pairs.get(DEVELOPMENT + split)
        if pairs is None or pairs.identities is None:
            raise UsageError(
                f"{packed.path} has no development pairs of {split}, and remedies are chosen on nothing else; pack"
                " with --dev-identities"
            )
        if reason := why_too_few_pairs(pairs.same):
            raise UsageError(f"{packed.path}: {pairs.name} has {reason}; pack with more --dev-identities")
        found.append(pairs)
    return DevelopmentSets(*found)


def score_development(run: Path, packed: Packed, compute: "Compute") -> DevelopmentScores:
    """Embed the development faces with ``run``'s last checkpoint, unless the same was done before.

    Raises:
        UsageError: see ``development_sets``.
    """
    from hrfr_fast.evaluation.evaluate import load_backbone
    from hrfr_fast.model.checkpoint import weights_path

    weights = weights_path(run)
    known = read_development(run, _asked(weights, packed))
    if known is not None:
        return known
    backbone, metadata = load_backbone(weights, compute)
    scores = _score(backbone, metadata["backbone"]["input_size"], development_sets(packed), compute)
    arrays = {f"view/{name}": values for name, values in scores.by_view.items()}
    arrays |= {f"probe/{name}": values for name, values in scores.probe.items()}
    with atomic_write(run / ARRAYS) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    facts = {"effective_rank": scores.effective_rank, "images_per_second": scores.images_per_second}
    # Written last: it says that the arrays are complete.
    write_json(run / FACTS, {"asked": _asked(weights, packed), **facts})
    return scores


def is_scored_on_development(run: Path, packed: Packed) -> bool:
    """Whether ``score_development`` would find its work done."""
    from hrfr_fast.model.checkpoint import weights_path

    return read_development(run, _asked(weights_path(run), packed)) is not None


def read_development(run: Path, asked: dict[str, Any] | None = None) -> DevelopmentScores | None:
    """The scores that ``score_development`` left in ``run``; None without any, or for another ``asked``."""
    try:
        facts = parsed_json((run / FACTS).read_bytes())
        with np.load(run / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if asked is not None and facts["asked"] != asked:
            return None
        groups: dict[str, dict[str, NDArray[np.float64]]] = {"view": {}, "probe": {}}
        for name, array in arrays.items():
            group, _, key = name.partition("/")
            groups[group][key] = array
        return DevelopmentScores(
            groups["view"], groups["probe"], float(facts["effective_rank"]), float(facts["images_per_second"])
        )
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _asked(weights: Path, packed: Packed) -> dict[str, Any]:
    return {"format": FORMAT, "weights": file_digest(weights), "data": packed.digest}


def _score(backbone: "nn.Module", size: int, sets: DevelopmentSets, compute: "Compute") -> DevelopmentScores:
    from hrfr_fast.analysis.embedding_cache import HELD_OUT, HELD_OUT_VIEWS, shrink_lanczos
    from hrfr_fast.analysis.resolution_gap import KINDS, probe
    from hrfr_fast.analysis.uniformity import effective_rank
    from hrfr_fast.evaluation.embedding import embed, pair_scores
    from hrfr_fast.evaluation.resolution import cross_resolution_scores
    from hrfr_fast.evaluation.views import HR, LR36, pair_views
    from hrfr_fast.model.domain_norm import domains_of

    views = pair_views(backbone, sets.high, size, compute, (HR, LR36))
    high, low = views.embeddings[HR], views.embeddings[LR36]
    # pair_views keeps the rows of distinct pictures, in the order of DevelopmentSets.people.
    records, _ = _distinct(sets.high)
    began = time.perf_counter()
    embed(backbone, sets.high.split, size, compute, records=records)
    rate = len(records) / (time.perf_counter() - began)
    probed, people = {}, sets.people()
    chunks = [records[start : start + 512] for start in range(0, len(records), 512)]
    for view in HELD_OUT_VIEWS if sets.high.split.size > HELD_OUT.size else ():
        shrunk = [shrink_lanczos(sets.high.split, chunk, view.size) for chunk in chunks]
        unseen = np.concatenate([embed(backbone, split, size, compute) for split in shrunk])
        for kind in KINDS:
            found = probe(high, low, people, kind=kind, tested_lr=unseen, resamples=0)
            probed[f"{kind} {view.name}"] = found.scores
    by_view = cross_resolution_scores(views) | {NATIVE: pair_scores(backbone, sets.low, size, compute)}
    if domains_of(backbone) is not None:
        for name, pairs in ((HR_HR, sets.high), (NATIVE, sets.low)):
            by_view[name + WRONG] = pair_scores(backbone, pairs, size, compute, swap_domain=True)
    return DevelopmentScores(by_view, probed, effective_rank(high), rate)


def _distinct(pairs: PairSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from hrfr_fast.evaluation.embedding import distinct_pictures

    return distinct_pictures(pairs.split)
