"""What one run's last checkpoint makes of the test faces: the scores that every table and curve is computed from.

Scores are kept and not rates, so that regimes can be compared pair by pair, and tables made anew without embedding
anything again.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.verification import why_too_few_pairs
from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.reader import Packed, PairSet
from hrfr_fast.runtime.files import atomic_write, write_json

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

FACES = "highres_eval"
FORMAT = 2
"""Of what is kept; files of another are made anew."""


@dataclass(frozen=True)
class RunScores:
    """Scores float64 [P] on the main test pairs by view, and identification and the probe where they were asked for.

    ``by_view``: "HR-HR", "HR-LR", "LR-LR". ``by_side``: pixels -> scores. ``probe``: view -> confidence in low
    resolution, float64 [2N], of N pictures of highres_eval as they are and then in that view. ``space``: see
    ``space.arrays_of``.
    """

    by_view: dict[str, NDArray[np.float64]]
    by_side: dict[int, NDArray[np.float64]]
    probe: dict[str, NDArray[np.float64]]
    space: dict[str, NDArray[np.float64]]
    identification: dict[str, Any] | None


def main_pairs(packed: Packed) -> PairSet | None:
    """The set regimes are compared on: the largest of the test sets that can be verified on."""
    tests = [pairs for pairs in packed.pairs.values() if pairs.kind == "test" and not why_too_few_pairs(pairs.same)]
    return max(tests, key=len, default=None)


def judge(
    run: Path, packed: Packed, compute: "Compute", *, sides: tuple[int, ...] = (), identify: bool = False,
    probe: bool = False,
) -> RunScores:  # fmt: skip
    """Embed the test faces with ``run``'s last checkpoint, unless the same was done before.

    Args:
        sides: of the resolution curve, in pixels, 0 for the faces as they are; none: no curve.
        identify: 1:N on highres_eval.
        probe: the classifier that guesses the true resolution, and the space of the embeddings.
    """
    from hrfr_fast.evaluation.evaluate import load_backbone
    from hrfr_fast.model.checkpoint import weights_path

    weights = weights_path(run)
    asked = {
        "format": FORMAT, "weights": file_digest(weights), "data": packed.digest, "sides": list(sides),
        "identify": identify, "probe": probe,
    }  # fmt: skip
    known = read_run_scores(run, asked)
    if known is not None:
        return known
    backbone, metadata = load_backbone(weights, compute)
    size = metadata["backbone"]["input_size"]
    arrays = _pair_arrays(backbone, size, packed, compute, sides)
    if probe:
        arrays |= _probe_arrays(backbone, size, packed, compute)
    names = _identify(backbone, size, packed, compute) if identify else None
    with atomic_write(run / "scores.npz") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    write_json(run / "judged.json", {"asked": asked, "identification": names})  # last: it says that scores.npz is whole
    return _judged(arrays, names)


def read_run_scores(run: Path, asked: dict[str, Any] | None = None) -> RunScores | None:
    """What ``judge`` left in ``run``; None where it did not, or where something else than ``asked`` was asked."""
    try:
        said = json.loads((run / "judged.json").read_text(encoding="utf-8"))
        with np.load(run / "scores.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    if asked is not None and said["asked"] != asked:
        return None
    return _judged(arrays, said["identification"])


def _judged(arrays: dict[str, NDArray[np.float64]], identification: dict[str, Any] | None) -> RunScores:
    groups: dict[str, dict[str, NDArray[np.float64]]] = {"view": {}, "side": {}, "probe": {}, "space": {}}
    for name, array in arrays.items():
        group, _, key = name.partition("/")
        groups[group][key] = array
    sides = {int(side): scores for side, scores in groups["side"].items()}
    return RunScores(groups["view"], sides, groups["probe"], groups["space"], identification)


def _pair_arrays(
    backbone: "nn.Module", size: int, packed: Packed, compute: "Compute", sides: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    from hrfr_fast.evaluation.resolution import cross_resolution_scores, scores_by_resolution
    from hrfr_fast.evaluation.views import HR, LR36, pair_views

    pairs = main_pairs(packed)
    if pairs is None:
        return {}
    views = pair_views(backbone, pairs, size, compute, tuple({HR, LR36, *sides}))
    arrays = {f"view/{name}": scores for name, scores in cross_resolution_scores(views).items()}
    return arrays | {f"side/{side}": scores for side, scores in scores_by_resolution(views, sides).items()}


def _probe_arrays(
    backbone: "nn.Module", size: int, packed: Packed, compute: "Compute"
) -> dict[str, NDArray[np.float64]]:
    """Linear and kNN probes, trained and tested on LR36, and tested on a degradation nobody trained on; the space."""
    from hrfr_fast.analysis.embedding_cache import HELD_OUT, shrink_lanczos
    from hrfr_fast.analysis.resolution_gap import KINDS, probe
    from hrfr_fast.evaluation.embedding import embed
    from hrfr_fast.evaluation.views import LR36
    from hrfr_fast.study.space import arrays_of

    faces = packed.splits.get(FACES)
    if faces is None or faces.size <= HELD_OUT.size or faces.identities < 2:
        return {}
    high = embed(backbone, faces, size, compute)
    low = embed(backbone, faces, size, compute, degrade=LR36)
    chunks = [np.arange(start, min(start + 512, faces.samples)) for start in range(0, faces.samples, 512)]
    unseen = [embed(backbone, shrink_lanczos(faces, chunk, HELD_OUT.size), size, compute) for chunk in chunks]
    arrays = {}
    for kind in KINDS:
        for name, tested in (("LR36", low), (HELD_OUT.name, np.concatenate(unseen))):
            found = probe(high, low, faces.labels, kind=kind, tested_lr=tested, resamples=0)
            arrays[f"probe/{kind} {name}"] = found.scores
    space = arrays_of(high, low, faces.labels, compute.device)
    return arrays | {f"space/{name}": values for name, values in space.items()}


def _identify(backbone: "nn.Module", size: int, packed: Packed, compute: "Compute") -> dict[str, Any] | None:
    from hrfr_fast.evaluation.gallery import identify_split
    from hrfr_fast.evaluation.views import LR36

    faces = packed.splits.get(FACES)
    if faces is None or faces.size <= LR36 or faces.identities < 2 or faces.samples == faces.identities:
        return None
    return identify_split(backbone, faces, size, compute)
